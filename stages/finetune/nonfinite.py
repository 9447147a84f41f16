"""What is left of an update whose loss or gradient is not finite: its batches on disk, with row ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file

from pipeline.config import JSON
from pipeline.files import write_json
from stages.finetune.model import Batch


@dataclass(frozen=True, slots=True)
class LaneLoss:
    """One micro-batch of the update, as this rank ran it; loss sums in nats."""

    lane: int
    ids: list[str]
    nll: float
    smoothing: float
    kl: float

    @property
    def is_finite(self) -> bool:
        """Whether all its sums are."""
        return all(map(math.isfinite, (self.nll, self.smoothing, self.kl)))


def write_bundle(folder: Path, lanes: Sequence[tuple[LaneLoss, Batch]], facts: JSON) -> list[str]:
    """Write lanes as `lane_N.safetensors`, the padded tensors, and `lane_N.json`: ids, loss sums and `facts`.

    Returns:
        The ids of all their rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for loss, batch in lanes:
        stem = f"lane_{loss.lane:04d}"
        tensors = {name: tensor.contiguous().cpu() for name, tensor in batch.tensors().items()}
        save_file(tensors, folder / f"{stem}.safetensors")
        sums = {name: str(value) for name, value in asdict(loss).items() if name != "ids"}
        write_json(folder / f"{stem}.json", {**sums, "ids": loss.ids, **facts})
    return [row for loss, _ in lanes for row in loss.ids]
