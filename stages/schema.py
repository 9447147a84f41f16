"""The records that stages exchange, and how they are written: one JSON object a line."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import CorruptArtifact
from pipeline.files import fsync_directory, publish

SPLITS = ("train", "valid", "test")
SHARD_ROWS = 20_000
SHARD_CHARACTERS = 1 << 22
"""A file of rows is full at either, a second or two of work: fixed, so that shards do not depend on how the
work is spread."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it came, with the place it came from."""

    id: str
    document: str
    summary: str
    origin: str
    """File and line or row, such as `train.jsonl:12`."""
    fault: str = ""
    """Why it could not be read; then both texts are empty."""


@dataclass(frozen=True, slots=True)
class Example:
    """A clean document with its summary."""

    id: str
    document: str
    summary: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """A generated summary."""

    id: str
    prediction: str
    score: float | None
    """Beam score: log-probability in nats divided by length ** length_penalty; None if it failed."""
    tokens: int
    """Generated tokens, the end of sequence included."""
    stop: str
    """`eos`; `length` where the limit ended it; and without a summary `empty`, if there was no text to
    summarise, or `failed: ` and why."""
    source_tokens_lost: int = 0
    """Tokens of the document that were cut off."""
    alternatives: list[dict[str, Any]] = field(default_factory=list)
    """Further summaries, the best first: their prediction, score, tokens and stop."""


AnyRecord = RawRow | Example | Prediction
Record = TypeVar("Record", RawRow, Example, Prediction)


def write_shards(
    folder: Path, records: Iterable[AnyRecord], guard: Callable[[], None] = lambda: None
) -> int:
    """Write records to files of limited size, 00000.jsonl and on, in a folder that appears when it is whole.

    Args:
        folder: Is not there yet.
        records: What to write.
        guard: Called before the folder gets its name; raises if another process took the work over.

    Returns:
        How many records there were; with none, the folder is empty.
    """
    # A name of its own: a process that was paused may still write when its successor does the same.
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    partial.mkdir(parents=True)
    try:
        count, rest = 0, iter(records)
        for number in itertools.count():
            first = next(rest, None)
            if first is None:
                break
            shard = _up_to_full(itertools.chain([first], rest))
            count += write_jsonl(partial / f"{number:05d}.jsonl", shard)
        guard()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    fsync_directory(folder.parent)
    return count


def _up_to_full(records: Iterable[AnyRecord]) -> Iterator[AnyRecord]:
    size = 0
    for number, record in enumerate(records, 1):
        yield record
        size += sum(len(value) for value in asdict(record).values() if isinstance(value, str))
        if number == SHARD_ROWS or size >= SHARD_CHARACTERS:
            return


def shard_files(folder: Path) -> list[Path]:
    """Return the files that `write_shards` wrote, in order."""
    return sorted(folder.glob("?????.jsonl"))


def read_shards(folder: Path, record_type: type[Record]) -> Iterator[Record]:
    """Read all records that `write_shards` wrote, in order.

    Raises:
        CorruptArtifact: If a line is not such a record; names the line.
    """
    for path in shard_files(folder):
        yield from read_jsonl(path, record_type)


def write_jsonl(path: Path, records: Iterable[AnyRecord]) -> int:
    """Write records to a file that appears when it is whole; returns how many."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
                count += 1
        publish(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count


def read_jsonl(path: Path, record_type: type[Record]) -> Iterator[Record]:
    """Read records that `write_jsonl` wrote.

    Raises:
        CorruptArtifact: If a line is not such a record; names the line.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                values: dict[str, Any] = json.loads(line)
                yield record_type(**values)
            except (json.JSONDecodeError, TypeError) as error:
                raise CorruptArtifact(f"{path}, line {number}: {error}") from error
