"""One update, and one pass over the validation split, on all ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pipeline.distributed import collectives, presence
from pipeline.distributed.world import World
from pipeline.distributed.zero import ZeroEngine
from pipeline.preemption import StopFlag
from stages.finetune.batch_plan import BatchPlan, Int64s, lane_slots
from stages.finetune.curriculum import UpdateWork
from stages.finetune.data import Task, collate
from stages.finetune.loss import LossSums
from stages.finetune.model import Batch
from stages.finetune.noise_survival import NoiseProbe
from stages.finetune.nonfinite import LaneLoss
from stages.finetune.randomness import counter_seed

_POLL_BATCHES = 16
"""Validation micro-batches of a rank between two looks at the stop flag."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """What the work of this rank needs besides the rows."""

    engine: ZeroEngine
    world: World
    seed: int
    pad_id: int
    start_id: int

    def batch(self, task: Task, rows: Int64s, epoch: int) -> Batch:
        """Return the padded micro-batch of some rows on this rank's device."""
        pairs = [task.row(int(row), epoch) for row in rows]
        return collate(pairs, pad_id=self.pad_id, start_id=self.start_id, device=self.engine.device)


class Sums(NamedTuple):
    """Loss sums over micro-batches, nats but for `correct`, which counts target tokens."""

    nll: float = 0.0
    smoothing: float = 0.0
    kl: float = 0.0
    correct: float = 0.0

    def plus(self, other: Sums) -> Sums:
        """Return both together."""
        return Sums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an update; the same on all ranks but for `lanes`."""

    sums: Sums
    """Over all lanes."""
    is_applied: bool
    """False if the loss or the gradient was not finite: weights and moments are as they were."""
    must_stop: bool
    """Whether any rank was asked to stop."""
    lanes: list[tuple[LaneLoss, Batch]]
    """This rank's micro-batches, if the update was not applied."""

    @property
    def is_loss_finite(self) -> bool:
        """Whether the loss was; the gradient may still not have been."""
        return all(map(math.isfinite, self.sums))


def train_update(
    ranks: Ranks,
    work: UpdateWork,
    number: int,
    lanes: int,
    lr: float,
    stop: StopFlag,
    probe: NoiseProbe | None = None,
) -> Outcome:
    """Run this rank's lanes of one update and apply it, unless its loss or gradient is not finite.

    The update's loss is sum over all lanes of (nll + smoothing + lambda kl) / target tokens of the update.
    Before each micro-batch the random generators are seeded by (seed, update, lane), so dropout and noise
    depend neither on the number of ranks nor on restarts. A rank with fewer lanes than others repeats one
    with every target masked: the same collectives, no gradient.

    Args:
        ranks: This rank's engine and constants.
        work: The rows.
        number: The update's number, 0 first.
        lanes: Lanes of the plan.
        lr: Learning rate.
        stop: Whether to stop; the ranks agree on it once an update, with the sums.
        probe: Listens to this rank's first lane.
    """
    presence.mark(f"update {number + 1}")
    world, engine = ranks.world, ranks.engine
    slots = lane_slots(lanes, world.size)
    engine.train(True)
    done: list[tuple[int, Batch, torch.Tensor]] = []
    for slot in range(slots):
        lane = world.rank + slot * world.size
        is_idle = lane >= len(work.lanes)
        batch = ranks.batch(work.task, work.lanes[0 if is_idle else lane], work.epoch)
        if is_idle:
            batch = batch.without_targets()
        torch.manual_seed(micro_batch_seed(ranks.seed, number, lane))
        sums: LossSums = engine(batch, probe if slot == 0 else None)
        engine.backward(sums.total / work.target_tokens)
        parts = torch.stack([sums.nll, sums.smoothing, sums.kl, sums.correct]).detach().double()
        done.append((lane, batch, parts))
        if slot < slots - 1:
            engine.step(lr)
    mine = torch.stack([parts for _, _, parts in done]).sum(0).tolist()  # waits for the device
    *agreed, stops = collectives.all_sum([*mine, float(stop.reason is not None)], engine.device)
    total = Sums(*agreed)
    if all(map(math.isfinite, total)):
        is_applied = engine.step(lr)
    else:
        engine.discard()
        is_applied = False
    culprits = [] if is_applied else _described(work, done)
    return Outcome(total, is_applied, stops > 0, culprits)


def micro_batch_seed(seed: int, update: int, lane: int) -> int:
    """Return the seed of dropout and noise of one micro-batch."""
    return counter_seed(seed, "update", update, lane)


def _described(
    work: UpdateWork, done: list[tuple[int, Batch, torch.Tensor]]
) -> list[tuple[LaneLoss, Batch]]:
    return [
        (LaneLoss(lane, work.task.ids(work.lanes[lane]), *parts.tolist()[:3]), batch)
        for lane, batch, parts in done
        if lane < len(work.lanes)
    ]


def kl_at_equal_dropout(ranks: Ranks, work: UpdateWork, number: int) -> float:
    """Return what the noise alone does to lane 0: r3f/kl of it; every rank must call it."""
    lane = min(ranks.world.rank, len(work.lanes) - 1)
    batch = ranks.batch(work.task, work.lanes[lane], work.epoch)
    seed = micro_batch_seed(ranks.seed, number, lane)
    torch.manual_seed(seed)
    ranks.engine.train(True)
    with torch.no_grad():
        sums: LossSums = ranks.engine(batch, None, seed)
    return collectives.broadcast(sums.kl.item() / batch.valid_N.numel())


def validate(ranks: Ranks, task: Task, plan: BatchPlan, stop: StopFlag) -> dict[str, float] | None:
    """Measure a split, without noise and dropout; None if a rank was asked to stop meanwhile.

    Every rank runs the same number of forward passes, as ZeRO-3 requires.

    Returns:
        nll and smoothing in nats per target token, and accuracy: the share of target tokens that have
        the highest probability, given the reference's tokens before them. The same on all ranks.
    """
    world, engine = ranks.world, ranks.engine
    epoch = plan.epoch(0)
    batches = [rows for index in range(plan.updates_per_epoch) for rows in epoch.update(index)]
    engine.train(False)
    mine = torch.zeros(len(Sums._fields), dtype=torch.float64, device=engine.device)
    for slot in range(lane_slots(len(batches), world.size)):
        presence.mark(f"validation batch {slot + 1}")
        if slot % _POLL_BATCHES == 0 and collectives.all_max(
            int(stop.reason is not None), engine.device
        ):
            return None
        number = world.rank + slot * world.size
        is_idle = number >= len(batches)
        batch = ranks.batch(task, batches[0 if is_idle else number], 0)
        with torch.no_grad():
            sums: LossSums = engine(batch.without_targets() if is_idle else batch)
        mine += torch.stack(sums[1:]).double()
    total = Sums(*collectives.all_sum(mine.tolist(), engine.device))
    tokens = int(task.target_lengths.sum())
    return {
        "nll": total.nll / tokens,
        "smoothing": total.smoothing / tokens,
        "accuracy": total.correct / tokens,
    }
