"""DeepSpeed behind one class: the only module that imports it, and the only place that scales a loss."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import deepspeed
import deepspeed.ops
import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor, nn

from pipeline.config import JSON
from pipeline.distributed.loss_scale import LossScale
from pipeline.distributed.profile import bucket_elements
from pipeline.distributed.storage import patiently
from pipeline.distributed.world import World, uncompiled
from pipeline.errors import CheckpointError, StorageError, storage_error
from pipeline.files import probe_storage

Precision = Literal["fp32", "bf16", "fp16"]
STATE = "state"
"""Folder inside a checkpoint that DeepSpeed writes; its tag."""
_LOSS_SCALE = "loss_scale"
_VECTORS = re.compile(r"(^|\.)(bias|[^.]*layer_?norm[^.]*\.weight)$", re.IGNORECASE)
_FILE_OF_RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_")

# The op serves inference only, but every CPU start compiles it: a minute, a compiler, and an endless
# wait on a stale lock after a kill. (deepspeed 0.19.8, comm/torch.py)
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

# To tell whether an optimizer is Muon it is imported, and wraps its kernels with torch.compile: that loads
# torch's compiler, seconds of every rank's start. (deepspeed 0.19.8, runtime/zero/utils.py)
with uncompiled():
    import deepspeed.runtime.zero.muon.muon_optimizer

_library_logger = logging.getLogger("DeepSpeed")
_library_logger.handlers.clear()
_library_logger.propagate = True
_library_logger.setLevel(logging.WARNING)
# Told by `step`'s answer; not meant for us, who have no tensor parallelism.
_NEEDLESS = re.compile(r"OVERFLOW! Skipping step|MPU is not provided")
_library_logger.addFilter(lambda record: not _NEEDLESS.search(record.getMessage()))


class ZeroEngine:
    """A module trained by DeepSpeed ZeRO, one update at a time.

    `lane_slots` is the number of micro-batches that each rank runs in every update. The loss given to
    `backward` is this micro-batch's share of the update's loss; shares are summed, not averaged.

    fp16's loss scaling is ours. DeepSpeed 0.19.8's own, under `torch_autocast`, clips before it unscales from
    ZeRO-1 on (to `clip_norm` divided by the scale), never lowers the scale after an overflow, and does not
    save it.
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
            [dict(group) for group in groups], lr=0.0, betas=betas, eps=eps, fused=True
        )
        self.parameter_count = sum(map(element_count, module.parameters()))
        """Of the whole model, whatever this rank holds of it."""
        self.settings = merge_settings(
            profile, self.parameter_count, lane_slots, precision, clip_norm
        )
        self.has_saved = False
        """Whether this engine has written a checkpoint."""
        self._world = world
        self._lane_slots = lane_slots
        self._clip_norm = clip_norm
        self._scale = LossScale() if precision == "fp16" else None
        self._norm = 0.0
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=self.settings, dist_init_required=False
        )
        # Two scripts of DeepSpeed's beside each checkpoint; `full_state` does what they are for.
        self._engine._copy_recovery_script = lambda _: None
        if self._scale is not None:
            self._engine.torch_autocast_z0_gradscaler = None
            self._optimizer.torch_autocast_gradscaler = None

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self._engine.device)

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage of the profile, 0 to 3."""
        return int(self._engine.zero_optimization_stage())

    @property
    def loss_scale(self) -> float:
        """What fp16 multiplies the loss by at present; 1 in other precisions."""
        return 1.0 if self._scale is None else self._scale.value

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
        loss = loss * (self._lane_slots * self._world.size)
        if self.zero_stage == 0:
            loss = loss * self.loss_scale
        elif self._scale is not None:
            self._optimizer.override_loss_scale(
                self.loss_scale
            )  # scales, unscales and clips with it
        self._engine.backward(loss)

    def step(self, lr: float) -> bool:
        """Finish a micro-batch; at the last one of an update, clip and apply it with rate `lr`.

        Returns:
            False if the update was dropped on all ranks, weights and moments untouched, because its gradient
            is not finite: in fp16 the loss scale was too large and is lowered. True otherwise.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return True
        if self.zero_stage == 0:
            self._norm = self._clip_whole_gradients()
            if not math.isfinite(self._norm):
                self._engine.zero_grad()  # AdamW passes over parameters without a gradient
            self._engine.step()
        else:
            self._engine.step()
            self._norm = float(self._engine.get_global_grad_norm())
        is_applied = math.isfinite(self._norm)
        self._norm = self._norm if is_applied else math.inf
        if self._scale is not None:
            self._scale = self._scale.after(is_applied=is_applied)
        return is_applied

    def discard(self) -> None:
        """Finish the last micro-batch of an update without applying it; in place of `step`, on all ranks.

        Its gradients are thrown away, whatever they are; weights, moments and loss scale stay.
        """
        self._norm = math.inf
        if self.zero_stage == 0:
            self._engine.zero_grad()
            self._engine.step()
            return
        # DeepSpeed drops an update whose norm is not finite and cleans up after it, at every stage in its own
        # way; so it is told that this one's is not.
        infinity = torch.tensor(math.inf, device=self.device)
        name = "_get_norm_groups" if self.zero_stage == 3 else "scaled_global_norm"
        vars(self._optimizer)[name] = lambda: [infinity] if self.zero_stage == 3 else infinity
        try:
            self._engine.step()
        finally:
            del vars(self._optimizer)[name]

    def gradient_norm(self) -> float:
        """Return the norm of the last update's gradient before clipping; infinite if it was not applied."""
        return self._norm

    def _clip_whole_gradients(self) -> float:
        """Unscale and clip what every rank holds in full at ZeRO-0; returns the unclipped, unscaled norm."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients)) / self.loss_scale
        too_large = max((norm + 1e-6) / self._clip_norm, 1.0) if self._clip_norm > 0 else 1.0
        if math.isfinite(norm) and too_large * self.loss_scale != 1.0:
            torch._foreach_mul_(gradients, 1.0 / (too_large * self.loss_scale))
        return norm

    def save(self, folder: Path) -> None:
        """Write this rank's part of the state under `folder`; every rank must call it.

        A write that fails is tried again. One that fails for good is raised after the other ranks are done
        with theirs: DeepSpeed has barriers inside, and they must not wait for this rank.

        Raises:
            StorageError: If a file of this rank could not be written.
        """
        writer = self._engine.checkpoint_engine = _PatientWriter()
        scale = {} if self._scale is None else {_LOSS_SCALE: dataclasses.astuple(self._scale)}
        self._engine.save_checkpoint(str(folder), tag=STATE, client_state=scale, save_latest=False)
        failure = writer.failure
        if failure is not None:
            probe_storage(folder.parent)  # torch reports a full disk as a bare RuntimeError
            shown = storage_error(failure) if isinstance(failure, OSError) else None
            raise shown or StorageError(f"{folder}: could not be written: {failure}") from failure
        self.has_saved = True

    def load(self, folder: Path, *, is_universal: bool = False) -> None:
        """Read what `save` wrote at the same world size and ZeRO stage.

        Args:
            folder: What `save` was given, or what a conversion of it was written to.
            is_universal: The folder holds DeepSpeed's universal form, which fits any world size.

        Raises:
            CheckpointError: If DeepSpeed finds nothing to load.
        """
        if is_universal:
            with self._reading_universal():
                path, extra = self._engine.load_checkpoint(str(folder), tag=STATE)
        else:
            path, extra = self._engine.load_checkpoint(str(folder), tag=STATE)
        if path is None:
            raise CheckpointError(f"{folder}: DeepSpeed found no state to load in it")
        if self._scale is not None:
            self._scale = LossScale(*extra[_LOSS_SCALE])

    @contextlib.contextmanager
    def _reading_universal(self) -> Iterator[None]:
        """Make DeepSpeed read the universal form, and mend what it gets wrong at ZeRO-3.

        Two faults of 0.19.8 (runtime/zero/stage3.py, load_hp_checkpoint_state_from_checkpoint_dir_stage3):
        every group gets the first group's settings, and all share one `step` tensor, which then
        advances once a group instead of once an update.
        """
        base = getattr(self._optimizer, "optimizer", self._optimizer)
        kept = [{k: v for k, v in g.items() if k != "params"} for g in base.param_groups]
        self._engine._config.load_universal_checkpoint = True
        try:
            yield
        finally:
            self._engine._config.load_universal_checkpoint = False
        for group, settings in zip(base.param_groups, kept, strict=True):
            group.update(settings)
        for state in base.state.values():
            state["step"] = state["step"].clone()

    def close(self) -> None:
        """Release hooks and buffers."""
        self._engine.destroy()


class _PatientWriter(TorchCheckpointEngine):  # type: ignore[misc]
    """Writes DeepSpeed's files with retries, and keeps the last failure instead of raising it."""

    def __init__(self) -> None:
        super().__init__()
        self.zipfile_serialization = True  # only such files can be mapped into memory
        self.failure: OSError | RuntimeError | None = None

    def save(self, state_dict: JSON, path: str) -> None:
        try:
            patiently(lambda: super(_PatientWriter, self).save(state_dict, path), path)
        except (OSError, RuntimeError) as error:
            self.failure = error


def files_of_rank(names: Iterable[str], rank: int) -> list[str]:
    """Pick the files of a checkpoint that this rank wrote; rank 0 wrote those that belong to none."""
    found = ((name, _FILE_OF_RANK.search(name)) for name in names)
    return [name for name, match in found if (int(match[1]) if match else 0) == rank]


def element_count(parameter: nn.Parameter) -> int:
    """Return the elements of a whole parameter, be it partitioned (then its own shape is empty) or not."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    which: Literal["all", "matrices"],
) -> list[dict[str, Any]]:
    """Group parameters by what weight decay applies to, for `ZeroEngine`.

    By name and not by shape: partitioned parameters are all one-dimensional.

    Args:
        named_parameters: Names and parameters of the module, each parameter once.
        weight_decay: Decoupled decay of the groups that decay.
        which: `all`, or `matrices` for all but biases and LayerNorm weights.
    """
    named = list(named_parameters)
    if which == "all":
        return [{"params": [p for _, p in named], "weight_decay": weight_decay}]
    matrices = [p for name, p in named if not _VECTORS.search(name)]
    vectors = [p for name, p in named if _VECTORS.search(name)]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


@contextlib.contextmanager
def partitioned_loading(profile: JSON) -> Iterator[None]:
    """Let `from_pretrained` give each rank only its partition, under a ZeRO-3 profile; else do nothing.

    No rank holds the whole model at any time. transformers asks a process-wide setting, which is there only
    inside this context.
    """
    if profile.get("zero_optimization", {}).get("stage", 0) != 3:
        yield
        return
    from transformers.integrations import deepspeed as settings_of_transformers

    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    setting = _Zero3Setting({**profile, "train_micro_batch_size_per_gpu": 1})
    settings_of_transformers.set_hf_deepspeed_config(setting)  # keeps a weak reference to it
    try:
        yield
    finally:
        settings_of_transformers.unset_hf_deepspeed_config()


@dataclasses.dataclass(frozen=True, weakref_slot=True, slots=True)
class _Zero3Setting:
    """What transformers asks of its HfDeepSpeedConfig, which itself needs the accelerate package."""

    config: JSON

    def is_zero3(self) -> bool:
        return True


def merge_settings(
    profile: JSON, parameters: int, lane_slots: int, precision: Precision, clip_norm: float
) -> JSON:
    """Join a sharding profile with what the recipe owns into DeepSpeed's configuration.

    Args:
        profile: A profile from ds_configs/, already checked against recipe keys.
        parameters: Number of parameters of the whole model.
        lane_slots: Micro-batches a rank runs in an update.
        precision: `bf16` autocasts matrix products; parameters and LayerNorm stay fp32.
        clip_norm: Largest gradient norm; 0 for no clipping.
    """
    bucket = bucket_elements(parameters)
    zero = {
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket,
        "stage": 0,
        **profile.get("zero_optimization", {}),
    }
    return {
        **profile,
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": lane_slots,
        "gradient_clipping": clip_norm if zero["stage"] else 0.0,  # at ZeRO-0 the engine clips
        "torch_autocast": {
            "enabled": precision != "fp32",
            "dtype": "float16" if precision == "fp16" else "bfloat16",
            # Modules whose parameters and gradients would travel between ranks in 16 bits: none.
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 1_000_000_000,
    }


def full_state(folder: Path) -> dict[str, Tensor]:
    """Return the whole module's fp32 weights from a checkpoint that `ZeroEngine.save` wrote.

    Needs no process group. Tied weights appear under each of their names.
    """
    whole = folder / STATE / "mp_rank_00_model_states.pt"
    if not list((folder / STATE).glob("*optim_states.pt")):  # ZeRO-0 keeps the weights in one file
        loaded = torch.load(whole, map_location="cpu", weights_only=False)
        return dict(loaded["module"])
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), STATE))
