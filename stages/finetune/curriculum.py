"""Which rows of which task an update trains on, found from the update's number alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stages.finetune.batch_plan import BatchPlan, EpochPlan, Int64s
from stages.finetune.config import FinetuneConfig
from stages.finetune.costs import Costs
from stages.finetune.data import EncodedSplit, HeadTask, SummaryTask, Task


@dataclass(frozen=True, slots=True)
class UpdateWork:
    """The work of one update, over all ranks."""

    task: Task
    epoch: int
    lanes: list[Int64s]
    """Row numbers of each lane's micro-batch; at most `batch.lanes` of them."""
    target_tokens: int
    """Target tokens of all lanes: the divisor of the update's loss."""
    tokens: int
    """Source and target tokens of all lanes."""
    forward_flops: int
    """Matrix products of a forward pass over all lanes' rows, each at its own length."""


class Curriculum:
    """The warm start, if any, then summarization."""

    def __init__(
        self, split: EncodedSplit, config: FinetuneConfig, seed: int, costs: Costs, mask_id: int
    ) -> None:
        self._costs = costs
        self._warm_updates = config.warm_start_updates
        self._summary = SummaryTask(split)
        self._head = HeadTask(split, config.warm_start, mask_id=mask_id, seed=seed)
        self.summary_plan = plan_of(self._summary, config, seed, costs)
        self._head_plan = plan_of(self._head, config, seed, costs) if self._warm_updates else None
        self._epoch = lru_cache(maxsize=1)(BatchPlan.epoch)

    def update(self, number: int) -> UpdateWork:
        """Return the work of the update with this number, 0 first."""
        if self._head_plan is not None and number < self._warm_updates:
            return self._work(self._head, self._head_plan, number)
        return self._work(self._summary, self.summary_plan, number - self._warm_updates)

    def _work(self, task: Task, plan: BatchPlan, number: int) -> UpdateWork:
        epoch, index = divmod(number, plan.updates_per_epoch)
        planned: EpochPlan = self._epoch(plan, epoch)
        lanes = planned.update(index)
        rows = np.concatenate(lanes)
        sources, targets = task.source_lengths[rows], task.target_lengths[rows]
        target_tokens = int(targets.sum())
        flops = int(self._costs.of(np.ones_like(sources), sources, targets).sum())
        return UpdateWork(
            task, epoch, lanes, target_tokens, int(sources.sum()) + target_tokens, flops
        )


def plan_of(task: Task, config: FinetuneConfig, seed: int, costs: Costs) -> BatchPlan:
    """Return the batch plan of a task."""
    return BatchPlan(task.source_lengths, task.target_lengths, config.batch, seed, costs)
