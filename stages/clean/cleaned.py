"""First step: rows cleaned and judged one by one, a file of raw rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.shards import FileShards
from stages.clean.config import CleanConfig
from stages.clean.filters import KEPT, Judgement, judge
from stages.clean.signature import BANDS, SLOTS, bands_of, signature_of
from stages.clean.words import count_words, digest, shingles, words_of
from stages.schema import RawRow, read_jsonl, shard_files
from stages.text_rules import NORMALISED, CleanText, Role, clean_text

PRIORITY = ("test", "valid", "train")
"""Splits in the order of their rows: of two that are alike, the later one is the copy."""
KEYS = tuple(f"key_{number:02d}" for number in range(1 + BANDS))
"""Columns by which rows may be alike: the digest, then the bands; of a document without words the digest."""
COUNTS = tuple(
    f"{role}_{unit}{when}"
    for role in ("document", "summary")
    for unit in ("chars", "words")
    for when in ("_raw", "")
)
"""Columns of lengths before and after cleaning."""

_SCHEMA = pa.schema(
    [
        *(
            (name, pa.string())
            for name in ("id", "origin", "document", "summary", "outcome", "rule", "changed_by")
        ),
        *((name, pa.int32()) for name in COUNTS),
        ("digest", pa.binary(16)),
        ("signature", pa.binary(4 * SLOTS)),
        *((name, pa.uint64()) for name in KEYS),
    ]
)


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of raw rows: the unit of work."""

    split: str
    path: Path


def raw_files(folder: Path) -> tuple[RawFile, ...]:
    """Return the files of all splits in the order of their rows."""
    return tuple(RawFile(split, path) for split in PRIORITY for path in shard_files(folder / split))


@dataclass(frozen=True, slots=True)
class CleanedRows(FileShards):
    """Cleaned rows with what duplicates are found by, one Arrow file for each file of raw rows."""

    config: CleanConfig
    raw: tuple[RawFile, ...]

    suffix: ClassVar[str] = ".arrow"

    def __call__(self, shard: int) -> None:
        """Clean one file of rows."""
        records = [self.record(row) for row in read_jsonl(self.raw[shard].path, RawRow)]
        with (
            self.publishing(self.path(shard)) as path,
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, _SCHEMA) as writer,
        ):
            writer.write_table(pa.Table.from_pylist(_with_bands(records), schema=_SCHEMA))

    def table(self, shard: int) -> pa.Table:
        """Return a file that is done."""
        return cleaned_table(self.path(shard))

    def offsets(self) -> list[int]:
        """Return the number of each file's first row, and of all rows at the end."""
        counts = [0, *(self.table(shard).num_rows for shard in range(len(self.raw)))]
        total: list[int] = np.cumsum(counts).tolist()
        return total

    def splits_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the splits of rows by their place in PRIORITY: [N] -> [N]."""
        of_file = np.array([PRIORITY.index(raw.split) for raw in self.raw], dtype=np.int64)
        return of_file[np.searchsorted(self.offsets(), rows, side="right") - 1]

    def record(self, row: RawRow) -> dict[str, Any]:
        """Clean and judge a row; gives its columns but the bands."""
        cleaned = clean_text(row.document, "document", self.config)
        cleaned_summary = clean_text(row.summary, "summary", self.config)
        document, summary = cleaned.text, cleaned_summary.text
        words, summary_words = words_of(document), count_words(summary)
        if row.fault:
            outcome = Judgement("unreadable", row.fault)
        else:
            outcome = judge(document, summary, len(words), summary_words, self.config.filters)
        emptied_by = (cleaned if not document else cleaned_summary).changed_by
        if outcome.outcome.startswith("empty_") and emptied_by:
            outcome = outcome._replace(rule=emptied_by[-1])
        is_compared = outcome.outcome == KEPT
        near = is_compared and self.config.duplicates.near is not None and bool(words)
        return {
            "id": row.id,
            "origin": row.origin,
            "document": document,
            "summary": summary,
            "outcome": outcome.outcome,
            "rule": outcome.rule,
            "changed_by": ",".join(_marks(self.config.rules, cleaned, cleaned_summary)),
            **_lengths("document", row.document, document, len(words)),
            **_lengths("summary", row.summary, summary, summary_words),
            "digest": digest(document, words) if is_compared else None,
            "signature": signature_of(shingles(words)).tobytes() if near else None,
        }


def _marks(rules: tuple[str, ...], *texts: CleanText) -> Iterator[str]:
    """Yield what changed the texts of a row, and what was given up, in the order of the rules."""
    changed_by = {name for text in texts for name in text.changed_by}
    given_up = {name for text in texts for name in text.given_up}
    for name in (NORMALISED, *rules):
        if name in changed_by:
            yield name
        if name in given_up:
            yield f"{name} (given up)"


def _lengths(role: Role, raw: str, clean: str, words: int) -> dict[str, int]:
    """Return the counts of a text before and after cleaning, by their columns."""
    return {
        f"{role}_chars_raw": len(raw),
        f"{role}_chars": len(clean),
        f"{role}_words_raw": words if raw == clean else count_words(raw),
        f"{role}_words": words,
    }


def _with_bands(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the keys of rows that are compared."""
    for record in records:
        if record["digest"] is not None:
            record[KEYS[0]] = int.from_bytes(record["digest"][:8], "little")
    signed = [record for record in records if record["signature"] is not None]
    if signed:
        signatures = np.frombuffer(b"".join(r["signature"] for r in signed), dtype=np.uint32)
        for record, bands in zip(signed, bands_of(signatures.reshape(-1, SLOTS)), strict=True):
            record |= zip(KEYS[1:], bands.tolist(), strict=True)
    return records


def cleaned_table(path: Path) -> pa.Table:
    """Return the rows of a file; its bytes stay on disk until they are looked at."""
    found = path.stat()  # so that a file that was made anew is not taken for the old one
    return _table(path, found.st_ino, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _table(path: Path, _inode: int, _changed_ns: int) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def kept_keys(tables: Iterable[pa.Table], name: str) -> tuple[Any, Any]:
    """Return a key of all rows that have it, uint64, and the numbers of these rows, int64."""
    values, rows, at = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], 0
    for table in tables:
        column = table[name].combine_chunks()
        here = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        values.append(column.drop_null().to_numpy(zero_copy_only=False))
        rows.append(here + at)
        at += table.num_rows
    return np.concatenate(values), np.concatenate(rows)
