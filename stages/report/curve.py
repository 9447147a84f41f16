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
    records = []
    for number, found in enumerate(_records(path), 1):
        if isinstance(found, Exception):
            raise CorruptArtifact(
                f"{path}, line {number}: is no record of an update ({found!r}); "
                "make it again with --restart-from finetune"
            ) from found
        records.append(found)
    return _in_order(records)


def unfinished_curve(path: Path) -> tuple[Curve, int]:
    """Return the records so far, none without a file, and how many lines are none.

    Such lines are passed over, as by a training that resumes: they are what kills have left.
    """
    found = list(_records(path)) if path.is_file() else []
    records = [one for one in found if not isinstance(one, Exception)]
    return _in_order(records), len(found) - len(records)


def _in_order(records: list[dict[str, Any]]) -> Curve:
    return sorted(records, key=lambda record: record["update"])


def _records(path: Path) -> Iterator[dict[str, Any] | Exception]:
    """Read each line, or say why it is no record."""
    for line in path.read_bytes().splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
            float(record["update"])
        except (ValueError, KeyError, TypeError) as error:
            yield error
        else:
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
