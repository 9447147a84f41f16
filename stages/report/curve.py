"""Records of a training: read, and thinned to what a chart can show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import CorruptArtifact

Curve = Sequence[dict[str, Any]]
"""Records of metrics.jsonl: `update` and values by name; null where one was not finite."""
Points = list[tuple[float, float]]

_MOST_POINTS = 160


def committed_curve(path: Path) -> Curve:
    """Return the records of a finished training, in update order.

    Raises:
        CorruptArtifact: If a line is no record; names it.
    """
    return _in_order(_records(path, is_whole=True))


def unfinished_curve(path: Path) -> Curve:
    """Return the records so far, none without a file; a last line that a kill has cut short is left out."""
    return _in_order(_records(path, is_whole=False)) if path.is_file() else ()


def _in_order(records: Iterator[dict[str, Any]]) -> Curve:
    return sorted(records, key=lambda record: record["update"])


def _records(path: Path, *, is_whole: bool) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record: dict[str, Any] = json.loads(line)
            float(record["update"])
        except (ValueError, KeyError, TypeError) as error:
            if not is_whole and number == len(lines):
                return
            raise CorruptArtifact(
                f"{path}, line {number}: is no record of an update ({error!r}); "
                "make it again with --restart-from finetune"
            ) from error
        yield record


def points(curve: Curve, name: str) -> Points:
    """Return (update, value) of the records that have a value by this name."""
    return [(record["update"], record[name]) for record in curve if record.get(name) is not None]


def thinned(found: Points, most: int = _MOST_POINTS) -> Points:
    """Return at most `most` points: means of as many neighbours each, the last ones perhaps of fewer."""
    size = -(-len(found) // most)
    groups = (found[start : start + size] for start in range(0, len(found), size or 1))
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]
