"""One whole run, and what users do with it afterwards."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.launching import (
    TINY,
    copy_run,
    start,
    sumpipe,
    wait_for,
)

pytestmark = pytest.mark.e2e

STAGES = ("fetch", "clean", "encode", "finetune", "export", "generate", "score", "report")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "a run with 'quotes'"
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--processes", 2)
    assert done.returncode == 0, done.stderr
    assert "Report:" in done.stdout
    return run_dir


@pytest.fixture(scope="module")
def encoded(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it was after encode."""
    run_dir = copy_run(finished, tmp_path_factory.mktemp("encoded") / "run")
    done = sumpipe(
        "run", TINY, "--run-dir", run_dir, "--to", "encode", "--restart-from", "finetune"
    )
    assert done.returncode == 0, done.stderr
    assert not (run_dir / "finetune").exists()
    return run_dir


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_is_accounted_for(finished: Path) -> None:
    for split in ("train", "valid", "test"):
        ids = [row["id"] for row in lines(finished / "fetch" / "raw" / split / "00000.jsonl")]
        ledger = pq.read_table(finished / "clean" / "ledger" / split)
        assert ledger["id"].to_pylist() == ids
    predictions = lines(finished / "generate" / "predictions.jsonl")
    assert [prediction["id"] for prediction in predictions] == ids  # of the test split, in order
    scores = json.loads((finished / "score" / "rouge.json").read_text(encoding="utf-8"))
    assert scores["rows"] == len(ids)


def test_status_knows_every_stage(finished: Path) -> None:
    done = sumpipe("status", finished, "--json", "--deep")
    assert done.returncode == 0, done.stdout
    state = json.loads(done.stdout)
    assert [(stage["stage"], stage["state"]) for stage in state["stages"]] == [
        (stage, "done") for stage in STAGES
    ]
    assert state["holder"] is None


def test_a_second_run_does_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    started = time.monotonic()
    done = sumpipe("run", TINY, "--run-dir", finished, "--processes", 2)
    assert done.returncode == 0
    assert "Everything is done" in done.stdout
    assert time.monotonic() - started < 3
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before


def test_how_and_where_it_runs_is_no_reason_to_run_again(finished: Path, tmp_path: Path) -> None:
    moved = copy_run(finished, tmp_path / "moved")
    done = sumpipe(
        *("run", TINY, "--run-dir", moved, "--processes", 1, "--ds-config", "zero3"),
        *("--set", "finetune.checkpoint_every=7"),
        env={"SUMPIPE_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    assert "Everything is done" in done.stdout


def test_another_learning_rate_is_refused_with_both_ways_out(finished: Path) -> None:
    change = ("--set", "finetune.optimizer.lr=1e-3")
    planned = sumpipe("plan", TINY, "--run-dir", finished, "--json", *change)
    actions = {row["stage"]: row for row in json.loads(planned.stdout)}
    assert [actions[stage]["action"] for stage in STAGES] == ["SKIP"] * 3 + ["STALE"] * 5
    for stage in STAGES[3:]:
        assert "finetune.optimizer.lr 0.002 -> 0.001" in actions[stage]["why"]
    done = sumpipe("run", TINY, "--run-dir", finished, *change)
    assert done.returncode == 3
    assert "--restart-from finetune" in done.stderr
    assert "--run-dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert (finished / "finetune").is_dir()


def test_a_flipped_byte_is_found(finished: Path, tmp_path: Path) -> None:
    damaged = copy_run(finished, tmp_path / "damaged")
    weights = damaged / "export" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert sumpipe("status", damaged).returncode == 0
    done = sumpipe("status", damaged, "--deep")
    assert done.returncode == 1
    assert str(weights) in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_training_it_checkpoints_and_leaves_nobody_behind(
    number: signal.Signals, encoded: Path, tmp_path: Path
) -> None:
    run_dir = copy_run(encoded, tmp_path / "run")
    process = start(
        *("run", TINY, "--run-dir", run_dir, "--processes", 2, "--to", "finetune"),
        *("--set", "finetune.updates=2000"),
    )
    log = run_dir / "finetune.partial" / "metrics.jsonl"
    wait_for(process, lambda: log.is_file() and len(log.read_bytes().splitlines()) > 3)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # the launcher and two ranks
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert not [member for member in family if member.is_running()]
    record = json.loads((run_dir / "preempted.json").read_text(encoding="utf-8"))
    assert record["stage"] == "finetune"
    (newest,) = sorted((run_dir / "finetune.partial" / "checkpoints").glob("update_*"))[-1:]
    assert f"after update {int(newest.name[7:])}," in record["reason"]
    assert sumpipe("status", run_dir).returncode == 0


def test_a_killed_rank_is_named_and_nobody_stays_behind(encoded: Path, tmp_path: Path) -> None:
    run_dir = copy_run(encoded, tmp_path / "run")
    arguments = ("run", TINY, "--run-dir", run_dir, "--processes", 2, "--to", "finetune")
    process = start(*arguments, "--set", "finetune.updates=2000")
    log = run_dir / "finetune.partial" / "metrics.jsonl"
    wait_for(process, lambda: log.is_file() and len(log.read_bytes().splitlines()) > 3)
    family = psutil.Process(process.pid).children(recursive=True)
    pid_files = (run_dir / "logs" / "finetune").glob("*/rank0001.pid")  # of earlier launches too
    pids = {int(file.read_text(encoding="ascii")) for file in pid_files}
    (rank,) = [member for member in family if member.pid in pids]
    rank.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "without a word: rank 1" in output
    assert not [member for member in family if member.is_running()]
