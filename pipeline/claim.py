"""A claim on something that one process at a time should do, on any host that sees the same folder.

It is a hint: a holder that was paused may outlive its claim. What a successor must be safe from is fenced
elsewhere, by the claim's token or by results that do not depend on who makes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from filelock import SoftFileLease, Timeout

LEASE_SECONDS = 60.0
"""A holder that is silent for this long is taken to be dead; one that died on this host is seen at once."""
_POLL_SECONDS = 0.3


class Claim:
    """A marker file that names its holder and is refreshed while that holder lives."""

    def __init__(self, marker: Path, seconds: float = LEASE_SECONDS) -> None:
        """Claim nothing yet.

        Args:
            marker: The file; its folder exists.
            seconds: Silence after which a holder is taken to be dead; the same for all contenders. Each
                counts from when it first asked, by a clock of its own.
        """
        self._marker = marker
        self._seconds = seconds
        self._lease = SoftFileLease(marker, lease_duration=seconds, thread_local=False)
        self._empty_since: tuple[tuple[int, int], float] | None = None

    @property
    def token(self) -> str | None:
        """What names this hold in the marker; None if it is not held."""
        return self._lease.token

    def holder(self) -> tuple[str, str] | None:
        """Return host and pid that the marker names; None if there is none, or it names nobody."""
        try:
            lines = self._marker.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        named = dict(line.split("=", 1) for line in lines if "=" in line)
        return (named["host"], named["pid"]) if {"host", "pid"} <= named.keys() else None

    def take(self, timeout: float = 0.0, poll: Callable[[], None] = lambda: None) -> bool:
        """Return whether it is held now, after asking for `timeout` seconds; `poll` is called in between."""
        deadline = time.monotonic() + timeout
        while not self._take_once():
            if time.monotonic() >= deadline:
                return False
            poll()
            time.sleep(_POLL_SECONDS)
        return True

    def supersede(self) -> None:
        """Remove the marker of a holder that has no right to it any more, though it may live."""
        self._lease.force_break()

    def release(self) -> None:
        """Give it up; does nothing if it is not held."""
        self._lease.release()

    def _take_once(self) -> bool:
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            self._remove_nameless()
            return False
        return True

    def _remove_nameless(self) -> None:
        """Remove a marker that stays empty: its maker died before it wrote its name.

        The library never does so, as an empty marker is one of its older releases' way to hold.
        """
        try:
            found = self._marker.stat()
        except FileNotFoundError:
            return
        if found.st_size:
            self._empty_since = None
            return
        now, state = time.monotonic(), (found.st_ino, found.st_ctime_ns)
        if self._empty_since is None or self._empty_since[0] != state:
            self._empty_since = state, now
        elif now - self._empty_since[1] >= self._seconds:
            self._lease.force_break()
