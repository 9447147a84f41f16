"""Second step: rows that may be alike, a key at a time over all rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.shards import FileShards
from stages.clean.cleaned import KEYS, CleanedRows, kept_keys
from stages.clean.pairs import Pairs, Rows, Values, candidate_pairs, first_of_each, keys_of

MOST_PARTNERS = 32
"""Rows of a split that a row is paired with by one band: the first of their bucket."""

_SCHEMA = pa.schema([("earlier", pa.int64()), ("later", pa.int64()), ("in_part", pa.uint8())])
"""A pair, and whether its later row has more partners in a split than it was paired with."""


class Found(NamedTuple):
    """What one key has found."""

    earlier: Rows
    later: Rows
    """Ascending."""
    in_part: NDArray[np.uint8]
    """Whether the later row has more partners in a split than it was paired with."""


@dataclass(frozen=True, slots=True)
class Candidates(FileShards):
    """Pairs of rows that share a key, one Arrow file a key.

    By digest a row is paired with the first equal one of each split. Equal rows share all bands, so that by
    band only the first of them in a split is paired: it stands for the others. Equal here are 64 bits of the
    digest: of 10 million rows two that differ have them in common with probability 3e-6.
    """

    rows: CleanedRows

    suffix: ClassVar[str] = ".arrow"

    @property
    def count(self) -> int:
        """How many keys there are: the digest, and the bands if near duplicates are asked for."""
        return 1 if self.rows.config.duplicates.near is None else len(KEYS)

    def __call__(self, shard: int) -> None:
        """Pair the rows by one key.

        Memory grows with the number of all rows: 130 bytes each, and of one that has MOST_PARTNERS in one
        split 2.4 KB, in three 6 KB.
        """
        pairs, in_part = candidate_pairs(*self._keyed(shard), 1 if shard == 0 else MOST_PARTNERS)
        if shard == 0:
            in_part = in_part[:0]  # the partners that were not taken are equal to the one that was
        columns = [*pairs.T.copy(), np.isin(pairs[:, 1], in_part).astype(np.uint8)]
        with (
            self.publishing(self.path(shard)) as path,
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, _SCHEMA) as writer,
        ):
            writer.write_table(pa.table(columns, schema=_SCHEMA))

    def _keyed(self, shard: int) -> tuple[Values, Rows, Rows]:
        """Return a key of the rows that are paired by it, their numbers and their splits: [N] each."""
        tables = [self.rows.table(number) for number in range(len(self.rows.raw))]
        values, rows = kept_keys(tables, KEYS[0])
        splits = self.rows.splits_of(rows)
        if shard == 0:
            return values, rows, splits
        is_first = first_of_each(values, splits)
        values, signed = kept_keys(tables, KEYS[shard])
        places = np.searchsorted(rows, signed)  # documents without words have no bands
        chosen = is_first[places]
        return values[chosen], signed[chosen], splits[places[chosen]]

    def found(self, key: int) -> Found:
        """Return what a key has found; the bytes stay on disk until they are looked at."""
        table = pa.ipc.open_file(pa.memory_map(str(self.path(key)))).read_all()
        (batch,) = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=_SCHEMA)]
        earlier, later, in_part = (cast(Any, np.from_dlpack(column)) for column in batch.columns)
        return Found(earlier, later, in_part)

    def equal(self, rows: Rows) -> Pairs:
        """Return the pairs by digest whose later row is one of these, [N] ascending."""
        return _pairs_of(self.found(0), rows)

    def alike(self, rows: Rows) -> Pairs:
        """Return the pairs by any band whose later row is one of these, [N] ascending.

        Each pair comes once, and those of a later row one after the other: they have earlier rows in common
        with those of the next, whose documents are then at hand.
        """
        parts = [_pairs_of(self.found(key), rows) for key in range(1, self.count)]
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *parts])
        _, first = np.unique(keys_of(pairs), return_index=True)
        return pairs[first]

    def compared_in_part(self) -> int:
        """Return how many rows some key has paired with a part of their partners only."""
        found = map(self.found, range(self.count))
        parts = (np.unique(one.later[one.in_part == 1]) for one in found)
        return len(functools.reduce(np.union1d, parts))


def _pairs_of(found: Found, rows: Rows) -> Pairs:
    start, end = (np.searchsorted(found.later, rows, side=side) for side in ("left", "right"))
    counts = end - start
    places = np.arange(counts.sum()) + np.repeat(start - np.cumsum(counts) + counts, counts)
    return np.stack([found.earlier[places], found.later[places]], axis=1)
