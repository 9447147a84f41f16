"""What fine-tuning will take, told by `plan` before a GPU hour is spent; by arithmetic, without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.config import JSON
from pipeline.distributed.profile import load_profile
from pipeline.distributed.storage import checkpoint_bytes
from pipeline.stage import Figure, Forecast, ForecastContext
from stages.finetune.batch_plan import lane_slots
from stages.finetune.config import FinetuneConfig
from stages.finetune.memory import (
    DeviceMemory,
    Shape,
    Sharding,
    device_memory,
    host_bytes,
    resume_bytes,
)
from stages.finetune.selection import kept_beside_newest
from stages.finetune.sizes import KNOWN, BartSizes, read_sizes
from stages.finetune.workload import (
    Idleness,
    Workload,
    bytes_of,
    idleness,
    largest,
    possible_shapes,
    workload,
)

Certainty = Literal["exact", "estimate", "measured", "unknown"]


class Model(NamedTuple):
    """The model's sizes and how surely they are known."""

    sizes: BartSizes
    certainty: Certainty
    source: str
    """Where the sizes are from, for people."""


class Work(NamedTuple):
    """The micro-batches, or what is known of them before `encode` is done."""

    known: Workload | None
    shapes: tuple[Shape, Shape]
    """The largest micro-batch at least and at most; both are the same once rows are known."""
    most_padded_tokens: int
    """Most positions, source and target, of an update."""


def forecast(config: FinetuneConfig, context: ForecastContext) -> Forecast:
    """Tell parameters, memory, disk and updates; implements Forecaster.

    Raises:
        DataError: If the model's config.json is not that of a BART model.
        CorruptArtifact: If an input was damaged after its commit.
    """
    processes = min(context.execution.processes, config.batch.lanes)
    idle = idleness(config.batch.lanes, processes)
    model = model_of(context)
    if model is None:
        text = "not known before `fetch`, which brings the model's config.json"
        figures = [
            Figure("parameters", text, "unknown"),
            *_launch_figures(config, context.execution.processes, idle),
        ]
        return Forecast(tuple(figures), {"parameters": None, **_launch_details(config, idle)})
    work = work_of(config, context, model.sizes)
    profile = load_profile(context.execution.ds_profile)
    sharding = Sharding.of_profile(profile, processes, lane_slots(config.batch.lanes, processes))
    kept = config.keep_checkpoints + kept_beside_newest(config.selection)
    largest_shape = work.shapes[1]
    opposite = config.model_copy(
        update={"activation_checkpointing": not config.activation_checkpointing}
    )
    costs = _Costs(
        [device_memory(model.sizes, shape, config, sharding) for shape in work.shapes],
        [
            device_memory(model.sizes, largest_shape, config, sharding.at(stage)).peak
            for stage in range(4)
        ],
        device_memory(model.sizes, largest_shape, opposite, sharding).peak,
        checkpoint_bytes(model.sizes.parameters, sharding.stage, processes),
        kept,
        processes * host_bytes(model.sizes, sharding),
        resume_bytes(model.sizes, sharding),
    )
    figures = [
        Figure("parameters", f"{model.sizes.parameters:,} ({model.source})", model.certainty),
        *_work_figures(config, work),
        *_launch_figures(config, context.execution.processes, idle),
        *_memory_figures(config, context.execution.ds_profile, work, costs),
    ]
    details = {
        "parameters": model.sizes.parameters,
        "parameters_certainty": model.certainty,
        "sizes": asdict(model.sizes),
        **_launch_details(config, idle),
        **_work_details(config, work, model.sizes),
        **_memory_details(sharding, costs),
    }
    return Forecast(tuple(figures), details)


def model_of(context: ForecastContext) -> Model | None:
    """Return the model's sizes, or None where only `fetch` will tell them."""
    if "fetch" in context.inputs:
        path = context.inputs["fetch"].directory("model") / "config.json"
        return Model(read_sizes(path), "exact", "from the fetched model")
    settings = context.recipe["fetch"]["model"]
    if settings["source"] == "local":
        path = Path(settings["path"]) / "config.json"
        return Model(read_sizes(path), "exact", f"from {path}")
    if settings["source"] == "scratch":
        return _scratch(settings)
    known = KNOWN.get(settings["path"])
    if known is None:
        return None
    return Model(known, "estimate", f"{settings['path']} as published, not fetched yet")


