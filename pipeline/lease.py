"""Who works in a run directory: one process at a time, on any host that sees it.

The lease is a hint (a paused holder may outlive it); correctness comes from asking `require` before
each commit and from the rename that publishes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from pipeline.artifact import RunDir
from pipeline.claim import LEASE_SECONDS, Claim
from pipeline.config import JSON
from pipeline.errors import CorruptArtifact, RunDirInUse
from pipeline.files import read_json, write_json
from pipeline.provenance import utc

_PID_NAMESPACE = Path("/proc/self/ns/pid")

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(
    run_dir: RunDir,
    job: str | None,
    poll: Callable[[], None] = lambda: None,
    restarts: int = 0,
) -> Iterator[str]:
    """Hold the run directory; yields the token that `require` checks.

    Args:
        run_dir: The run to work in.
        job: The scheduler's job id, to tell a second process who is here.
        poll: Called again and again while it waits for a dead holder; may raise.
        restarts: How often that job was started again.

    Raises:
        RunDirInUse: If a living process holds it, with its host, pid, job and the ways out. A dead
            holder on this host is replaced at once, one on another host, or in a container with processes
            of its own, after LEASE_SECONDS. An earlier start of this job is superseded at once.
    """
    claim = Claim(run_dir.lease, LEASE_SECONDS)
    if not claim.take():
        _replace_holder(claim, run_dir, poll, job, restarts)
    try:
        token = claim.token
        if token is None:
            raise RunDirInUse(_who(run_dir))
        holder = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "job": job}
        place = {"pid_namespace": _pid_namespace(), "restarts": restarts}
        write_json(run_dir.holder, {**holder, **place})
        yield token
    finally:
        claim.release()


def _replace_holder(
    claim: Claim, run_dir: RunDir, poll: Callable[[], None], job: str | None, restarts: int
) -> None:
    """Take over from an earlier start of this job, or from one who stays silent on another host or unnamed.

    Raises:
        RunDirInUse: If somebody else lives, as a named one on this host does.
    """
    holder = current_holder(run_dir)
    if holder is not None and job == holder["job"] and restarts > holder.get("restarts", 0):
        _logger.warning(
            "%s: takes over from an earlier start of job %s, on host %s, which Slurm has given up; should it "
            "still run there, it commits nothing more",
            *(run_dir.root, job, holder["host"]),
        )
        claim.supersede()
        if claim.take():
            return
    elif holder is not None and _is_here(holder):
        raise RunDirInUse(_who(run_dir))
    _logger.warning("%s Waiting %.0f s for a sign of life.", _who(run_dir), LEASE_SECONDS)
    if not claim.take(LEASE_SECONDS + 5, poll):
        raise RunDirInUse(_who(run_dir))


def current_holder(run_dir: RunDir) -> JSON | None:
    """Return host, pid and job of who holds the run, or None if nobody living is known to.

    `silent_since_utc` is None unless the hold has not been refreshed for twice LEASE_SECONDS by this host's
    clock, as one on another host that died.
    """
    if not run_dir.lease.exists() or not run_dir.holder.exists():
        return None
    holder: JSON = read_json(run_dir.holder)
    if holder["token"] != _current_token(run_dir.lease):
        return None
    if _is_here(holder) and not psutil.pid_exists(holder["pid"]):
        return None
    try:
        seen_s = run_dir.lease.stat().st_mtime
    except FileNotFoundError:  # it has just been given back
        return None
    is_silent = time.time() - seen_s > 2 * LEASE_SECONDS
    return {**holder, "silent_since_utc": utc(seen_s) if is_silent else None}


def _is_here(holder: JSON) -> bool:
    """Whether a holder's pid means something to this process, as it does not in another container."""
    namespace = _pid_namespace()
    found = holder["host"], holder.get("pid_namespace", namespace)
    return found == (socket.gethostname(), namespace)


def _pid_namespace() -> int | None:
    """Return what tells this process's table of processes from others on this host; None if unknown."""
    try:
        return _PID_NAMESPACE.stat().st_ino
    except OSError:  # there is none outside Linux, and a sandbox may hide it
        return None


def require(run_dir: RunDir, token: str) -> None:
    """Raise RunDirInUse unless `token` still names the holder: a superseded holder must not commit."""
    if _current_token(run_dir.lease) != token:
        raise RunDirInUse(
            f"{run_dir.root}: this process lost its hold of the run directory (it was paused for more "
            f"than {LEASE_SECONDS:.0f} s) and stops without committing. {_who(run_dir)}"
        )


def _current_token(marker: Path) -> str | None:
    try:
        lines = marker.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return next((line.removeprefix("token=") for line in lines if line.startswith("token=")), None)


def _who(run_dir: RunDir) -> str:
    try:
        holder = read_json(run_dir.holder)
        who = f"host {holder['host']}, pid {holder['pid']}, job {holder['job'] or 'none'}"
    except (OSError, KeyError, TypeError, CorruptArtifact):
        who = f"a process that left no name; see {run_dir.lease}"
    return (
        f"{run_dir.root}: is in use by {who}. Wait for it, stop it, or choose another --run-dir; if that "
        f"process is dead, its hold ends by itself within {LEASE_SECONDS:.0f} s."
    )


class Silence:
    """How long a file that somebody keeps fresh has not changed, by a clock of this process."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker
        self._seen = self._state()
        self._since = time.monotonic()

    def seconds(self) -> float:
        """Return how long ago the file was last made or refreshed, counted from the first look."""
        found = self._state()
        if found is not None and found != self._seen:
            self._seen, self._since = found, time.monotonic()
        return time.monotonic() - self._since

    def _state(self) -> tuple[int, int] | None:
        try:
            found = self._marker.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns
