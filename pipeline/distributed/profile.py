"""DeepSpeed sharding profiles: found by name or path, read, and checked without importing DeepSpeed."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config import JSON
from pipeline.errors import ConfigError
from pipeline.provenance import CHECKOUT

OWNED_BY_RECIPE = {
    "train_batch_size": "finetune.batch",
    "train_micro_batch_size_per_gpu": "finetune.batch",
    "gradient_accumulation_steps": "finetune.batch.lanes",
    "gradient_clipping": "finetune.optimizer.clip_norm",
    "optimizer": "finetune.optimizer",
    "scheduler": "finetune.schedule",
    "bf16": "finetune.precision",
    "fp16": "finetune.precision",
    "torch_autocast": "finetune.precision",
    "amp": "finetune.precision",
}

# What spreads state and work over ranks, or shows it, and leaves every update the same.
_SHARDING = {
    *("stage", "reduce_bucket_size", "allgather_bucket_size", "allgather_partitions"),
    *("reduce_scatter", "overlap_comm", "contiguous_gradients", "round_robin_gradients"),
    *("offload_optimizer", "offload_param", "sub_group_size", "use_multi_rank_bucket_allreduce"),
    *("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"),
    *("stage3_model_persistence_threshold", "stage3_max_live_parameters"),
    *("stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save"),
}
_BESIDE = {
    *("zero_optimization", "zero_force_ds_cpu_optimizer", "aio"),
    *("wall_clock_breakdown", "memory_breakdown", "flops_profiler", "comms_logger"),
}


_SMALLEST_BUCKET, _LARGEST_BUCKET = 2_000_000, 50_000_000


def bucket_elements(parameters: int) -> int:
    """Return the elements of a reduction bucket for a model of `parameters`, where the profile has none.

    DeepSpeed's default of 5e8 costs gigabytes a rank whatever the model (measured with 0.19.8).
    """
    return min(max(parameters // 4, _SMALLEST_BUCKET), _LARGEST_BUCKET)


def profiles_folder() -> Path:
    """Return the checkout's ds_configs/.

    Raises:
        ConfigError: If the packages do not run from their checkout.
    """
    folder = CHECKOUT / "ds_configs"
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: is missing; sumpipe runs from its checkout: install it there with "
            "`pip install -e .`, or give --ds-config a path"
        )
    return folder


def find_profile(name_or_path: str) -> Path:
    """Return the profile file for a name such as `zero2`, or for a path.

    Raises:
        ConfigError: If there is none, it is not JSON, or it sets what the recipe owns.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        folder = profiles_folder()
        path = folder / f"{name_or_path}.json"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
            raise ConfigError(f"--ds-config {name_or_path}: no such profile; there are {known}")
    load_profile(path)
    return path.resolve()


def load_profile(path: Path) -> JSON:
    """Read a profile.

    Raises:
        ConfigError: If it cannot be read, is not a JSON object, or sets a key that the recipe owns.
    """
    try:
        profile = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}: is not JSON ({error.msg})") from error
    if not isinstance(profile, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(profile).__name__}")
    doubled = [f"{key} (set {OWNED_BY_RECIPE[key]})" for key in profile if key in OWNED_BY_RECIPE]
    if doubled:
        raise ConfigError(
            f"{path}: a profile owns sharding only; these belong to the recipe: {', '.join(doubled)}"
        )
    sharding = profile.get("zero_optimization", {})
    if not isinstance(sharding, dict):
        raise ConfigError(f"{path}: zero_optimization is {sharding!r}; expected an object")
    for keys, allowed, where in (
        (profile, _BESIDE, ""),
        (sharding, _SHARDING, "zero_optimization."),
    ):
        strange = sorted(set(keys) - allowed)
        if strange:
            raise ConfigError(
                f"{path}: {where}{strange[0]} is no sharding setting, and might change the updates, which a "
                f"profile must not; allowed here: {', '.join(sorted(allowed))}"
            )
    stage = sharding.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"{path}: zero_optimization.stage is {stage!r}; allowed: 0, 1, 2, 3")
    return profile