def _scratch(settings: JSON) -> Model:
    """Return the sizes of a model to be made; a vocabulary to be trained may come out smaller."""
    vocabulary, certainty = settings["vocab_size"], "estimate"
    if settings["bpe"] is not None:
        encoder = json.loads((Path(settings["bpe"]) / "encoder.json").read_text(encoding="utf-8"))
        vocabulary, certainty = max(encoder.values()) + 1 + 4 + 1, "exact"  # specials, and <mask>
    layers, heads, ffn = (settings[name] for name in ("layers", "heads", "ffn"))
    sizes = BartSizes(
        d_model=settings["d_model"],
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        vocab_size=vocabulary,
        max_position_embeddings=settings["max_positions"],
    )
    if certainty == "exact":
        return Model(sizes, "exact", "from the recipe")
    return Model(sizes, "estimate", f"if {vocabulary:,} tokens are found to train")


def work_of(config: FinetuneConfig, context: ForecastContext, sizes: BartSizes) -> Work:
    """Return the work, exactly once rows are encoded, before that by its bounds."""
    if "encode" in context.inputs:
        from stages.finetune.lengths import row_lengths  # pyarrow, which `plan` else does without

        lengths = row_lengths(context.inputs["encode"].directory("train"))
        known = workload(lengths, config, context.seed, sizes)
        longest = int((lengths.sources + lengths.targets).max())
        shapes = known.worst, known.worst
    else:
        limits = context.recipe["encode"]
        most = limits["max_source_tokens"], limits["max_target_tokens"]
        known, longest = None, sum(most)
        possible = possible_shapes(config, *most)
        least = min(possible, key=lambda shape: bytes_of(shape, config, sizes))
        shapes = least, largest(possible, config, sizes)
    bound = max(config.batch.lane_tokens, longest)
    return Work(known, shapes, config.batch.lanes * bound)


class _Costs(NamedTuple):
    memory: list[DeviceMemory]
    """On each device, at least and at most."""
    peak_by_stage: list[int]
    other_peak: int
    """With activation checkpointing switched to what it is not."""
    checkpoint: int
    kept: int
    host: int
    resume: int


def _launch_figures(config: FinetuneConfig, asked: int, idle: Idleness) -> list[Figure]:
    lanes = config.batch.lanes
    if asked > lanes:
        text = f"{asked} are more than the {lanes} lanes, and would be refused; told for {lanes}"
        return [Figure("processes", text, "exact")]
    text = f"{100 * idle.share:.1f} % of the work of {lanes} lanes on {asked} processes"
    if idle.share > 0:
        text += f"; {idle.as_fast} processes are as fast"
        if idle.next_better:
            text += f", {idle.next_better} are the next with less idle"
    return [Figure("idle share", text, "exact")]


def _launch_details(config: FinetuneConfig, idle: Idleness) -> JSON:
    return {
        "updates": config.updates,
        "warm_start_updates": config.warm_start_updates,
        "idle_share": idle.share,
        "as_fast_processes": idle.as_fast,
        "next_better_processes": idle.next_better,
    }


