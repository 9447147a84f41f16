"""Limits of the system that end a run late: open files, shared memory, locked memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.doctor.finding import Finding, ok, warning

_SHARED = Path("/dev/shm")
_FILES_AT_LEAST = 1024
"""What Linux gives, and what shards, logs, libraries and some hundred connections need."""
_CONNECTIONS_PER_TASK = 4
_SHARED_BYTES = 64 * 2**20
"""That NCCL may take there for a task with its neighbours; containers often have 64 MB in all."""


class Limits(NamedTuple):
    """Of one task; infinity is -1, as the system says it."""

    open_files: int
    locked_bytes: int
    shared_bytes: int
    """Free in /dev/shm."""
    has_infiniband: bool
    has_gpu: bool


def limits_here(*, has_gpu: bool) -> Limits:
    """Ask the system."""
    shared = os.statvfs(_SHARED) if _SHARED.is_dir() else None
    return Limits(
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        shared.f_bavail * shared.f_frsize if shared else 0,
        Path("/dev/infiniband").is_dir(),
        has_gpu,
    )


def judge_limits(found: Limits, tasks: int, tasks_here: int) -> Iterator[Finding]:
    """Judge one task's limits.

    Args:
        found: The limits.
        tasks: Of the whole launch.
        tasks_here: Of them, on this host.
    """
    faults = []
    files = _FILES_AT_LEAST + _CONNECTIONS_PER_TASK * max(tasks - 64, 0)
    if 0 <= found.open_files < files:
        text = f"{found.open_files} open files are allowed; {tasks} task(s) may need {files}"
        faults.append(warning("limits", text, f"ulimit -n {files} before the start"))
    shared = _SHARED_BYTES * tasks_here
    if found.has_gpu and found.shared_bytes < shared:
        text = f"{_SHARED} has {found.shared_bytes / 2**20:.0f} MiB; NCCL may need {shared / 2**20:.0f}"
        faults.append(warning("limits", text, "start the container with a larger --shm-size"))
    if found.has_gpu and found.has_infiniband and found.locked_bytes != resource.RLIM_INFINITY:
        text = f"InfiniBand is here, but only {found.locked_bytes} bytes may be locked in memory"
        fix = "ulimit -l unlimited where slurmd starts, or submit with --propagate=NONE"
        faults.append(warning("limits", text, fix))
    yield from faults
    if not faults:
        count = "any number of" if found.open_files < 0 else found.open_files
        yield ok("limits", f"{count} open files")
