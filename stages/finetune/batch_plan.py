"""Which rows form which micro-batch of which update: a pure function, the same on any number of ranks.

Rows are sorted by length class (source bucket, target bucket) and cut into micro-batches under a bound
of padded tokens; micro-batches of near-equal cost share an update, one a lane. The cuts depend on the
multiset of length classes only, so every epoch has the same updates-per-epoch and any update of any
epoch is found without planning the ones before it. What changes with the epoch is which row stands at
which place within its class, and the order of the updates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.finetune.config import BatchConfig
from stages.finetune.randomness import counter_seed

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Costs:
    """What a padded micro-batch costs, in multiples of one token's matrix products of one layer.

    With ffn = 4 d an encoder token costs 12 d^2 multiplications, which is the unit; a decoder token 14 d^2
    (cross-attention has queries and outputs of its own) and each source token 2 d^2 for its keys and
    values in every decoder layer; a query against S keys costs S / (6 d). The output head is left out.
    """

    d_model: int

    def of(self, rows: Int64s, sources: Int64s, targets: Int64s) -> NDArray[np.float64]:
        """Return the cost of micro-batches of `rows` rows padded to `sources` and `targets` tokens."""
        encoder = sources * (1 + sources / (6 * self.d_model))
        decoder = targets * (7 / 6 + (targets + sources) / (6 * self.d_model)) + sources / 6
        return np.asarray(rows * (encoder + decoder), dtype=np.float64)


class BatchPlan:
    """The micro-batches of a training set, for any update.

    Args:
        sources: Source length of each row in tokens, int [N].
        targets: Target length of each row in tokens, int [N].
        config: Lanes and bounds.
        seed: Seed of the order.
        d_model: Width of the model, which weighs attention against matrix products.
    """

    def __init__(
        self, sources: Int64s, targets: Int64s, config: BatchConfig, seed: int, d_model: int
    ) -> None:
        self._targets = targets
        self._seed = seed
        self._lanes = config.lanes
        source_class = -(-sources // config.source_bucket)
        target_class = -(-targets // config.target_bucket)
        self._class = source_class * (int(target_class.max()) + 1) + target_class
        ordered = np.argsort(self._class, kind="stable")
        widest_source = source_class[ordered] * config.source_bucket
        widest_target = target_class[ordered] * config.target_bucket
        self._cuts = _cut(widest_source, widest_target, config.lane_tokens)
        starts, ends = self._cuts[:-1], self._cuts[1:]
        costs = Costs(d_model).of(
            ends - starts,
            np.maximum.reduceat(widest_source, starts),
            np.maximum.reduceat(widest_target, starts),
        )
        self._by_cost = np.argsort(costs, kind="stable")
        self.oversized = int(np.sum(sources + targets > config.lane_tokens))
        """Rows longer than the bound, each alone in its micro-batch."""

    @property
    def updates_per_epoch(self) -> int:
        """Updates that visit every row once."""
        return -(-len(self._by_cost) // self._lanes)

    def epoch(self, epoch: int) -> EpochPlan:
        """Return the plan of one epoch; a few sorts, whichever epoch it is."""
        random = np.random.default_rng(counter_seed(self._seed, "order", epoch))
        shuffled = random.permutation(len(self._class))
        rows = shuffled[np.argsort(self._class[shuffled], kind="stable")]
        return EpochPlan(
            rows, self._cuts, self._by_cost, random.permutation(self.updates_per_epoch), self._lanes
        )


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """One epoch's micro-batches."""

    rows: Int64s
    """All rows in the order of their length classes."""
    cuts: Int64s
    """Micro-batch k holds rows[cuts[k] : cuts[k + 1]]."""
    by_cost: Int64s
    """Micro-batches in order of cost; each run of `lanes` of them is an update."""
    order: Int64s
    """Updates in the order in which they are run."""
    lanes: int

    def update(self, index: int) -> list[Int64s]:
        """Return the micro-batches (row numbers) of the epoch's `index`-th update, one a lane.

        The last few micro-batches may fill fewer lanes than the others.
        """
        start = int(self.order[index]) * self.lanes
        chosen = self.by_cost[start : start + self.lanes]
        return [self.rows[self.cuts[k] : self.cuts[k + 1]] for k in chosen]


def _cut(sources: Int64s, targets: Int64s, lane_tokens: int) -> Int64s:
    """Cut rows, sorted by class, where the next one would break the bound; returns the boundaries."""
    cuts = [0]
    source = target = 0
    for index, (next_source, next_target) in enumerate(
        zip(sources.tolist(), targets.tolist(), strict=True)
    ):
        source, target = max(source, next_source), max(target, next_target)
        if (index + 1 - cuts[-1]) * (source + target) > lane_tokens and index > cuts[-1]:
            cuts.append(index)
            source, target = next_source, next_target
    return np.asarray([*cuts, len(sources)], dtype=np.int64)


def lane_slots(lanes: int, ranks: int) -> int:
    """Return how many micro-batches each rank runs in an update; short ranks repeat one at weight 0."""
    return -(-lanes // ranks)


def idle_share(lanes: int, ranks: int) -> float:
    """Return the share of an update's work that ranks repeat for nothing."""
    return 1.0 - lanes / (lane_slots(lanes, ranks) * ranks)
