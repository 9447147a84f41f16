"""Second step: rows that may be alike, a key at a time over all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import numpy as np
import pyarrow as pa

from pipeline.shards import FileShards
from stages.clean.cleaned import KEYS, CleanedRows, kept_keys
from stages.clean.pairs import Pairs, Rows, candidate_pairs, first_of_each, keys_of

MOST_PARTNERS = 32
"""Rows of a split that a row is paired with by one band: the first of their bucket."""

_SCHEMA = pa.schema([("earlier", pa.int64()), ("later", pa.int64())])
_LEFT_OUT = b"left_out"


class Found(NamedTuple):
    """What one key has found."""

    earlier: Rows
    later: Rows
    """Ascending."""
    left_out: int
    """Pairs that were not taken, see candidate_pairs."""


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
        """Pair the rows by one key; holds the digest's key and that one of all rows, 40 bytes a row."""
        tables = [self.rows.table(number) for number in range(len(self.rows.raw))]
        values, rows = kept_keys(tables, KEYS[0])
        splits = self.rows.splits_of(rows)
        if shard == 0:
            pairs, _ = candidate_pairs(values, rows, splits, most=1)  # the others are equal to it
            left_out = 0
        else:
            chosen = first_of_each(values, splits)
            values, _ = kept_keys(tables, KEYS[shard])
            pairs, left_out = candidate_pairs(
                values[chosen], rows[chosen], splits[chosen], MOST_PARTNERS
            )
        schema = _SCHEMA.with_metadata({_LEFT_OUT: str(left_out)})
        with (
            self.publishing(self.path(shard)) as path,
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            writer.write_table(pa.table([pairs[:, 0], pairs[:, 1]], schema=schema))

    def found(self, key: int) -> Found:
        """Return what a key has found; the bytes stay on disk until they are looked at."""
        table = pa.ipc.open_file(pa.memory_map(str(self.path(key)))).read_all()
        (batch,) = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=_SCHEMA)]
        earlier, later = (cast(Rows, np.from_dlpack(column)) for column in batch.columns)
        return Found(earlier, later, int(table.schema.metadata[_LEFT_OUT]))

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

    def left_out(self) -> int:
        """Return how many candidate pairs were not looked at."""
        return sum(self.found(key).left_out for key in range(self.count))


def _pairs_of(found: Found, rows: Rows) -> Pairs:
    start, end = (np.searchsorted(found.later, rows, side=side) for side in ("left", "right"))
    counts = end - start
    places = np.arange(counts.sum()) + np.repeat(start - np.cumsum(counts) + counts, counts)
    return np.stack([found.earlier[places], found.later[places]], axis=1)