def _work_figures(config: FinetuneConfig, work: Work) -> list[Figure]:
    known = work.known
    warm = f", {config.warm_start_updates:,} of warm start" if config.warm_start_updates else ""
    if known is None:
        return [
            Figure(
                "updates", f"{config.updates:,}{warm}; epochs not known before `encode`", "exact"
            ),
            Figure("tokens an update", f"at most {work.most_padded_tokens:,} padded", "estimate"),
            Figure(
                "largest micro-batch", " to ".join(_shape_text(s) for s in work.shapes), "estimate"
            ),
        ]
    least, mean, most = known.target_tokens
    epochs = f"{known.epochs:.2f} epochs of {known.updates_per_epoch:,}"
    is_exact: Certainty = "estimate" if known.is_sampled else "exact"
    alone = f"; {known.oversized:,} rows exceed lane_tokens" if known.oversized else ""
    tokens = f"{mean:,.0f} target tokens ({least:,} to {most:,})"
    return [
        Figure("updates", f"{config.updates:,}{warm}; {epochs}", "exact"),
        Figure("tokens an update", tokens, is_exact),
        Figure("padding", f"{100 * known.padding_share:.1f} % of positions", is_exact),
        Figure("largest micro-batch", _shape_text(known.worst) + alone, "exact"),
        Figure(
            "products",
            f"{known.update_flops * config.updates / 1e15:,.3g} PFLOP in all",
            "estimate",
        ),
    ]


def _shape_text(shape: Shape) -> str:
    return f"{shape.rows} x ({shape.sources} + {shape.targets})"


def _memory_figures(
    config: FinetuneConfig, profile: Path, work: Work, costs: _Costs
) -> list[Figure]:
    least, most = costs.memory
    total = sized(most.peak) if work.known else f"{sized(least.peak)} to {sized(most.peak)}"
    parts = ("weights", "gradients", "optimizer", "buckets", "activations", "head")
    shown = ", ".join(f"{name} {sized(getattr(most, name))}" for name in parts)
    by_stage = ", ".join(
        f"{stage}: {sized(size)}" for stage, size in enumerate(costs.peak_by_stage)
    )
    other = "without" if config.activation_checkpointing else "with"
    held = f"{sized((costs.kept + 1) * costs.checkpoint)} for {costs.kept} kept and 1 being written"
    host = [Figure("host memory", f"{sized(costs.host)} offloaded", "estimate")]
    return [
        Figure("memory a device", f"{total} with {profile.stem}, without CUDA's own", "estimate"),
        Figure("  of it", shown, "estimate"),
        Figure("  by ZeRO stage", by_stage, "estimate"),
        Figure("  otherwise", f"{sized(costs.other_peak)} {other} recomputing", "estimate"),
        *(host if costs.host else []),
        Figure("memory to resume", f"{sized(costs.resume)} on the host at most", "estimate"),
        Figure("checkpoints", f"{sized(costs.checkpoint)} each, {held}", "estimate"),
    ]


def _work_details(config: FinetuneConfig, work: Work, sizes: BartSizes) -> JSON:
    def shape_json(shape: Shape) -> JSON:
        return {**shape._asdict(), "bytes": bytes_of(shape, config, sizes)}

    details: JSON = {
        "is_encoded": work.known is not None,
        "largest_micro_batch_at_least": shape_json(work.shapes[0]),
        "largest_micro_batch_at_most": shape_json(work.shapes[1]),
        "padded_tokens_per_update_at_most": work.most_padded_tokens,
    }
    if work.known is not None:
        known: dict[str, Any] = asdict(work.known)
        known["worst"] = work.known.worst._asdict()
        names = ("target_tokens_least", "target_tokens_mean", "target_tokens_most")
        known |= dict(zip(names, known.pop("target_tokens"), strict=True))
        details |= known
    return details


def _memory_details(sharding: Sharding, costs: _Costs) -> JSON:
    least, most = costs.memory
    return {
        "sharding": asdict(sharding),
        "device_bytes_at_least": least.peak,
        "device_bytes": {**asdict(most), "micro_batch": most.micro_batch, "peak": most.peak},
        "device_bytes_by_zero_stage": costs.peak_by_stage,
        "device_bytes_with_activation_checkpointing_switched": costs.other_peak,
        "host_bytes_offloaded": costs.host,
        "host_bytes_to_resume": costs.resume,
        "checkpoint_bytes": costs.checkpoint,
        "checkpoints_kept": costs.kept,
        "checkpoints_bytes_with_one_partial": (costs.kept + 1) * costs.checkpoint,
    }


def sized(count: int) -> str:
    """Return a number of bytes in binary units."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB"
