"""The text of every command for Slurm: pure functions of a run, its stages and what they ask for."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import ConfigError
from pipeline.slurm.options import WARNING_SECONDS, Need

SUBMIT = "sbatch"
QUEUE_FIELDS = ("%i", "%T", "%j", "%r")
"""Job id, state, name and, last since it may hold anything, the reason."""


_MEMORY = {"--mem", "--mem-per-cpu", "--mem-per-gpu"}
_TAIL = 5
"""Words of a submit command from the script on: script, stage, run directory, profile, interpreter."""


class Place(NamedTuple):
    """What a job works with; every node sees it under these paths."""

    checkout: Path
    """Has the scripts in slurm/."""
    python: str
    """The interpreter."""
    run_dir: Path
    ds_profile: Path


def job_name(run_dir: Path, stage: str) -> str:
    """Return the name that a run's jobs for a stage have and no other run's: by it the queue finds them."""
    digest = hashlib.sha256(str(run_dir).encode()).hexdigest()
    return f"sumpipe.{stage}.{digest[:12]}"


def submit_command(stage: str, need: Need, place: Place, after: str | None) -> list[str]:
    """Return the command that queues a stage.

    Args:
        stage: Its name.
        need: What it asks for.
        place: What it works with.
        after: The job that has to complete first.

    Raises:
        ConfigError: If Slurm could not name a log file in the run directory.
    """
    if "\\" in str(place.run_dir) or not str(place.run_dir).isprintable():
        raise ConfigError(
            f"--run-dir {str(place.run_dir)!r}: Slurm takes no backslash and no control character in the "
            "name of a log file; choose another"
        )
    log = str(place.run_dir / "logs" / "slurm").replace("%", "%%")
    order = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    kind = f"{need.asked.gpu_type}:" if need.asked.gpu_type else ""
    gpus = [f"--gpus-per-node={kind}{need.gpus_per_node}"] if need.gpus_per_node else []
    # As in the scripts: a site's or a user's default (SBATCH_EXPORT, SBATCH_SIGNAL, ...) wins over those.
    returns = [
        "--export=ALL",
        "--requeue",
        "--open-mode=append",
        f"--signal=USR2@{WARNING_SECONDS}",
    ]
    return [
        *(SUBMIT, "--parsable", f"--job-name={job_name(place.run_dir, stage)}"),
        *(f"--chdir={place.checkout}", f"--output={log}/%j-{stage}.out", *order),
        *(f"--nodes={need.nodes}", f"--ntasks-per-node={need.tasks_per_node}", *gpus),
        *(*returns, *_rest(need)),
        str(place.checkout / "slurm" / f"{need.resource}.sbatch"),
        *(stage, str(place.run_dir), str(place.ds_profile), place.python),
    ]


def chosen(command: Sequence[str]) -> list[str]:
    """Return what of a `submit_command` was chosen: not where the run lies, nor what the job waits for."""
    given = ("--dependency=", "--kill-on-invalid-dep=", "--job-name=", "--chdir=", "--output=")
    options = [word for word in command[:-_TAIL] if not word.startswith(given)]
    return [*options, *command[-2:]]


def _rest(need: Need) -> list[str]:
    asked = need.asked
    # sbatch refuses a second kind of memory limit.
    has_memory = any(word.partition("=")[0] in _MEMORY for word in asked.words)
    values = {
        "cpus-per-task": asked.cpus_per_task,
        "mem-per-cpu": None if has_memory else asked.mem_per_cpu,
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
    }
    return [
        f"--{name}={value}" for name, value in values.items() if value is not None
    ] + asked.words


def queue_command(run_dirs: Sequence[Path], stages: Sequence[str]) -> list[str]:
    """Return the command that lists jobs of runs, ended ones too as long as Slurm remembers them."""
    names = ",".join(job_name(run_dir, stage) for run_dir in run_dirs for stage in stages)
    return [
        "squeue",
        "--all",  # those in partitions that are hidden too
        "--noheader",
        "--states=all",
        f"--name={names}",
        f"--format={'|'.join(QUEUE_FIELDS)}",
    ]


def cancel_command(jobs: Sequence[str]) -> list[str]:
    """Return the command that cancels jobs."""
    return ["scancel", *jobs]


def shell_lines(commands: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Write commands for a shell, each keeping its job's id in a variable named like its stage.

    Args:
        commands: Stage and command; one after a stage that is not queued yet has `$stage` for its job.
    """
    lines = []
    for stage, command in commands:
        later = {f"--dependency=afterok:${name}" for name, _ in commands}
        words = [word if word in later else shlex.quote(word) for word in command]
        lines.append(f"{stage}=$({' '.join(words)})")
    return lines
