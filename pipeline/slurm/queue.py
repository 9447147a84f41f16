"""What Slurm does with a run's jobs: the one place that calls its programs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.distributed.world import slurm_environment
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


def jobs_of(run_dirs: Sequence[Path], stages: Sequence[str]) -> dict[str, Job]:
    """Return the run's job for each stage that Slurm knows one of: one that is active, else the latest.

    Args:
        run_dirs: The paths under which the run was submitted (ledger.places).
        stages: Of the run.

    Raises:
        LaunchError: If Slurm does not answer.
    """
    return parse_queue(call(queue_command(run_dirs, stages)), run_dirs, stages)


def parse_queue(text: str, run_dirs: Sequence[Path], stages: Sequence[str]) -> dict[str, Job]:
    """Read what `queue_command` printed; rows of other runs are passed over.

    Raises:
        LaunchError: If a row cannot be read.
    """
    stage_of = {job_name(run_dir, stage): stage for run_dir in run_dirs for stage in stages}
    found: dict[str, Job] = {}
    rows = [_read_row(line) for line in text.splitlines() if line.strip()]
    for job, name in sorted(rows, key=lambda row: int(row[0].id)):
        stage = stage_of.get(name)
        if stage is None:
            continue
        if stage not in found or job.is_active or not found[stage].is_active:
            found[stage] = job
    return found


def _read_row(line: str) -> tuple[Job, str]:
    """Return a job and its name; of an array, as a user may submit the scripts, the number that all share."""
    parts = line.split("|", len(QUEUE_FIELDS) - 1)
    number = re.match(r"\d+", parts[0])
    if number is None or len(parts) < len(QUEUE_FIELDS):
        raise LaunchError(
            f"squeue: printed {line!r}, expected {'|'.join(QUEUE_FIELDS)}; see what `squeue --version` is"
        )
    _, state, name, reason = parts
    return Job(number[0], state, reason), name


def queue_job(command: Sequence[str]) -> str:
    """Carry `submit_command` out and return the job's id.

    Raises:
        LaunchError: If Slurm refuses, or says no number.
    """
    said = call(command)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # A site's sbatch may have more to say before. "12;cluster" comes from a federation.
    number = re.fullmatch(r"(\d+)(;.*)?", lines[-1]) if lines else None
    if number is None:
        raise LaunchError(
            f"{command[0]}: printed no job number ({' '.join(lines) or 'nothing'}); see with `squeue --me` "
            "whether a job was queued"
        )
    return number[1]


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
            command,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
            env=slurm_environment(),
            start_new_session=True,  # Ctrl-C is for the caller, who may have jobs to take back
        )
    except FileNotFoundError:
        raise LaunchError(f"{program}: not found; go to a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{program}: no answer in {_PATIENCE_SECONDS} s; try again") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split()) or "without a word"
        raise LaunchError(f"{program}: ended with code {done.returncode} ({said})")
    return done.stdout
