"""What fine-tuning will work through: updates, tokens, padding and the largest micro-batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from stages.finetune.batch_plan import SHIFTS, BatchPlan, Int64s, idle_share, lane_slots
from stages.finetune.config import FinetuneConfig
from stages.finetune.costs import Costs
from stages.finetune.memory import Shape, activation_bytes, head_bytes
from stages.finetune.sizes import BartSizes

SAMPLE = 2000
"""Updates that are looked at one by one; their order is random, so of more this many are a fair sample."""


class Lengths(NamedTuple):
    """Tokens of each row, special tokens included; int [rows] each."""

    sources: Int64s
    targets: Int64s


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a training on known rows."""

    rows: int
    updates_per_epoch: int
    epochs: float
    oversized: int
    """Rows longer than `lane_tokens`, each alone in its micro-batch."""
    target_tokens: tuple[int, float, int]
    """Least, mean and most target tokens of an update; the mean is that of an epoch."""
    padding_share: float
    """Share of padding among the positions, source and target, of the updates looked at."""
    is_sampled: bool
    """Whether an epoch has more updates than were looked at."""
    worst: Shape
    """The micro-batch that needs the most memory; none of any epoch is padded to more."""
    update_flops: float
    """Mean FLOPs of an update, forward and backward, all passes."""


def workload(lengths: Lengths, config: FinetuneConfig, seed: int, sizes: BartSizes) -> Workload:
    """Plan the updates on rows of these lengths, as training will."""
    plan = _plan(lengths, config, seed, sizes)
    updates = config.updates - config.warm_start_updates
    epochs = updates / plan.updates_per_epoch
    shapes = set(_shapes(plan, epochs))
    if config.warm_start_updates:
        warm_plan = _plan(_warm_lengths(lengths, config), config, seed, sizes)
        shapes |= set(_shapes(warm_plan, config.warm_start_updates / warm_plan.updates_per_epoch))
    first = plan.epoch(0)
    looked_at = min(plan.updates_per_epoch, SAMPLE)
    tokens, real, padded = [], 0, 0
    for index in range(looked_at):
        micro_batches = first.update(index)
        rows = np.concatenate(micro_batches)
        starts = np.cumsum([0, *map(len, micro_batches)][:-1])
        widest = sum(np.maximum.reduceat(side[rows], starts) for side in lengths)
        padded += int(np.dot(widest, [len(part) for part in micro_batches]))
        tokens.append(int(lengths.targets[rows].sum()))
        real += tokens[-1] + int(lengths.sources[rows].sum())
    mean = int(lengths.targets.sum()) / plan.updates_per_epoch
    counts, *widths = first.shapes
    forward = int(np.dot(counts, _costs(sizes).of(*widths)))
    per_pass = 3 * forward / plan.updates_per_epoch
    return Workload(
        rows=len(lengths.sources),
        updates_per_epoch=plan.updates_per_epoch,
        epochs=epochs,
        oversized=plan.oversized,
        target_tokens=(min(tokens), mean, max(tokens)),
        padding_share=1.0 - real / padded,
        is_sampled=looked_at < plan.updates_per_epoch,
        worst=largest(shapes, config, sizes),
        update_flops=per_pass * config.r3f.passes,
    )


def _plan(lengths: Lengths, config: FinetuneConfig, seed: int, sizes: BartSizes) -> BatchPlan:
    return BatchPlan(lengths.sources, lengths.targets, config.batch, seed, _costs(sizes))


def _costs(sizes: BartSizes) -> Costs:
    return Costs.of_model(asdict(sizes))


def _warm_lengths(lengths: Lengths, config: FinetuneConfig) -> Lengths:
    sources = np.minimum(lengths.sources, config.warm_start.source_tokens)
    return Lengths(sources, np.minimum(sources, config.warm_start.target_tokens))


def _shapes(plan: BatchPlan, epochs: float) -> Iterable[Shape]:
    """Yield the shapes of all micro-batches; epochs repeat theirs after SHIFTS."""
    for epoch in range(min(SHIFTS, math.ceil(epochs))):
        shapes = plan.epoch(epoch).shapes
        columns = (shapes.rows, shapes.sources, shapes.targets)
        yield from map(Shape, *(column.tolist() for column in columns))


def bytes_of(shape: Shape, config: FinetuneConfig, sizes: BartSizes) -> int:
    """Return the bytes that a micro-batch adds to the training state."""
    return activation_bytes(sizes, shape, config) + head_bytes(sizes, shape, config)


def largest(shapes: Iterable[Shape], config: FinetuneConfig, sizes: BartSizes) -> Shape:
    """Return the shape that needs the most memory."""
    return max(shapes, key=lambda shape: (bytes_of(shape, config, sizes), shape))


def possible_shapes(config: FinetuneConfig, max_source: int, max_target: int) -> list[Shape]:
    """Return extreme shapes of a full micro-batch before lengths are known: no row is longer."""
    short = 2  # <s> and </s>
    widths = [(s, t) for s in (short, max_source) for t in (short, max_target)]
    return [Shape(max(1, config.batch.lane_tokens // (s + t)), s, t) for s, t in widths]


@dataclass(frozen=True, slots=True)
class Idleness:
    """How evenly lanes go into processes."""

    share: float
    """Share of the work that is repeated for nothing."""
    as_fast: int
    """Fewest processes that are as fast."""
    next_better: int | None
    """Next larger number of processes that wastes less; None if there is none."""


def idleness(lanes: int, processes: int) -> Idleness:
    """Compare a number of processes with others for the same lanes."""
    share = idle_share(lanes, processes)
    better = (w for w in range(processes + 1, lanes + 1) if idle_share(lanes, w) < share)
    return Idleness(share, -(-lanes // lane_slots(lanes, processes)), next(better, None))
