"""Third step: candidates compared in full, and what becomes of each row: examples and ledger."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.shards import FileShards
from stages.clean.candidates import Candidates
from stages.clean.cleaned import COUNTS, CleanedRows
from stages.clean.filters import KEPT
from stages.clean.pairs import Pairs, keys_of
from stages.clean.signature import SLOTS, estimate
from stages.clean.words import Hashes, jaccard, shingle_hashes, words_of
from stages.schema import Example, write_jsonl

LEDGER = "ledger"
LEDGER_SCHEMA = pa.schema(
    [
        *(
            (name, pa.string())
            for name in ("id", "split", "origin", "outcome", "rule", "changed_by")
        ),
        *((name, pa.int32()) for name in COUNTS),
        ("duplicate_of", pa.string()),
        ("duplicate_similarity", pa.float32()),
        ("duplicate_is_equal", pa.bool_()),
        ("leak_of", pa.string()),
        ("leak_split", pa.string()),
        ("leak_similarity", pa.float32()),
        ("leak_is_equal", pa.bool_()),
    ]
)
"""Lengths in characters and in words, `raw` ones before cleaning; lengths in tokens are in encode's shards.
`duplicate_of` is the id of the most similar earlier row of the split, `leak_of` that of the most similar row
of a split that comes before (test, valid, train), of equal ones the first; null without one. Equal are those
of equal words; others of similarity 1 repeat the same 5-grams another number of times. That row may
itself be dropped: of a chain of rows, each like the one before, the first is left; none if it is a leak."""

_DEVIATIONS = 4
"""Candidates whose estimate is further below the limit than so many standard deviations are not compared."""

_PORTION = 20_000
"""Candidates whose signatures are held at a time: a KiB each."""
_REMEMBERED = 4096
"""Documents whose shingles are kept while their pairs are compared: of news articles 16 MB."""


class Neighbour(NamedTuple):
    """An earlier row that a row is like."""

    similarity: float
    is_equal: bool
    id: str
    split: str


@dataclass(frozen=True, slots=True)
class Verdicts(FileShards):
    """Examples and ledger, two files for each file of raw rows."""

    rows: CleanedRows
    candidates: Candidates

    def path(self, shard: int) -> Path:
        """Return where the examples of a file are; its ledger is there before."""
        return self.folder / self._name(shard, "jsonl")

    def _name(self, shard: int, suffix: str) -> str:
        raw = self.rows.raw[shard]
        return f"{raw.split}/{raw.path.stem}.{suffix}"

    def __call__(self, shard: int) -> None:
        """Settle the rows of one file."""
        table = self.rows.table(shard)
        entries = self._ledger(shard, table)
        ledger = self.folder / LEDGER / self._name(shard, "parquet")
        for path in (ledger, self.path(shard)):
            for folder in (path.parent.parent, path.parent):
                if folder != self.folder:
                    folder.mkdir(exist_ok=True)
        with self.publishing(ledger) as path:
            pq.write_table(entries, path)
        kept = pa.compute.equal(entries["outcome"], KEPT)
        with self.publishing(self.path(shard)) as path:
            write_jsonl(path, _examples(table, kept))

    def _ledger(self, shard: int, table: pa.Table) -> pa.Table:
        """Return the records of one file's rows."""
        settings, nearest = self.rows.config.duplicates, self._nearest(shard)
        columns: dict[str, Any] = {
            name: table[name] if name in table.column_names else [None] * len(table)
            for name in LEDGER_SCHEMA.names
        }
        columns |= {name: table[name].to_pylist() for name in ("outcome", "rule")}
        columns["split"] = [self.rows.raw[shard].split] * len(table)
        for row, (twin, leak) in nearest.items():
            told: dict[str, Any] = {"leak_split": leak.split} if leak is not None else {}
            for kind, other in (("duplicate", twin), ("leak", leak)):
                if other is not None:
                    told |= {f"{kind}_of": other.id, f"{kind}_is_equal": other.is_equal}
                    told[f"{kind}_similarity"] = other.similarity
            if leak is not None and settings.on_leak == "drop":
                told |= {"outcome": "leak", "rule": "on_leak drop"}
            elif twin is not None and settings.within_split == "drop":
                told |= {"outcome": "duplicate", "rule": "within_split drop"}
            for name, value in told.items():
                columns[name][row] = value
        return pa.table(columns, schema=LEDGER_SCHEMA)

    def _nearest(self, shard: int) -> dict[int, tuple[Neighbour | None, Neighbour | None]]:
        """Return the most similar earlier rows, of its split and of another, by place in the file."""
        offsets = self.rows.offsets()
        rows = np.arange(offsets[shard], offsets[shard + 1])
        equal = list(self._equal(self.candidates.equal(rows), offsets))
        are_equal = {(earlier, later) for earlier, later, _ in equal}
        first = {later: one for one, later, _ in equal if self._same_split(one, later, offsets)}
        asked = np.unique([first.get(row, row) for row in rows.tolist()]).astype(np.int64)
        alike = self.candidates.alike(asked)
        alike = alike[~np.isin(keys_of(alike), keys_of(np.array([pair[:2] for pair in equal])))]
        nearest: dict[tuple[int, bool], tuple[float, bool, int]] = {}
        for earlier, later, similarity in itertools.chain(equal, self._near(alike, offsets)):
            key = later, self._same_split(earlier, later, offsets)
            if key not in nearest or similarity > nearest[key][0]:
                nearest[key] = similarity, (earlier, later) in are_equal, earlier
        for copy, one in first.items():  # what the first is like in other splits, its copies are
            if (one, False) in nearest:
                nearest.setdefault((copy, False), nearest[one, False])
        found = {key: self._neighbour(*value, offsets) for key, value in nearest.items()}
        return {
            row - offsets[shard]: (found.get((row, True)), found.get((row, False)))
            for row in {row for row, _ in found} & set(rows.tolist())
        }

    def _same_split(self, one: int, other: int, offsets: list[int]) -> bool:
        raw = self.rows.raw
        return raw[_place(one, offsets)[0]].split == raw[_place(other, offsets)[0]].split

    def _neighbour(
        self, similarity: float, is_equal: bool, row: int, offsets: list[int]
    ) -> Neighbour:
        where, _ = _place(row, offsets)
        split = self.rows.raw[where].split
        return Neighbour(similarity, is_equal, self._value("id", row, offsets), split)

    def _equal(self, pairs: Pairs, offsets: list[int]) -> Iterator[tuple[int, int, float]]:
        for start in range(0, len(pairs), _PORTION):
            portion = pairs[start : start + _PORTION]
            one, other = (self._parts("digest", side, offsets) for side in portion.T)
            for earlier, later in portion[(one == other).all(axis=1)].tolist():
                yield earlier, later, 1.0

    def _near(self, pairs: Pairs, offsets: list[int]) -> Iterator[tuple[int, int, float]]:
        limit = self.rows.config.duplicates.near
        if limit is None or not len(pairs):
            return
        lowest = limit - _DEVIATIONS * (limit * (1 - limit) / SLOTS) ** 0.5
        known = functools.lru_cache(maxsize=_REMEMBERED)(
            functools.partial(self._shingles, offsets=offsets)
        )
        for start in range(0, len(pairs), _PORTION):
            portion = pairs[start : start + _PORTION]
            estimates = estimate(*(self._parts("signature", side, offsets) for side in portion.T))
            for earlier, later in portion[estimates >= lowest].tolist():
                similarity = jaccard(known(earlier), known(later))
                if similarity >= limit:
                    yield earlier, later, similarity

    def _parts(self, name: str, rows: NDArray[np.int64], offsets: list[int]) -> NDArray[np.uint32]:
        """Gather a column of bytes: [N] row numbers -> [N, a quarter of their bytes]."""
        unique, back = np.unique(rows, return_inverse=True)
        files = np.searchsorted(offsets, unique, side="right") - 1
        found = [
            self.rows.table(file)[name].take(unique[files == file] - offsets[file])
            for file in np.unique(files).tolist()
        ]
        joined = b"".join(value for part in found for value in part.to_pylist())
        return np.frombuffer(joined, dtype=np.uint32).reshape(len(unique), -1)[back]

    def _shingles(self, row: int, offsets: list[int]) -> Hashes:
        return shingle_hashes(words_of(self._value("document", row, offsets)))

    def _value(self, name: str, row: int, offsets: list[int]) -> Any:
        where, number = _place(row, offsets)
        return self.rows.table(where)[name][number].as_py()


def _place(row: int, offsets: list[int]) -> tuple[int, int]:
    """Return the file that holds a row, and its number there."""
    where = bisect.bisect_right(offsets, row) - 1
    return where, row - offsets[where]


def _examples(table: pa.Table, kept: pa.ChunkedArray) -> Iterator[Example]:
    rows = table.select(["id", "document", "summary"]).filter(kept)
    for batch in rows.to_batches(max_chunksize=500):
        yield from map(Example, *(column.to_pylist() for column in batch))
