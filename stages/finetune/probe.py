"""Try the largest micro-batch on this machine's GPU and compare what it took with the forecast."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import psutil
import torch

from pipeline.distributed import collectives
from pipeline.distributed.profile import load_profile
from pipeline.distributed.world import World, free_port, limit_threads
from pipeline.errors import ConfigError, LaunchError
from pipeline.stage import Figure, Forecast, ForecastContext
from stages.finetune.build import build_engine
from stages.finetune.config import FinetuneConfig
from stages.finetune.forecast import model_of, sized, work_of
from stages.finetune.memory import CPU, GPU, Shape, Sharding, device_memory
from stages.finetune.model import Batch, R3FModel
from stages.finetune.peak_memory import peak_memory

_MOST_SLOTS = 2
"""Most micro-batches of an update that is tried: the second one meets the gradients of the first."""


def probe(config: FinetuneConfig, context: ForecastContext) -> Forecast:
    """Run two updates of the largest micro-batch in one process; implements Forecaster.

    Raises:
        LaunchError: If there is no GPU, or the micro-batch does not fit into its memory.
        ConfigError: If the model is not fetched yet.
    """
    if not torch.cuda.is_available():
        raise LaunchError(
            "--probe: no GPU here, and nothing was tried; run it on a machine with one, or plan without it"
        )
    return tried(config, context)


def tried(config: FinetuneConfig, context: ForecastContext) -> Forecast:
    """Do what `probe` does, on any device."""
    model = model_of(context)
    if model is None or "fetch" not in context.inputs:
        raise ConfigError("--probe: needs the model; run with --only fetch first")
    shape = work_of(config, context, model.sizes).shapes[1]
    folder = context.inputs["fetch"].directory("model")
    profile = context.execution.ds_profile
    device = GPU if torch.cuda.is_available() else CPU
    slots = min(config.batch.lanes, _MOST_SLOTS)
    batch = config.batch.model_copy(update={"lanes": slots})
    config = config.model_copy(update={"batch": batch})
    sharding = Sharding.of_profile(load_profile(profile), 1, slots)
    predicted = device_memory(model.sizes, shape, config, sharding, device).peak
    limit_threads(context.execution.threads)
    try:
        measured = peak_bytes(config, folder, profile, shape, context.execution.threads)
    except torch.cuda.OutOfMemoryError as error:
        free = torch.cuda.mem_get_info()[1]
        raise LaunchError(
            f"--probe: {shape.rows} rows of {shape.sources} + {shape.targets} tokens do not fit into this "
            f"GPU's {sized(free)} (predicted: {sized(predicted)}): lower finetune.batch.lane_tokens, or set "
            "finetune.activation_checkpointing or another --ds-config"
        ) from error
    tokens = f"{shape.rows} x ({shape.sources} + {shape.targets})"
    figures = (
        Figure("micro-batch tried", f"{tokens}, in one process with {profile.stem}", "exact"),
        Figure("memory predicted", sized(predicted), "estimate"),
        Figure("memory taken", f"{sized(measured)}, {measured / predicted:.2f} of it", "measured"),
    )
    details = {
        "micro_batch": shape._asdict(),
        "processes": 1,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "device_bytes_predicted": predicted,
        "device_bytes_measured": measured,
    }
    return Forecast(figures, details)


def peak_bytes(
    config: FinetuneConfig, model_folder: Path, profile: Path, shape: Shape, threads: int
) -> int:
    """Train two updates on random tokens of one shape; returns the most bytes allocated.

    On a GPU those of torch's allocator; on a CPU the growth of the process's resident memory at its peak.
    """
    world = World(master_port=free_port())
    before = psutil.Process().memory_info().rss
    with collectives.joined(world, threads):
        engine = build_engine(config, model_folder, profile, world)
        if engine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(engine.device)
        engine.train(True)
        vocabulary = cast(R3FModel, engine.module).bart.config.vocab_size
        batch = _random_batch(vocabulary, shape).to(engine.device)
        for _ in range(2 * config.batch.lanes):  # AdamW has its moments from the second update on
            engine.backward(engine(batch).total / batch.target_mask_BT.sum())
            engine.step(0.0)
        peak = peak_memory(engine.device)
        engine.close()
    return peak if engine.device.type == "cuda" else peak - before


def _random_batch(vocabulary: int, shape: Shape) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def tokens(width: int) -> torch.Tensor:
        return torch.randint(vocabulary, (shape.rows, width), generator=generator)

    source_ids_BS, target_ids_BT = tokens(shape.sources), tokens(shape.targets)
    source_mask_BS = torch.ones_like(source_ids_BS)
    source_mask_BS[:, -1:] = 0  # some padding, so that attention takes its masked form
    target_mask_BT = torch.ones_like(target_ids_BT, dtype=torch.bool)
    return Batch.of(source_ids_BS, source_mask_BS, target_ids_BT, target_ids_BT, target_mask_BT)
