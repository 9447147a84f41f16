"""The documents that encode left, read a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from stages.generate.engine import Source


class EncodedSources:
    """The rows of an encoded split in order; the files stay on disk."""

    def __init__(self, folder: Path) -> None:
        tables = [
            pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            for path in sorted(folder.glob("*.arrow"))
        ]
        self._table = pa.concat_tables(tables).select(["id", "source_ids", "source_tokens_lost"])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def ids(self) -> Iterator[str]:
        """Yield the id of each row."""
        for batch in self._table.to_batches():
            yield from batch["id"].to_pylist()

    def rows(self, shard: int, shard_rows: int) -> list[Source]:
        """Return the rows of a shard."""
        rows = self._table.slice(shard * shard_rows, shard_rows)
        columns = (column.to_pylist() for column in rows.columns)
        return [Source(*values) for values in zip(*columns, strict=True)]
