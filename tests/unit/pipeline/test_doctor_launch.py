"""Doctor as users start it, in one process and in several; torch and the group are real."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from pipeline.config import JSON
from tests.launching import CHECKOUT, TINY, environment, free_port

PROGRAM = """
import sys
from pipeline.cli import main
from stages.doctor import add_doctor
from stages.recipe import SummarizationRecipe
sys.argv[0] = "sumpipe"
sys.exit(main([], SummarizationRecipe, rank_module="", about="", commands=[add_doctor]))
"""
Done = subprocess.CompletedProcess[str]


def doctor(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "doctor", *map(str, arguments), "--json"]


def by_hand(
    commands: Sequence[Sequence[str]],
    size: int | None = None,
    env: Mapping[int, Mapping[str, str]] | None = None,
    address: str = "127.0.0.1",
) -> list[Done]:
    """Start one rank a command, of `size`, and wait for all; `env` adds variables by rank."""
    port, size = str(free_port()), size or len(commands)
    ranks = []
    for rank, command in enumerate(commands):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        meeting = {"MASTER_ADDR": address, "MASTER_PORT": port}
        variables = environment({**own, **meeting, **((env or {}).get(rank, {}))})
        pipe = subprocess.PIPE
        ranks.append(
            subprocess.Popen(
                command, stdout=pipe, stderr=pipe, text=True, env=variables, cwd=CHECKOUT
            )
        )
    told = [process.communicate(timeout=120) for process in ranks]
    return [
        Done(process.args, process.returncode, *streams)
        for process, streams in zip(ranks, told, strict=True)
    ]


def findings(done: Done, *levels: str) -> dict[str, str]:
    """Return the texts by check, of all or of these levels."""
    found: JSON = json.loads(done.stdout)
    wanted = levels or ("ok", "warning", "failure")
    return {item["check"]: item["text"] for item in found["findings"] if item["level"] in wanted}


@pytest.mark.distributed
def test_three_healthy_tasks(tmp_path: Path) -> None:
    three_lanes = ("--set", "finetune.batch.lanes=3")
    done = by_hand([doctor(TINY, *three_lanes, "--run-dir", tmp_path / "run")] * 3)
    assert [task.returncode for task in done] == [0, 0, 0], done
    assert [task.stdout for task in done[1:]] == ["", ""]
    assert findings(done[0], "failure") == {}
    told = findings(done[0])
    assert told["rendezvous"].startswith("3 task(s) met at 127.0.0.1 port")
    assert told["all-reduce"].startswith("3 task(s) over ")
    assert "GB/s a task" in told["all-reduce"]
    assert "same bytes, O_EXCL and rename hold over 1 host(s)" in told["shared files"]
    assert [task["rank"] for task in json.loads(done[0].stdout)["tasks"]] == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.distributed
def test_an_unreachable_master_is_named_by_all_tasks() -> None:
    brief = {"SUMPIPE_TIMEOUT_SECONDS": "2"}
    done = by_hand([doctor()] * 2, env={0: brief, 1: brief}, address="no-such-host.invalid")
    assert [task.returncode for task in done] == [1, 0]  # rank 0's report has the code
    assert list(findings(done[0], "failure")) == ["rendezvous"]
    assert "MASTER_ADDR no-such-host.invalid" in findings(done[0], "failure")["rendezvous"]
    assert "MASTER_ADDR no-such-host.invalid" in done[1].stderr
    assert "Traceback" not in done[0].stderr + done[1].stderr


@pytest.mark.slow
@pytest.mark.distributed
def test_a_task_without_torch_is_named_and_a_missing_one_too(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text('raise ImportError("libcudart.so.13: cannot open")\n')
    brief = {"SUMPIPE_TIMEOUT_SECONDS": "6"}
    without = {**brief, "PYTHONPATH": str(broken.parent)}
    done = by_hand([doctor()] * 2, env={0: brief, 1: without})
    assert [task.returncode for task in done] == [1, 0], done
    told = findings(done[0], "failure")
    assert told["torch"].startswith("rank 1: cannot be used: ImportError: libcudart.so.13")
    assert told["all-reduce"].startswith("rank 1 could not use torch: ImportError: libcudart")


@pytest.mark.slow
@pytest.mark.distributed
def test_a_task_that_never_comes_holds_nobody_up(tmp_path: Path) -> None:
    brief = {"SUMPIPE_TIMEOUT_SECONDS": "3"}
    done = by_hand([doctor("--run-dir", tmp_path)] * 2, size=3, env={0: brief, 1: brief})
    assert [task.returncode for task in done] == [1, 0], done
    assert findings(done[0], "failure") == {
        "tasks": "rank 2 did not come to the start within 3 s",
    }
    assert "same bytes" in findings(done[0])["shared files"]


READ_ONLY = 'mount --bind "$folder" "$folder" && mount -o remount,ro,bind "$folder"'
SMALL_DISK = 'mount -t tmpfs -o size=4m none "$folder"'


@pytest.mark.parametrize(
    ("mount", "text", "fix"),
    [
        (READ_ONLY, "Read-only file system", "choose a --run-dir that can be written"),
        (SMALL_DISK, "No space left on device", "the disk is full: free space"),
    ],
    ids=["read-only", "full"],
)
def test_a_run_directory_that_cannot_be_written(
    mount: str, text: str, fix: str, tmp_path: Path
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    script = f'folder="$1"; shift; {mount} || exit 99; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path)]
    command += doctor("--run-dir", tmp_path / "run")
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), cwd=CHECKOUT, check=False
    )
    if done.returncode not in (0, 1):
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    (found,) = [
        item
        for item in json.loads(done.stdout)["findings"]
        if item["check"] == "shared files" and item["level"] == "failure"
    ]
    assert done.returncode == 1
    assert text in found["text"]
    assert fix in found["fix"]


def test_a_doctor_that_is_ended_leaves_neither_processes_nor_folders(tmp_path: Path) -> None:
    """While its trial of torch runs, which it started in a session of its own."""
    command = doctor("--run-dir", tmp_path / "run")
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment(), stdout=subprocess.PIPE) as task:
        child = trial_of(task.pid)
        task.send_signal(signal.SIGTERM)
        assert task.wait(20) == 128 + signal.SIGTERM
        assert not psutil.pid_exists(child.pid)
    assert list(tmp_path.iterdir()) == []


def trial_of(pid: int) -> psutil.Process:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "pipeline.distributed.trial" in child.cmdline():
                    return child
        time.sleep(0.01)
    raise AssertionError("torch is not tried")
