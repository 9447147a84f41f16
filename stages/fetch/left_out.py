"""Rows that no split takes, kept by id and place: what the set's definition leaves out stays in sight."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import publish
from pipeline.stage import StageContext
from stages.schema import RawRow

FILE = "left_out.parquet"
"""In the stage's folder, where there are such rows; `sumpipe trace` reads it."""

_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "origin", "reason")])
_BATCH = 10_000

Keep = Callable[[RawRow, str], None]
"""Takes a row, and why it is left out."""


@contextlib.contextmanager
def left_out_rows(context: StageContext) -> Iterator[Keep]:
    """Write what is kept to FILE, which appears when it is whole; where it is there already, it stays."""
    path = context.work / FILE
    temporary = context.work / f".{FILE}.{uuid.uuid4().hex}.tmp"
    batch: list[dict[str, str]] = []
    try:
        with pq.ParquetWriter(temporary, _SCHEMA) as writer:

            def write() -> None:
                writer.write_table(pa.Table.from_pylist(batch, _SCHEMA))
                batch.clear()

            def keep(row: RawRow, reason: str) -> None:
                batch.append({"id": row.id, "origin": row.origin, "reason": reason})
                if len(batch) == _BATCH:
                    write()

            yield keep
            write()
        if pq.read_metadata(temporary).num_rows and not path.exists():
            context.guard()
            publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
