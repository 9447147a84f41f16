"""DeepSpeed behind one class: the only module that imports it, and the only place that scales a loss."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import deepspeed
import deepspeed.ops
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor, nn

from pipeline.config import JSON
from pipeline.distributed.world import World
from pipeline.errors import CheckpointError

Precision = Literal["fp32", "bf16", "fp16"]
_TAG = "state"
_SMALLEST_BUCKET, _LARGEST_BUCKET = 2_000_000, 50_000_000

# The op serves inference only, but every CPU start compiles it: a minute, a compiler, and an endless
# wait on a stale lock after a kill. (deepspeed 0.19.8, comm/torch.py)
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

_library_logger = logging.getLogger("DeepSpeed")
_library_logger.handlers.clear()
_library_logger.propagate = True
_library_logger.setLevel(logging.WARNING)


class ZeroEngine:
    """A module trained by DeepSpeed ZeRO, one update at a time.

    `lane_slots` is the number of micro-batches that each rank runs in every update. The loss given to
    `backward` is this micro-batch's share of the update's loss; shares are summed, not averaged.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Mapping[str, Any]],
        *,
        profile: JSON,
        world: World,
        lane_slots: int,
        precision: Precision,
        clip_norm: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        optimizer = torch.optim.AdamW(
            [dict(group) for group in groups], lr=0.0, betas=betas, eps=eps
        )
        self.parameter_count = sum(parameter.numel() for parameter in module.parameters())
        """Counted before ZeRO-3 empties the parameters on each rank."""
        self.settings = merge_settings(
            profile, self.parameter_count, lane_slots, precision, clip_norm
        )
        self._world = world
        self._lane_slots = lane_slots
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=self.settings, dist_init_required=False
        )

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self._engine.device)

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage of the profile, 0 to 3."""
        return int(self._engine.zero_optimization_stage())

    def __call__(self, *arguments: Any) -> Any:
        """Run the module's forward under the engine's hooks."""
        return self._engine(*arguments)

    @property
    def module(self) -> nn.Module:
        """The trained module, outside the engine's autocast; at ZeRO-3 every rank must run it alike."""
        module: nn.Module = self._engine.module
        return module

    def train(self, mode: bool) -> None:
        """Switch dropout and noise on or off."""
        self._engine.train(mode)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch's share of the update's loss.

        DeepSpeed divides by the accumulation steps (backward) and by the ranks (all-reduce):
            sum_ranks sum_slots (f * loss) / (slots * ranks), which is the sum we want for f = slots * ranks.
        """
        self._engine.backward(loss * (self._lane_slots * self._world.size))

    def step(self, lr: float) -> None:
        """Finish a micro-batch; at the last one of an update, clip and apply it with rate `lr`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()

    def gradient_norm(self) -> float | None:
        """Return the norm of the last update's gradient before clipping; None at ZeRO-0 in fp32."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def save(self, folder: Path) -> None:
        """Write this rank's part of the state under `folder`; every rank must call it."""
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote at the same world size and ZeRO stage.

        Raises:
            CheckpointError: If DeepSpeed finds nothing to load.
        """
        path, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if path is None:
            raise CheckpointError(f"{folder}: DeepSpeed found no state to load in it")

    def close(self) -> None:
        """Release hooks and buffers."""
        self._engine.destroy()


def merge_settings(
    profile: JSON, parameters: int, lane_slots: int, precision: Precision, clip_norm: float
) -> JSON:
    """Join a sharding profile with what the recipe owns into DeepSpeed's configuration.

    Buckets that the profile leaves open are sized from the model: DeepSpeed's default of 5e8 elements
    costs gigabytes a rank whatever the model (measured with 0.19.8).

    Args:
        profile: A profile from ds_configs/, already checked against recipe keys.
        parameters: Number of parameters of the whole model.
        lane_slots: Micro-batches a rank runs in an update.
        precision: `bf16` autocasts matrix products; parameters and LayerNorm stay fp32.
        clip_norm: Largest gradient norm; 0 for no clipping.
    """
    bucket = min(max(parameters // 4, _SMALLEST_BUCKET), _LARGEST_BUCKET)
    zero = {
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket,
        **profile.get("zero_optimization", {}),
    }
    return {
        **profile,
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": lane_slots,
        "gradient_clipping": clip_norm,
        "torch_autocast": {
            "enabled": precision != "fp32",
            "dtype": "float16" if precision == "fp16" else "bfloat16",
        },
        "steps_per_print": 1_000_000_000,
    }


def full_state(folder: Path) -> dict[str, Tensor]:
    """Return the whole module's fp32 weights from a checkpoint that `ZeroEngine.save` wrote.

    Needs no process group. Tied weights appear under each of their names.
    """
    whole = folder / _TAG / "mp_rank_00_model_states.pt"
    if not list((folder / _TAG).glob("*optim_states.pt")):  # ZeRO-0 keeps the weights in one file
        loaded = torch.load(whole, map_location="cpu", weights_only=False)
        return dict(loaded["module"])
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), _TAG))
