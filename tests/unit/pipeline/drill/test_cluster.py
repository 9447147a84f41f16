"""What the drill makes of Slurm's answers; a drill on a real cluster is in tests/slurm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.artifact import RunDir
from pipeline.drill import cluster
from pipeline.drill.cluster import Cluster
from pipeline.drill.rehearsal import Act
from pipeline.drill.watch import Watch
from pipeline.errors import LaunchError
from pipeline.preemption import StopFlag
from pipeline.slurm import ledger
from pipeline.slurm.options import Need, Options
from pipeline.slurm.sbatch import job_name

NEEDS = {stage: Need("gpu", 2, 1, 0, Options()) for stage in ("finetune", "export", "generate")}
WATCH = Watch(5, 0.01, StopFlag())

Queue = Callable[..., None]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path)
    for number, stage in enumerate(NEEDS):
        ledger.note_job(found, stage, str(10 + number), [])
    return found


@pytest.fixture
def queue(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Set the states of the jobs; whatever else Slurm is asked for, it refuses."""
    states: dict[str, str] = {}

    def call(command: Sequence[str]) -> str:
        if command[0] != "squeue":
            raise LaunchError(f"{command[0]}: ended with code 1 (Invalid job id specified)")
        rows = (
            "|".join((ledger.jobs(run_dir)[stage]["job"], state, job_name(run_dir.root, stage), ""))
            for stage, state in states.items()
        )
        return "\n".join(rows)

    monkeypatch.setattr(cluster, "call", call)
    return states.update


@pytest.fixture
def slurm() -> Cluster:
    return Cluster(sys.executable, Path("zero2.json"), NEEDS, None, "finetune")


def failed_ambush() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    assert process.wait(20) == 1
    return process


@pytest.mark.parametrize("act", [Act.STOP, Act.KILL_ALL])
def test_a_job_that_cannot_be_disturbed_though_it_runs_is_a_fault(
    act: Act, slurm: Cluster, run_dir: RunDir, queue: Queue
) -> None:
    queue(finetune="RUNNING")
    slurm._ambushes[run_dir.root] = failed_ambush()
    with pytest.raises(LaunchError, match=r"Invalid job id|could not kill its ranks"):
        slurm.disturb(run_dir, "finetune", act)
        slurm.leave(run_dir, "finetune", act, WATCH)


@pytest.mark.parametrize("state", ["COMPLETING", "COMPLETED", "FAILED"])
@pytest.mark.parametrize("act", [Act.STOP, Act.KILL_ALL])
def test_a_job_that_is_gone_when_it_is_disturbed_is_none(
    act: Act, state: str, slurm: Cluster, run_dir: RunDir, queue: Queue
) -> None:
    queue(finetune="RUNNING")
    assert slurm._state(run_dir, "finetune") == "RUNNING"  # is remembered for a while
    queue(finetune=state)
    slurm._ambushes[run_dir.root] = failed_ambush()
    slurm.disturb(run_dir, "finetune", act)
    queue(finetune="COMPLETED")
    run_dir.committed("finetune").mkdir()
    assert slurm.leave(run_dir, "finetune", act, WATCH) == ""


def test_the_last_words_are_those_of_the_first_job_that_did_not_commit(
    slurm: Cluster, run_dir: RunDir, queue: Queue
) -> None:
    run_dir.committed("finetune").mkdir()
    queue(finetune="COMPLETED", export="FAILED", generate="CANCELLED")
    assert slurm.last_words(run_dir).startswith("job 11 ended, FAILED (log ")
    run_dir.committed("export").mkdir()
    run_dir.committed("generate").mkdir()
    assert slurm.last_words(run_dir).startswith("job 10 ended, COMPLETED")
