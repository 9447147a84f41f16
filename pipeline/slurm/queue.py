"""What Slurm does with a run's jobs: the one place that calls its programs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import LaunchError
from pipeline.slurm.sbatch import QUEUE_FIELDS, cancel_command, job_name, queue_command

_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}
_PATIENCE_SECONDS = 60


class Job(NamedTuple):
    """A job as the queue shows it."""

    id: str
    state: str
    reason: str

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state not in _ENDED

    def __str__(self) -> str:
        shown = "" if self.reason in ("", "None") else f" ({self.reason})"
        return f"{self.state}{shown}"


def jobs_of(run_dir: Path, stages: Sequence[str]) -> dict[str, Job]:
    """Return the run's job for each stage that Slurm knows one of: one that is active, else the latest.

    Raises:
        LaunchError: If Slurm does not answer.
    """
    return parse_queue(call(queue_command(run_dir, stages)), run_dir, stages)


def parse_queue(text: str, run_dir: Path, stages: Sequence[str]) -> dict[str, Job]:
    """Read what `queue_command` printed."""
    stage_of = {job_name(run_dir, stage): stage for stage in stages}
    found: dict[str, Job] = {}
    rows = [line.split("|", len(QUEUE_FIELDS) - 1) for line in text.splitlines()]
    for number, state, name, reason in sorted(rows, key=lambda row: int(row[0])):
        job, stage = Job(number, state, reason), stage_of[name]
        if stage not in found or job.is_active or not found[stage].is_active:
            found[stage] = job
    return found


def queue_job(command: Sequence[str]) -> str:
    """Carry `submit_command` out and return the job's id.

    Raises:
        LaunchError: If Slurm refuses.
    """
    return call(command).strip().partition(";")[0]  # "12;cluster" in a federation


def cancel_jobs(jobs: Sequence[str]) -> None:
    """Cancel jobs.

    Raises:
        LaunchError: If Slurm refuses.
    """
    call(cancel_command(jobs))


def call(command: Sequence[str]) -> str:
    """Return what one of Slurm's programs prints.

    Raises:
        LaunchError: If it is not there, fails or does not answer.
    """
    program = command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except FileNotFoundError:
        raise LaunchError(f"{program}: not found; go to a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{program}: no answer in {_PATIENCE_SECONDS} s; try again") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split()) or "without a word"
        raise LaunchError(f"{program}: ended with code {done.returncode} ({said})")
    return done.stdout
