"""Runs that lose time and a node, or begin in other ways, on a real Slurm, and end as if nothing had been.

All but the first and the last start from what a run on this host alone had made before the stage that is
disturbed. For every fault the updates done twice and the seconds from it to the first new update or shard
are printed, where pytest runs without workers (-n 0).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifact import RunDir
from pipeline.slurm import ledger
from tests.slurm import runs
from tests.slurm.cluster import Cluster
from tests.slurm.faults import (
    Tell,
    Undisturbed,
    as_undisturbed,
    disturb_training,
    has_restarted,
    shards,
    take_all_nodes,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.distributed,
    pytest.mark.timeout(900),
]

LATE = """#!/bin/bash
# Rank 3 takes its time to leave.
[ "${SLURM_PROCID:-0}" = 3 ] || exec PYTHON "$@"
trap '' USR2 TERM
PYTHON "$@"
code=$?
sleep 3
exit $code
"""
SLOW_TO_START = """#!/bin/bash
# As where a container has to be unpacked first.
case $2 in stages.rank) >>'BEGUN'; sleep 5;; esac
exec 'PYTHON' "$@"
"""


def wrapper(path: Path, text: str) -> Path:
    """Write an interpreter; no blank in its path, or Slurm's proctrack/linuxproc loses sight of it."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def disturb_generation(cluster: Cluster, run_dir: Path, tell: Tell) -> None:
    """Signal the job of generate, and later take one of its nodes away; it is queued again each time."""
    job = runs.jobs(run_dir)["generate"]

    def is_further(than: int) -> Callable[[], bool]:
        return lambda: shards(run_dir) > than or (run_dir / "generate").is_dir()

    faults: dict[str, Callable[[], object]] = {
        "signal before the time limit in generation": lambda: cluster.signal(job, "USR2"),
        # The first node: the tasks of any other may have nothing in hand yet, and nobody would miss them.
        "a node is lost in generation": lambda: cluster.kill_node(cluster.nodes_of(job)[0]),
    }
    done = 0
    for count, (name, fault) in enumerate(faults.items(), start=1):
        runs.wait_for(cluster, job, is_further(done))
        started = time.monotonic()
        fault()
        cluster.wait_until(job, has_restarted(count), timeout=120)
        assert not (run_dir / "generate").is_dir(), "the moment was missed"
        done = shards(run_dir)
        runs.wait_for(cluster, job, is_further(done), may_end=True)
        tell(name, time.monotonic() - started)


def test_a_whole_run_loses_time_in_training_and_time_and_a_node_in_generation(
    patient: Cluster, reference: Undisturbed, tmp_path: Path, tell: Tell
) -> None:
    """Where there is time to save, no update is lost; nor does it matter how late a rank leaves."""
    run_dir = tmp_path / "run"
    late = wrapper(tmp_path / "late", LATE.replace("PYTHON", f"'{sys.executable}'"))
    options = ("--partition", "preempt", "--python", str(late))
    runs.submit(patient, run_dir, *runs.TWO_BY_TWO, *options)
    faults: dict[str, tuple[int, Callable[[str], object]]] = {
        "signal before the time limit, a rank leaves late": (
            6,
            lambda j: patient.signal(j, "USR2"),
        ),
        "scontrol requeue": (14, lambda job: patient.run("scontrol", "requeue", job)),
        "preemption by a higher partition": (22, lambda _: take_all_nodes(patient)),
    }
    for count, (name, (at, fault)) in enumerate(faults.items(), start=1):
        seconds, lost = disturb_training(patient, run_dir, at, fault)
        tell(name, seconds, lost)
        assert lost == 0
        job = runs.jobs(run_dir)["finetune"]
        assert has_restarted(count)(patient.job(job)), patient.output(job)
    codes = [verdict["code"] for verdict in ledger.verdicts(RunDir(run_dir))]
    assert codes == [75, 75, 75]
    as_undisturbed(patient, run_dir, reference, last="finetune")
    disturb_generation(patient, run_dir, tell)
    runs.finish(patient, run_dir)
    assert runs.made(run_dir) == runs.made(reference())


def test_a_job_that_slurm_preempts_by_cancelling_it_is_queued_again(
    patient: Cluster, reference: Undisturbed, tmp_path: Path, tell: Tell
) -> None:
    run_dir = runs.before("finetune", reference(), tmp_path / "run")
    runs.submit(patient, run_dir, *runs.TWO_BY_TWO, "--partition", "cancel")
    seconds, lost = disturb_training(patient, run_dir, 6, lambda _: take_all_nodes(patient))
    tell("preemption by cancelling", seconds, lost)
    assert lost == 0
    job = runs.jobs(run_dir)["finetune"]
    assert has_restarted(1)(patient.job(job)), patient.output(job)
    runs.sumpipe(patient, "cancel", run_dir)  # after a preemption this is not taken for another one
    ended = patient.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "1"), patient.report(ended)


def test_a_task_that_is_signalled_before_python_listens_has_not_failed(
    patient: Cluster, reference: Undisturbed, tmp_path: Path
) -> None:
    run_dir = runs.before("report", reference(), tmp_path / "run")
    begun = tmp_path / "begun"
    slow = SLOW_TO_START.replace("PYTHON", sys.executable).replace("BEGUN", str(begun))
    runs.submit(patient, run_dir, "--python", str(wrapper(tmp_path / "slow", slow)))
    job = runs.jobs(run_dir)["report"]
    runs.wait_for(patient, job, begun.exists)
    patient.signal(job, "USR2")
    patient.signal(job, "TERM")
    ended = patient.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), patient.report(ended)


def test_a_whole_run_by_one_launcher_per_node_has_the_same_bytes(
    patient: Cluster, reference: Undisturbed, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    runs.submit(patient, run_dir, env={"SUMPIPE_LAUNCHER": "deepspeed"})
    runs.finish(patient, run_dir)
    assert runs.made(run_dir) == runs.made(reference())
    log = (run_dir / "logs" / "slurm").glob("*.hosts")
    nodes = patient.nodes
    assert f"{nodes[0]} slots=2\n{nodes[1]} slots=2\n" in [file.read_text() for file in log]
