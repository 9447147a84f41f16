"""Where a training was stopped and taken up again, as the logs of its launches tell."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

_RECORD = re.compile(r"^(?=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} )", re.MULTILINE)
"""Where one begins; it may have further lines, as with a traceback."""
_BEGUN = re.compile(r"\S+ INFO \S+: begins a training of \d+ updates$", re.MULTILINE)
_RESUMED = re.compile(r"\S+ INFO \S+: resumes after update (\d+)$", re.MULTILINE)
_STARTED_OVER = re.compile(r"\S+ INFO \S+: \d+ records past update 0 are set aside\b")
"""What a training says that begins where an earlier launch of it had no checkpoint yet."""
_STOPPED = re.compile(r"\bstopped by (.+?) after update \d+")
_FAILED = re.compile(r"\S+ ERROR \S+: rank \d+ ends: ")
_MODULE = re.compile(r"^[\w.]+\.(?=\w+(:|$))")
"""Before the name of an error."""
_ERROR_CHARS = 300


class Interruption(NamedTuple):
    """A launch that did not end the training, and the one after it."""

    update: int
    """Updates that were saved: training went on from here; 0 where it started over."""
    reason: str
    """What asked for the stop, such as SIGTERM; empty if nothing did, as after a crash."""
    last_seen: str
    """Time of the last word of the launch that ended, ISO 8601; empty if it said nothing."""
    resumed: str
    """When training went on."""
    error: str = ""
    """What ended the launch, if it says so and nothing asked for the stop."""


def interruptions(launches: Path) -> tuple[Interruption, ...]:
    """Read what rank 0 logged in all launches, in the order of time; empty without logs.

    Logs outlive a training that is deleted (--restart-from): what they tell before the last launch that began
    from nothing is not of this training.

    Args:
        launches: Has a folder for each launch, or for all that were given the same port (pipeline/rank.py).
    """
    records = [record for log in launches.glob("*/rank0000.log") for record in _records(log)]
    found: list[Interruption] = []
    before: list[Interruption] = []  # a training began: these are its own only if it started over
    reason, error, last_seen = "", "", ""
    for record in sorted(records, key=_time):
        stamp = record.split(" ", 1)[0]
        if _BEGUN.match(record):
            before = [*found, Interruption(0, reason, last_seen, stamp, error)]
            found, reason, error = [], "", ""
        elif resumed := _RESUMED.match(record):
            found.append(Interruption(int(resumed[1]), reason, last_seen, stamp, error))
            reason, error = "", ""
        elif _STARTED_OVER.match(record):
            found = before
        elif stopped := _STOPPED.search(record):
            reason = stopped[1]
        elif _FAILED.match(record):
            error = _error(record)
        last_seen = stamp
    return tuple(found)


def _error(record: str) -> str:
    """Return the name and the words of the error that a launch ended with: a traceback's last line."""
    last = _FAILED.sub("", record).rstrip().splitlines()[-1]
    return _MODULE.sub("", last)[:_ERROR_CHARS]


def _records(log: Path) -> list[str]:
    return _RECORD.split(log.read_text(encoding="utf-8", errors="replace"))[1:]


def _time(record: str) -> datetime:
    return datetime.strptime(record.split(" ", 1)[0], "%Y-%m-%dT%H:%M:%S%z")
