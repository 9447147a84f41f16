"""Waiting for a moment, never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import LaunchError, Preempted
from pipeline.preemption import StopFlag


class Watch(NamedTuple):
    """How long and how often to look."""

    limit_s: float
    poll_s: float
    stop: StopFlag

    def until(self, what: str, is_reached: Callable[[], bool]) -> float:
        """Wait until a moment is reached; returns the seconds that it took.

        Args:
            what: What is waited for, for the message.
            is_reached: Looks.

        Raises:
            LaunchError: If it does not come within the limit.
            Preempted: If this process was asked to stop.
        """
        started = time.monotonic()
        while not is_reached():
            if self.stop.reason:
                raise Preempted(f"stopped by {self.stop.reason} while it waited for {what}")
            if time.monotonic() - started > self.limit_s:
                raise LaunchError(
                    f"waited {self.limit_s:g} s in vain for {what}; --limit says how long to wait"
                )
            time.sleep(self.poll_s)
        return time.monotonic() - started


class Fresh:
    """Tells whether a file, which may be there already, was written since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = self._state()

    def __call__(self) -> bool:
        """Look."""
        found = self._state()
        return found is not None and found != self._before

    def _state(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


def is_there(root: Path, pattern: str) -> bool:
    """Whether something matches; folders may come and go meanwhile."""
    try:
        return next(root.glob(pattern), None) is not None
    except FileNotFoundError:
        return False
