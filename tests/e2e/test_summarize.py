"""`sumpipe summarize` in a pipe: order, bytes, memory, and how it ends."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from stages.fetch.config import ScratchModel
from stages.fetch.scratch import new_model, train_bpe
from tests.launching import environment

pytestmark = pytest.mark.e2e

DOCUMENTS = 94
MIB = 1 << 20
WORDS = [
    "the",
    "of",
    "a",
    "city",
    "council",
    "voted",
    "bridge",
    "monday",
    "river",
    "report",
    "game",
    "team",
    "said",
    "new",
    "year",
    "police",
]
SHORT = ("--num-beams", "2", "--max-length", "8")


def documents(count: int) -> Iterator[str]:
    """Texts of 1 to 80 words."""
    choose = random.Random(1)
    for _ in range(count):
        yield " ".join(choose.choices(WORDS, k=choose.randint(1, 80)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(documents(200), 500, model)
    settings = ScratchModel(
        source="scratch", d_model=32, layers=2, heads=2, ffn=64, max_positions=256, init_std=0.3
    )
    new_model(settings, len(tokenizer), seed=1).save_pretrained(model)
    return model


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """94 documents as JSONL: the test split of CNN/DailyMail if there is one, else made-up ones."""
    root = os.environ.get("SUMPIPE_TEST_DATA")
    if root is not None:
        return Path(root) / "cnndm" / "test.jsonl"
    path = tmp_path_factory.mktemp("rows") / "test.jsonl"
    lines = [
        json.dumps({"id": f"row-{n}", "article": d}) for n, d in enumerate(documents(DOCUMENTS))
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@contextlib.contextmanager
def summarizing(
    folder: Path, *arguments: str | Path, texts: Iterable[str] = (), ends: bool = True
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """Start it, feed it a text a line while it lasts, and give it with its stdout and stderr.

    Its input stays open after the last text unless it `ends`.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "summarize", folder, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=environment(),
    )
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None and stdout is not None and stderr is not None

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, as it may
            for text in texts:
                stdin.write(f"{text}\n".encode())
            if ends:
                stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield process, stdout, stderr
    finally:
        process.kill()
        feeder.join()
        with process:
            pass


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not alive


def test_94_documents_by_pipe_are_those_of_two_processes(folder: Path, rows: Path) -> None:
    lines = rows.read_text(encoding="utf-8").split("\n")[:-1]
    with summarizing(folder, *SHORT, texts=lines) as (process, stdout, stderr):
        out, err = stdout.read(), stderr.read()
        assert process.wait(timeout=60) == 0, err
    found = [json.loads(line) for line in out.decode().split("\n")[:-1]]
    assert [one["id"] for one in found] == [json.loads(line)["id"] for line in lines]
    assert len(found) == DOCUMENTS and all(one["tokens"] for one in found)
    assert b"reads stdin as jsonl" in err and b"documents: 94 in " in err

    with summarizing(folder, rows, *SHORT, "--processes", "2") as (process, stdout, stderr):
        parallel, err = stdout.read(), stderr.read()
        assert process.wait(timeout=60) == 0, err
    assert parallel == out
    assert b"warning" not in err.lower()


def test_head_ends_it_at_once_and_quietly(folder: Path) -> None:
    """Its reader leaves after a line, while both workers are busy and there is more to read."""
    options = (*SHORT, "--processes", "2", "--batch-tokens", "512", "--quiet")
    texts = itertools.cycle(documents(1000))
    with summarizing(folder, *options, texts=texts) as (process, stdout, stderr):
        assert stdout.readline().endswith(b"\n")
        family = children(process)
        assert len(family) >= 2
        stdout.close()
        assert process.wait(timeout=30) == 141
        assert stderr.read() == b""
        assert gone(family)


def test_it_leaves_its_reader_while_it_waits_for_more(folder: Path) -> None:
    options = (*SHORT, "--batch-tokens", "512", "--quiet")
    texts = documents(1)
    with summarizing(folder, *options, texts=texts, ends=False) as (process, stdout, stderr):
        assert stdout.readline().endswith(b"\n")
        stdout.close()
        assert process.wait(timeout=30) == 141
        assert stderr.read() == b""


def test_interrupted_while_it_waits_for_more_it_says_so(folder: Path) -> None:
    options = (*SHORT, "--batch-tokens", "512")
    texts = documents(1)
    with summarizing(folder, *options, texts=texts, ends=False) as (process, stdout, stderr):
        assert stdout.readline().endswith(b"\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        told = stderr.read().decode()
    assert told.endswith("sumpipe: stopped by SIGINT\n") and "Traceback" not in told


def test_terminated_in_the_middle_it_leaves_no_half_file(folder: Path, tmp_path: Path) -> None:
    options = (*SHORT, "--batch-tokens", "512", "--output", tmp_path / "out.txt")
    texts = itertools.cycle(documents(1000))
    with summarizing(folder, *options, texts=texts) as (process, _, stderr):
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
        told = stderr.read().decode()
    assert told.endswith("sumpipe: stopped by SIGTERM\n") and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(folder: Path) -> None:
    """Less than 200 MiB between the hundredth and the last of 10,000 lines."""
    options = ("--num-beams", "1", "--max-length", "4", "--quiet")
    with summarizing(folder, *options, texts=documents(10_000)) as (process, stdout, stderr):
        itself = psutil.Process(process.pid)
        lines, resident = 0, []
        while chunk := stdout.read(MIB):
            lines += chunk.count(b"\n")
            if lines >= 100:
                with contextlib.suppress(psutil.NoSuchProcess):
                    resident.append(itself.memory_info().rss)
        assert process.wait(timeout=60) == 0, stderr.read()
    assert lines == 10_000
    assert len(resident) > 100  # seen all along
    assert max(resident) - resident[0] < 200 * MIB
