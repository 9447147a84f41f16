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
        ("leak_of", pa.string()),
        ("leak_split", pa.string()),
        ("leak_similarity", pa.float32()),
    ]
)
"""Lengths in characters and in words, `raw` ones before cleaning; lengths in tokens are in encode's shards.
`duplicate_of` is the id of the most similar earlier row of the split, `leak_of` that of the most similar row
of a split that comes before (test, valid, train), of equal ones the first; null without one. That row may
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
        table, split = self.rows.table(shard), self.rows.raw[shard].split
        neighbours = self._neighbours(shard)
        records = [
            self._entry(row, split, neighbours.get((number, True)), neighbours.get((number, False)))
            for number, row in enumerate(_rows(table))
        ]
        ledger = self.folder / LEDGER / self._name(shard, "parquet")
        for path in (ledger, self.path(shard)):
            for folder in (path.parent.parent, path.parent):
                if folder != self.folder:
                    folder.mkdir(exist_ok=True)
        with self.publishing(ledger) as path:
            pq.write_table(pa.Table.from_pylist(records, schema=LEDGER_SCHEMA), path)
        kept = (
            Example(row["id"], row["document"], row["summary"])
            for row, record in zip(_rows(table), records, strict=True)
            if record["outcome"] == KEPT
        )
        with self.publishing(self.path(shard)) as path:
            write_jsonl(path, kept)

    def _entry(
        self, row: dict[str, Any], split: str, twin: Neighbour | None, leak: Neighbour | None
    ) -> dict[str, Any]:
        settings = self.rows.config.duplicates
        entry = {**{name: row[name] for name in LEDGER_SCHEMA.names if name in row}, "split": split}
        if twin is not None:
            entry |= {"duplicate_of": twin.id, "duplicate_similarity": twin.similarity}
        if leak is not None:
            entry |= {"leak_of": leak.id, "leak_split": leak.split}
            entry["leak_similarity"] = leak.similarity
        if leak is not None and settings.on_leak == "drop":
            entry |= {"outcome": "leak", "rule": "on_leak drop"}
        elif twin is not None and settings.within_split == "drop":
            entry |= {"outcome": "duplicate", "rule": "within_split drop"}
        return entry

    def _neighbours(self, shard: int) -> dict[tuple[int, bool], Neighbour]:
        """Return the most similar earlier rows, by the row's number in the file and whether of its split."""
        offsets, split = self.rows.offsets(), self.rows.raw[shard].split
        same, alike = self.candidates.of_rows(offsets[shard], offsets[shard + 1])
        equal = list(self._equal(same, offsets))
        alike = alike[~np.isin(keys_of(alike), keys_of(np.array([pair[:2] for pair in equal])))]
        nearest: dict[tuple[int, bool], tuple[float, int]] = {}
        for earlier, later, similarity in itertools.chain(equal, self._near(alike, offsets)):
            where, _ = _place(earlier, offsets)
            key = later - offsets[shard], self.rows.raw[where].split == split
            if key not in nearest or similarity > nearest[key][0]:
                nearest[key] = similarity, earlier
        return {key: self._neighbour(*found, offsets) for key, found in nearest.items()}

    def _neighbour(self, similarity: float, row: int, offsets: list[int]) -> Neighbour:
        where, _ = _place(row, offsets)
        return Neighbour(similarity, self._value("id", row, offsets), self.rows.raw[where].split)

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


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    names = [name for name in table.column_names if not name.startswith("key_")]
    for batch in table.select(names).to_batches(max_chunksize=500):
        yield from batch.to_pylist()
