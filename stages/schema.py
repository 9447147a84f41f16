"""The records that stages exchange, and how they are written: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import CorruptArtifact
from pipeline.files import publish

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it came, with the place it came from."""

    id: str
    document: str
    summary: str
    origin: str
    """File and line or row, such as `train.jsonl:12`."""


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


Record = TypeVar("Record", RawRow, Example, Prediction)


def write_jsonl(path: Path, records: Iterable[RawRow | Example | Prediction]) -> int:
    """Write records to a file that appears when it is whole; returns how many."""
    temporary = path.with_name(f".{path.name}.tmp")
    count = 0
    with temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
            count += 1
    publish(temporary, path)
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
