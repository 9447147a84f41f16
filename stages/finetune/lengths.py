"""Token counts of encoded rows, read without their tokens and without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from pipeline.errors import CorruptArtifact
from stages.finetune.batch_plan import Int64s
from stages.finetune.workload import Lengths


def row_lengths(folder: Path) -> Lengths:
    """Read the lengths of a split from the offsets of its Arrow shards.

    Raises:
        CorruptArtifact: If the folder holds no shard.
    """
    shards = sorted(folder.glob("*.arrow"))
    if not shards:
        raise CorruptArtifact(f"{folder}: holds no Arrow shard")
    tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in shards]
    return Lengths(*(_lengths(tables, name) for name in ("source_ids", "target_ids")))


def _lengths(tables: list[pa.Table], column: str) -> Int64s:
    chunks = [chunk for table in tables for chunk in table[column].chunks]
    # By DLPack, since `to_numpy` imports pandas.
    ends = [np.diff(np.from_dlpack(chunk.offsets)) for chunk in chunks]
    return np.concatenate(ends).astype(np.int64)
