"""Where every rank is, kept in a small file each, so that the one the others wait for can be named.

A thread of each rank rewrites its file many times within the timeout. A stopped process no longer
does; one that is stuck does, but never says that it waits. Files, because the rendezvous store dies
with rank 0; ages are differences between the files' own times, so that hosts' clocks do not matter.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

_BEAT_SECONDS = 5.0
"""Between two rewrites; a twentieth of a timeout that is short."""
GRACE_SECONDS = 5.0
"""By how much a library may be late to end a wait at the timeout."""
_SILENT = 0.5
"""Share of the timeout after which a rank that no longer writes counts as stopped."""


@dataclass(slots=True)
class _Here:
    """What this process is doing."""

    place: str = "start-up"
    is_waiting: bool = False
    waits_since: float | None = None
    """In seconds of this process's monotonic clock; None if it does not wait, or has given up."""
    host: str = field(default_factory=socket.gethostname)


_HERE = _Here()


def rank_file(log_dir: Path, rank: int, kind: str) -> Path:
    """Return the path of a rank's file of a kind: log, pid, where, error, helps, stops or left."""
    return log_dir / f"rank{rank:04d}.{kind}"


def lost_helpers(log_dir: Path) -> list[int]:
    """Return the tasks of a launch that began to help, and neither heard a stop nor left: killed ones."""
    ranks = [int(path.stem.removeprefix("rank")) for path in sorted(log_dir.glob("rank*.helps"))]
    over = ("stops", "left")
    return [rank for rank in ranks if not any(rank_file(log_dir, rank, k).exists() for k in over)]


def mark(place: str) -> None:
    """Say what this rank does from now on, such as "update 17"; it costs nothing, so call it in loops."""
    _HERE.place = place


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Say that this rank waits for the others; it stays said if they never come."""
    _HERE.is_waiting, _HERE.waits_since = True, time.monotonic()
    try:
        yield
    finally:
        _HERE.waits_since = None
    _HERE.is_waiting = False


def announce(
    log_dir: Path, rank: int, timeout: float, on_overdue: Callable[[], object] = lambda: None
) -> None:
    """Keep this rank's file up to date, from a thread of its own, until the process ends.

    Args:
        log_dir: Where the ranks of this launch keep their files.
        rank: This one.
        timeout: Seconds that ranks wait for each other.
        on_overdue: Called by the thread if a wait has lasted `GRACE_SECONDS` longer, which is where the
            library that waits does not end it itself.
    """

    def beat() -> None:
        while True:
            _write(log_dir, rank)
            since = _HERE.waits_since
            if since is not None and time.monotonic() - since > timeout + GRACE_SECONDS:
                on_overdue()
            time.sleep(min(_BEAT_SECONDS, timeout / 20))

    threading.Thread(target=beat, name="presence", daemon=True).start()


def give_up(log_dir: Path, rank: int) -> str:
    """Say that this rank waited in vain, be it inside a library, and return where that was."""
    _HERE.is_waiting, _HERE.waits_since = True, None
    _write(log_dir, rank)
    return _HERE.place


def _write(log_dir: Path, rank: int) -> None:
    file = rank_file(log_dir, rank, "where")
    temporary = log_dir / f".{file.name}.{threading.get_ident()}.tmp"
    # On a full disk the rank's own work fails with a better message than this could give.
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(asdict(_HERE)), encoding="utf-8")
        temporary.replace(file)


def absent(log_dir: Path, size: int, timeout: float) -> dict[int, str]:
    """Return where each rank was that others waited for, in words; call it after `give_up`.

    Args:
        log_dir: Where the ranks of this launch keep their files.
        size: Ranks of this launch.
        timeout: Seconds that the others waited.
    """
    files = {rank: rank_file(log_dir, rank, "where") for rank in range(size)}
    seen = {rank: file.stat().st_mtime for rank, file in files.items() if file.is_file()}
    found = dict.fromkeys(files.keys() - seen.keys(), "never started")
    for rank, time_s in seen.items():
        here = _Here(**json.loads(files[rank].read_text(encoding="utf-8")))
        silent = max(seen.values()) - time_s
        if silent > _SILENT * timeout:
            state = f"without a sign of life for {silent:.0f} s"
        elif not here.is_waiting:
            state = "alive but busy with something else"
        else:
            continue
        found[rank] = f"on {here.host}, last seen at {here.place}, {state}"
    return dict(sorted(found.items()))
