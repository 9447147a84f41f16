"""SIGKILL of everything at moments spread over all stages; the results never change by a byte."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.launching import copy_run, kill_tree, result_bytes, start, sumpipe, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

# The demo, shortened.
DEMO = (
    *("demo", "--processes", "2"),
    *("--set", "fetch.dataset={source: demo, train_rows: 600, valid_rows: 40, test_rows: 40}"),
    *("--set", "finetune.updates=60", "--set", "finetune.schedule.warmup_updates=10"),
    *("--set", "finetune.checkpoint_every=15", "--set", "finetune.validate_every=30"),
    *("--set", "generate.shard_rows=10"),
)
STAGES = ("fetch", "clean", "encode", "finetune", "export", "generate", "score", "report")


def is_there(path: str) -> Callable[[Path], bool]:
    return lambda run_dir: next(run_dir.glob(path), None) is not None


CHECKPOINTS = "finetune.partial/checkpoints"
# What is there at each moment at which everything is killed, in the order of the run.
MOMENTS = (
    "fetch.partial/raw/train",
    "fetch.partial/.model.*.tmp/*",
    "clean.partial/payload.json",
    "encode.partial/shards-*/encoded/train/00000.arrow",
    f"{CHECKPOINTS}/update_00000015",
    f"{CHECKPOINTS}/update_00000030.partial/*",
    f"{CHECKPOINTS}/update_00000045",
    "export.partial/model/*.safetensors",
    "generate.partial/shards-*/00001.jsonl",
    "score.partial/payload.json",
    "report.partial/payload.json",
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = sumpipe("run", *DEMO, "--run-dir", run_dir)
    assert done.returncode == 0, done.stderr
    return run_dir


def before(stage: str, uninterrupted: Path, target: Path) -> Path:
    """The run as it was when `stage` was about to start."""
    if stage == "fetch":
        return target
    run_dir = copy_run(uninterrupted, target)
    last = STAGES[STAGES.index(stage) - 1]
    done = sumpipe("run", *DEMO, "--run-dir", run_dir, "--restart-from", stage, "--to", last)
    assert done.returncode == 0, done.stderr
    return run_dir


def made(run_dir: Path, stage: str) -> dict[str, str]:
    """The checksums of what a stage committed; page and card say when it was made, and in what time."""
    manifest = json.loads((run_dir / stage / "manifest.json").read_text(encoding="utf-8"))
    files = {name: record["sha256"] for name, record in manifest["files"].items()}
    return {name: files[name] for name in files if name not in ("index.html", "README.md")}


def test_killed_at_every_turn_one_run_still_commits_the_same_bytes(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    for moment in MOMENTS:
        process = start("run", *DEMO, "--run-dir", run_dir)
        wait_for(process, functools.partial(is_there(moment), run_dir))
        kill_tree(process)
        stage = moment.partition(".")[0]
        assert not (run_dir / stage).exists(), f"missed: {stage} was over before {moment}"
    done = sumpipe("run", *DEMO, "--run-dir", run_dir)
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        if stage != "finetune":  # checkpoints carry times; the weights of export do not
            assert made(run_dir, stage) == made(uninterrupted, stage), stage
    assert sumpipe("status", run_dir, "--deep").returncode == 0


def test_killed_alone_the_command_leaves_ranks_that_the_next_one_waits_for(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = before("finetune", uninterrupted, tmp_path / "run")
    process = start("run", *DEMO, "--run-dir", run_dir)
    wait_for(process, functools.partial(is_there(f"{CHECKPOINTS}/update_00000015"), run_dir))
    pids = {int(file.read_text()) for file in (run_dir / "logs" / "finetune").glob("*/rank*.pid")}
    family = psutil.Process(process.pid).children(recursive=True)
    ranks = [member for member in family if member.pid in pids]
    assert len(ranks) == 2
    for rank in ranks:
        rank.suspend()  # slow to notice that nobody supervises them any more
    process.kill()
    process.wait()
    successor = start("run", *DEMO, "--run-dir", run_dir)
    logs = run_dir / "logs" / "run"
    wait_for(successor, lambda: any("earlier launch" in log.read_text() for log in logs.glob("*")))
    for rank in ranks:
        rank.resume()
    output, _ = successor.communicate(timeout=240)
    process.communicate()  # the ranks held its output open until they left
    assert successor.returncode == 0, output
    assert result_bytes(run_dir) == result_bytes(uninterrupted)
