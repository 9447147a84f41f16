"""What is done to a run on the tests' cluster while it trains or generates, and what it has to be then."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.files import read_json
from tests.launching import losses
from tests.slurm import runs
from tests.slurm.cluster import Cluster, Job, Settings

PATIENT = Settings(
    kill_wait=20,
    slurmd_timeout=5,
    extra="PartitionName=cancel Nodes=ALL DefaultTime=60 PriorityTier=1 PreemptMode=CANCEL",
)
"""Time to save after TERM, as clusters give it; a lost node is noticed soon.

What is preempted in partition `cancel` gets TERM, and KILL after KillWait, and is not queued again by Slurm.
"""
Undisturbed = Callable[[], Path]
Tell = Callable[..., None]


def disturb_training(
    cluster: Cluster,
    run_dir: Path,
    at: int,
    fault: Callable[[str], object],
    returns: Callable[[], object] = lambda: None,
) -> tuple[float, int]:
    """Let a fault happen to the job of finetune after an update, and wait until there is a new one.

    Args:
        cluster: Where it runs.
        run_dir: The run.
        at: The update.
        fault: Given the job.
        returns: What somebody has to do for it to go on.

    Returns:
        Seconds from the fault to the first new update, and the updates that were done again.
    """
    job = runs.jobs(run_dir)["finetune"]
    runs.wait_for(cluster, job, lambda: runs.last_update(run_dir) >= at)
    lost, resumed = runs.lost_updates(run_dir), runs.resumed_at(run_dir)
    started = time.monotonic()
    fault(job)
    returns()
    job = runs.jobs(run_dir)["finetune"]
    runs.wait_for(cluster, job, lambda: len(runs.resumed_at(run_dir)) > len(resumed))
    first = runs.resumed_at(run_dir)[-1] + 1
    committed = run_dir / "finetune"
    runs.wait_for(
        cluster,
        job,
        lambda: runs.last_update(run_dir) >= first or committed.is_dir(),
        may_end=True,
    )
    return time.monotonic() - started, runs.lost_updates(run_dir) - lost


def as_undisturbed(
    cluster: Cluster, run_dir: Path, undisturbed: Undisturbed, last: str = "report"
) -> None:
    """Wait for the jobs up to a stage's, and compare what they made."""
    runs.finish(cluster, run_dir, last)
    stages = runs.STAGE_NAMES[: runs.STAGE_NAMES.index(last) + 1]
    assert runs.made(run_dir, *stages) == runs.made(undisturbed(), *stages)
    assert losses(run_dir) == losses(undisturbed())


def has_restarted(times: int) -> Callable[[Job], bool]:
    return lambda job: job["Restarts"] == str(times)


def kill_rank(
    cluster: Cluster, run_dir: Path, job: str, rank: int, stage: str = "finetune"
) -> None:
    """SIGKILL one rank of a stage."""
    (pid_file,) = (run_dir / "logs" / stage).glob(f"*/rank{rank:04d}.pid")
    pid = pid_file.read_text(encoding="ascii")
    if not cluster.isolated:
        os.kill(int(pid), signal.SIGKILL)
        return
    node = read_json(pid_file.with_suffix(".where"))["host"]
    step = ("srun", "--jobid", job, "--overlap", "--mem=0", "--nodelist", node, "-N1", "-n1")
    cluster.run(*step, "kill", "-KILL", pid)


def take_all_nodes(cluster: Cluster) -> None:
    """Preempt what runs in partitions where that is allowed."""
    cluster.sbatch("--partition=urgent", "--nodes=3", "--exclusive", "--wrap", "sleep 1")


def shards(run_dir: Path) -> int:
    return len(list(run_dir.glob("generate.partial/shards-*/?????.jsonl")))
