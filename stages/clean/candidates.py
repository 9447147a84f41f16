"""Second step: rows that may be alike, a band at a time over all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import numpy as np
import pyarrow as pa

from pipeline.shards import FileShards
from stages.clean.cleaned import KEYS, CleanedRows, kept_keys
from stages.clean.pairs import Pairs, candidate_pairs, keys_of

_SCHEMA = pa.schema([("earlier", pa.int64()), ("later", pa.int64())])
_LEFT_OUT = b"left_out"

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
"""Of rows."""


class Found(NamedTuple):
    """What one key has found."""

    earlier: Numbers
    later: Numbers
    """Ascending."""
    left_out: int
    """Pairs that were not taken, see candidate_pairs."""


@dataclass(frozen=True, slots=True)
class Candidates(FileShards):
    """Pairs of rows that share a key, one Arrow file a key."""

    rows: CleanedRows

    suffix: ClassVar[str] = ".arrow"

    @property
    def count(self) -> int:
        """How many keys there are: the digest, and the bands if near duplicates are asked for."""
        return 1 if self.rows.config.duplicates.near is None else len(KEYS)

    def __call__(self, shard: int) -> None:
        """Pair the rows by one key; holds that key of all rows in memory, 16 bytes a row."""
        tables = map(self.rows.table, range(len(self.rows.raw)))
        keys = kept_keys(tables, KEYS[shard])
        pairs, left_out = candidate_pairs(*keys, self.rows.split_starts())
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
        earlier, later = (cast(Numbers, np.from_dlpack(column)) for column in batch.columns)
        return Found(earlier, later, int(table.schema.metadata[_LEFT_OUT]))

    def of_rows(self, start: int, end: int) -> tuple[Pairs, Pairs]:
        """Return the pairs whose later row is in [start, end): by digest, and by any band.

        Each pair comes once, and those of a later row one after the other: they have earlier rows in common
        with those of the next, whose documents are then at hand.
        """
        parts = []
        for key in range(self.count):
            found = self.found(key)
            first, last = np.searchsorted(found.later, [start, end])
            parts.append(np.stack([found.earlier[first:last], found.later[first:last]], axis=1))
        bands = np.concatenate([np.zeros((0, 2), np.int64), *parts[1:]])
        _, first = np.unique(keys_of(bands), return_index=True)
        return parts[0], bands[first]

    def left_out(self) -> int:
        """Return how many candidate pairs were not looked at, in all bands.

        Those of the digest, key 0, are no loss: rows that are equal to any are equal to the first.
        """
        return sum(self.found(key).left_out for key in range(1, self.count))
