"""What fetch found out and must find again after a restart: kept beside the rows, as part of the stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.config import JSON
from pipeline.files import read_json, write_json
from pipeline.stage import StageContext

Value = str | int


def notes(work: Path) -> JSON:
    """Return all that is noted."""
    path = _file(work)
    found: JSON = read_json(path) if path.is_file() else {}
    return found


def noted(context: StageContext, name: str, find: Callable[[], Value]) -> Value:
    """Return what is noted under a name, found now if it is not: a branch may move on between attempts."""
    known = notes(context.work)
    if name not in known:
        known[name] = find()
        context.guard()  # a successor may have noted another commit of the branch, and read that
        write_json(_file(context.work), known)
    value: Value = known[name]
    return value


def _file(work: Path) -> Path:
    return work / "notes.json"
