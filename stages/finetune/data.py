"""Encoded rows, memory-mapped, and padded micro-batches made of them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import CorruptArtifact
from stages.finetune.config import WarmStartConfig
from stages.finetune.model import Batch
from stages.finetune.randomness import counter_seed

Ids = NDArray[np.int32]


class EncodedSplit:
    """The token ids of a split, read from Arrow shards without copying them into memory."""

    def __init__(self, folder: Path) -> None:
        tables = [
            pa.ipc.open_file(pa.memory_map(str(p))).read_all()
            for p in sorted(folder.glob("*.arrow"))
        ]
        if not tables:
            raise CorruptArtifact(f"{folder}: holds no Arrow shard")
        self._ids = pa.chunked_array([chunk for table in tables for chunk in table["id"].chunks])
        self._sources = _Lists([table["source_ids"] for table in tables])
        self._targets = _Lists([table["target_ids"] for table in tables])

    def __len__(self) -> int:
        return len(self._sources.lengths)

    @property
    def source_lengths(self) -> NDArray[np.int64]:
        """Source tokens of each row, special tokens included."""
        return self._sources.lengths

    @property
    def target_lengths(self) -> NDArray[np.int64]:
        """Target tokens of each row, special tokens included."""
        return self._targets.lengths

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids under which rows stand in the ledger."""
        return [self._ids[row].as_py() for row in rows.tolist()]

    def source(self, row: int) -> Ids:
        """Return the source ids of a row."""
        return self._sources[row]

    def target(self, row: int) -> Ids:
        """Return the target ids of a row."""
        return self._targets[row]


class _Lists:
    """A list<int32> column over several shards."""

    def __init__(self, columns: list[pa.ChunkedArray]) -> None:
        chunks = [chunk for column in columns for chunk in column.chunks]
        # By DLPack and by row, since between NumPy and Arrow all else imports pandas.
        self._values = [cast(Ids, np.from_dlpack(chunk.values)) for chunk in chunks]
        self._offsets = [np.from_dlpack(chunk.offsets).astype(np.int64) for chunk in chunks]
        self._first_rows = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        self.lengths = np.concatenate([np.diff(offsets) for offsets in self._offsets])

    def __getitem__(self, row: int) -> Ids:
        chunk = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        offsets, local = self._offsets[chunk], row - self._first_rows[chunk]
        return self._values[chunk][offsets[local] : offsets[local + 1]]


class SummaryTask:
    """Document in, summary out."""

    def __init__(self, split: EncodedSplit) -> None:
        self._split = split
        self.source_lengths = split.source_lengths
        self.target_lengths = split.target_lengths
        self.ids = split.ids

    def row(self, row: int, _epoch: int) -> tuple[Ids, Ids]:
        """Return source and target ids."""
        return self._split.source(row), self._split.target(row)


class HeadTask:
    """Document with masked tokens in, its own first tokens out: teaches a new model to read and copy."""

    def __init__(
        self, split: EncodedSplit, settings: WarmStartConfig, *, mask_id: int, seed: int
    ) -> None:
        self._split, self._settings, self._mask_id, self._seed = split, settings, mask_id, seed
        self.source_lengths = np.minimum(split.source_lengths, settings.source_tokens)
        self.target_lengths = np.minimum(self.source_lengths, settings.target_tokens)
        self.ids = split.ids

    def row(self, row: int, epoch: int) -> tuple[Ids, Ids]:
        """Return the masked document and its head; the mask is drawn from (seed, epoch, row)."""
        source = _head(self._split.source(row), self._settings.source_tokens)
        head = _head(source, self._settings.target_tokens)
        random = np.random.default_rng(counter_seed(self._seed, "mask", epoch, row))
        masked = source.copy()
        hidden = random.random(len(source)) < self._settings.mask
        hidden[[0, -1]] = False  # <s> and </s> stay
        masked[hidden] = self._mask_id
        return masked, head


def _head(ids: Ids, limit: int) -> Ids:
    """Cut to `limit` tokens, the last of them </s>."""
    return ids if len(ids) <= limit else np.concatenate([ids[: limit - 1], ids[-1:]])


Task = SummaryTask | HeadTask


def collate(
    rows: list[tuple[Ids, Ids]], *, pad_id: int, start_id: int, device: torch.device
) -> Batch:
    """Pad rows into a micro-batch; decoder inputs are the targets shifted right behind `start_id`."""
    source_ids = _pad([source for source, _ in rows], pad_id)
    target_ids = _pad([target for _, target in rows], pad_id)
    source_lengths = torch.tensor([len(source) for source, _ in rows])
    target_lengths = torch.tensor([len(target) for _, target in rows])
    source_mask = torch.arange(source_ids.shape[1])[None, :] < source_lengths[:, None]
    target_mask = torch.arange(target_ids.shape[1])[None, :] < target_lengths[:, None]
    decoder_ids = target_ids.roll(1, dims=1)
    decoder_ids[:, 0] = start_id
    batch = Batch.of(source_ids, source_mask.long(), decoder_ids, target_ids, target_mask)
    return batch.to(device)


def _pad(sequences: list[Ids], pad_id: int) -> Tensor:
    padded = np.full((len(sequences), max(map(len, sequences))), pad_id, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return torch.from_numpy(padded)
