"""One update, and one pass over the validation split, on all ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pipeline.distributed import collectives
from pipeline.distributed.world import World
from pipeline.distributed.zero import ZeroEngine
from pipeline.errors import DataError
from pipeline.preemption import StopFlag
from stages.finetune.batch_plan import BatchPlan, Int64s, lane_slots
from stages.finetune.curriculum import UpdateWork
from stages.finetune.data import Task, collate
from stages.finetune.loss import LossSums
from stages.finetune.model import Batch
from stages.finetune.randomness import counter_seed

_GO, _STOP, _NOT_FINITE = 0, 1, 2


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


@dataclass(slots=True)
class Totals:
    """Loss sums of this rank since the last record, in nats."""

    nll: float = 0.0
    smoothing: float = 0.0
    kl: float = 0.0
    target_tokens: int = 0
    """Of all ranks: known from the plan, not communicated."""

    def per_token(self, device: torch.device) -> dict[str, float]:
        """Sum over ranks and divide by the target tokens; nats per target token."""
        nll, smoothing, kl = collectives.all_sum([self.nll, self.smoothing, self.kl], device)
        tokens = self.target_tokens
        return {"nll": nll / tokens, "smoothing": smoothing / tokens, "kl": kl / tokens}


def train_update(
    ranks: Ranks,
    work: UpdateWork,
    number: int,
    lanes: int,
    lr: float,
    totals: Totals,
    stop: StopFlag,
) -> bool:
    """Run this rank's lanes of one update and apply it.

    The update's loss is sum over all lanes of (nll + smoothing + lambda kl) / target tokens of the update.
    Before each micro-batch the random generators are seeded by (seed, update, lane), so dropout and noise
    depend neither on the number of ranks nor on restarts. A rank with fewer lanes than others repeats one
    with every target masked: the same collectives, no gradient.

    Returns:
        Whether any rank was asked to stop; all ranks get the same answer.

    Raises:
        DataError: If a loss is not finite, before the weights are touched; on all ranks.
    """
    world, engine = ranks.world, ranks.engine
    slots = lane_slots(lanes, world.size)
    engine.train(True)
    for slot in range(slots):
        lane = world.rank + slot * world.size
        is_idle = lane >= len(work.lanes)
        batch = ranks.batch(work.task, work.lanes[0 if is_idle else lane], work.epoch)
        if is_idle:
            batch = batch.without_targets()
        torch.manual_seed(counter_seed(ranks.seed, "update", number, lane))
        sums: LossSums = engine(batch)
        engine.backward(sums.total / work.target_tokens)
        totals.nll += sums.nll.item()
        totals.smoothing += sums.smoothing.item()
        totals.kl += sums.kl.item()
        if slot == slots - 1:
            state = _agree(totals, stop, engine.device)
            if state == _NOT_FINITE:
                raise DataError(
                    f"the loss of update {number + 1} is not finite; training stopped before applying it. "
                    "The updates before have likely ruined the weights: lower finetune.optimizer.lr or "
                    "use finetune.precision fp32, and start again with --restart-from finetune"
                )
            engine.step(lr)
            totals.target_tokens += work.target_tokens
            return state == _STOP
        engine.step(lr)
    raise AssertionError("an update has at least one slot")


def _agree(totals: Totals, stop: StopFlag, device: torch.device) -> int:
    is_finite = all(map(math.isfinite, (totals.nll, totals.smoothing, totals.kl)))
    mine = _NOT_FINITE if not is_finite else _STOP if stop.reason else _GO
    return collectives.all_max(mine, device)


def validate(ranks: Ranks, task: Task, plan: BatchPlan) -> dict[str, float]:
    """Return nll and smoothing of a split in nats per target token; the same on all ranks.

    Every rank runs the same number of forward passes, as ZeRO-3 requires.
    """
    world, engine = ranks.world, ranks.engine
    epoch = plan.epoch(0)
    batches = [rows for index in range(plan.updates_per_epoch) for rows in epoch.update(index)]
    engine.train(False)
    sums = [0.0, 0.0]
    for slot in range(lane_slots(len(batches), world.size)):
        number = world.rank + slot * world.size
        is_idle = number >= len(batches)
        batch = ranks.batch(task, batches[0 if is_idle else number], 0)
        with torch.no_grad():
            losses: LossSums = engine(batch.without_targets() if is_idle else batch)
        sums = [sums[0] + losses.nll.item(), sums[1] + losses.smoothing.item()]
    nll, smoothing = collectives.all_sum(sums, engine.device)
    tokens = int(task.target_lengths.sum())
    return {"nll": nll / tokens, "smoothing": smoothing / tokens}
