"""Which rows form which micro-batch of which update: a pure function, the same on any number of ranks.

Rows are put into length classes, a bucket of sources by a bucket of targets. The classes are laid out
back and forth (targets rise in one bucket of sources and fall in the next, so that neighbours are
alike) and cut into micro-batches under a bound of padded tokens. Micro-batches in order of cost share
updates, one a lane, so that the lanes of an update cost nearly the same.

The epoch decides which row stands where in its class, in which order updates are run, and where the
bucket boundaries lie: without the last, classes of few rows would keep them together in every epoch.
Every epoch has as many updates as the boundaries that need most. To fill the lanes of all of them the
bound is lowered until nearly as many micro-batches are needed, and the costliest are halved for the rest.

Nothing is done row by row but one radix sort by length. The cuts are kept as runs of equal
micro-batches, some for each class, and permutations are evaluated for the rows asked for, so an update
is found at once in any epoch, and an epoch in the time that its classes take.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.finetune.config import BatchConfig
from stages.finetune.costs import Costs
from stages.finetune.permutation import keyed, permute
from stages.finetune.randomness import counter_seed

Int64s = NDArray[np.int64]

SHIFTS = 16
"""Most places for the bucket boundaries; epoch e takes those of epoch e - SHIFTS again."""


class BatchPlan:
    """The micro-batches of a training set, for any update.

    Args:
        sources: Source length of each row in tokens, int [N].
        targets: Target length of each row in tokens, int [N].
        config: Lanes and bounds.
        seed: Seed of the order.
        costs: What a micro-batch costs the model.
    """

    def __init__(
        self, sources: Int64s, targets: Int64s, config: BatchConfig, seed: int, costs: Costs
    ) -> None:
        self._config, self._seed, self._costs = config, seed, costs
        self._cells = _cells(sources, targets)
        self._shifts = _shifts(config)
        most = max(
            _size(_cut(_classes(self._cells, config, shift), config.lane_tokens))
            for shift in self._shifts
        )
        self.updates_per_epoch = -(-most // config.lanes)
        """Updates that visit every row once; the same in every epoch, whatever the seed."""
        is_over = self._cells.sources + self._cells.targets > config.lane_tokens
        self.oversized = int(self._cells.counts[is_over].sum())
        """Rows longer than the bound, each alone in its micro-batch."""

    def epoch(self, epoch: int) -> EpochPlan:
        """Return the plan of one epoch; the same effort for each."""
        config, updates = self._config, self.updates_per_epoch
        classes = _classes(self._cells, config, self._shifts[epoch % len(self._shifts)])
        runs = _cut_into(updates * config.lanes, classes, config.lane_tokens, self._costs)
        firsts, rows, counts, widest_sources, widest_targets = np.asarray(runs, dtype=np.int64).T
        by_cost = np.argsort(-self._costs.of(rows, widest_sources, widest_targets), kind="stable")
        shapes = Shapes(*(a[by_cost] for a in (counts, rows, widest_sources, widest_targets)))
        keys = counter_seed(self._seed, "rows", epoch), counter_seed(self._seed, "updates", epoch)
        return EpochPlan(
            self._cells, classes, shapes, firsts[by_cost], config.lanes, updates, *keys
        )


class Shapes(NamedTuple):
    """Runs of equal micro-batches, the costliest first; int [runs] each."""

    counts: Int64s
    """Micro-batches of the run."""
    rows: Int64s
    """Rows of each."""
    sources: Int64s
    """Most source tokens of their rows' classes."""
    targets: Int64s
    """Most target tokens of their rows' classes."""


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """One epoch's micro-batches."""

    cells: Cells
    classes: Classes
    shapes: Shapes
    """What the micro-batches look like; each is padded to no more than this."""
    firsts: Int64s
    """Place of each run's first row, in the order of classes."""
    lanes: int
    updates: int
    row_key: int
    update_key: int

    def update(self, index: int) -> list[Int64s]:
        """Return the micro-batches (row numbers) of the epoch's `index`-th update, one a lane.

        All updates fill all lanes, unless the epoch has fewer rows than lanes to fill: then all rows
        are alone and one update has fewer.
        """
        key = np.asarray([self.update_key], dtype=np.uint64)
        group = int(permute(np.asarray([index]), np.asarray([self.updates]), key)[0])
        run_ends = np.cumsum(self.shapes.counts)
        numbers = np.arange(
            group * self.lanes, min((group + 1) * self.lanes, run_ends[-1]), dtype=np.int64
        )
        runs = np.searchsorted(run_ends, numbers, side="right")
        sizes = self.shapes.rows[runs]
        number_in_run = numbers - run_ends[runs] + self.shapes.counts[runs]
        firsts = self.firsts[runs] + number_in_run * sizes
        ends = np.cumsum(sizes)
        places = np.repeat(firsts - ends + sizes, sizes) + np.arange(ends[-1])
        return np.split(self._rows(places), ends[:-1])

    def _rows(self, places: Int64s) -> Int64s:
        """Return the rows that stand at places of the order of classes; int [places]."""
        classes = self.classes
        number = np.searchsorted(classes.ends, places, side="right")
        sizes = classes.counts[number]
        starts = classes.ends[number] - sizes
        moved = starts + permute(places - starts, sizes, keyed(self.row_key, number))
        cell = np.searchsorted(classes.cell_ends, moved, side="right")
        return np.asarray(self.cells.rows[moved + classes.cell_offsets[cell]], dtype=np.int64)


class Cells(NamedTuple):
    """Rows of equal length in source and target form a cell."""

    rows: NDArray[np.int32] | Int64s
    """All rows by source length, then target length; int [rows]."""
    counts: Int64s
    """Rows of each cell, in the same order; int [cells], as the next two."""
    sources: Int64s
    targets: Int64s


def _cells(sources: Int64s, targets: Int64s) -> Cells:
    # Lengths under 2^16 as 16-bit numbers: numpy sorts these by radix, ten times as fast.
    keys = [side.astype(np.min_scalar_type(int(side.max()))) for side in (targets, sources)]
    order = np.lexsort(keys)
    is_first = np.zeros(len(order), dtype=np.bool_)
    is_first[0] = True
    for key in keys:
        ordered = key[order]
        is_first[1:] |= ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(is_first)
    counts = np.diff(starts, append=len(order))
    first_rows = order[starts]
    rows = order.astype(np.int32) if len(order) < 2**31 else order
    return Cells(rows, counts, sources[first_rows], targets[first_rows])


def _shifts(config: BatchConfig) -> list[tuple[int, int]]:
    """Return how far epochs move the boundaries of source and target buckets, in tokens."""
    size = config.source_bucket * config.target_bucket
    numbers = np.arange(min(SHIFTS, size))
    chosen = permute(numbers, np.full_like(numbers, size), np.zeros(len(numbers), dtype=np.uint64))
    return [divmod(number, config.target_bucket) for number in chosen.tolist()]


class Classes(NamedTuple):
    """Length classes in the order in which they are cut; places count rows in this order."""

    counts: Int64s
    """Rows of each class; int [classes], as the next three."""
    ends: Int64s
    """Place after the last row."""
    sources: Int64s
    """Most source tokens of a row."""
    targets: Int64s
    """Most target tokens of a row."""
    cell_ends: Int64s
    """Place after the last row of each cell; int [cells], as the next one."""
    cell_offsets: Int64s
    """What leads from a place in the cell to its number in `Cells.rows`."""


def _classes(cells: Cells, config: BatchConfig, shift: tuple[int, int]) -> Classes:
    source_class = -(-(cells.sources + shift[0]) // config.source_bucket)
    target_class = -(-(cells.targets + shift[1]) // config.target_bucket)
    width = int(target_class.max()) + 1
    is_odd = source_class % 2 == 1
    number = source_class * width + np.where(is_odd, width - 1 - target_class, target_class)
    order = np.argsort(number.astype(np.min_scalar_type(int(number.max()))), kind="stable")
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    cell_counts = cells.counts[order]
    cell_ends = np.cumsum(cell_counts)
    counts = np.add.reduceat(cell_counts, starts)
    return Classes(
        counts,
        np.cumsum(counts),
        np.maximum.reduceat(cells.sources[order], starts),
        np.maximum.reduceat(cells.targets[order], starts),
        cell_ends,
        np.cumsum(cells.counts)[order] - cell_ends,
    )


class Run(NamedTuple):
    """Micro-batches one after the other, of equal size and width."""

    first: int
    """Place of the first row."""
    rows: int
    """Rows of each."""
    repeats: int
    """How many there are."""
    source: int
    """Most source tokens of a row."""
    target: int
    """Most target tokens of a row."""


def _cut(classes: Classes, lane_tokens: int) -> list[Run]:
    """Cut the order of classes where the next row would break the bound of padded tokens."""
    runs: list[Run] = []
    first = rows = widest_source = widest_target = 0  # the micro-batch that is still open
    columns = (classes.counts, classes.sources, classes.targets)
    for count, source, target in zip(*(column.tolist() for column in columns), strict=True):
        left = count
        if rows:
            both = max(widest_source, source), max(widest_target, target)
            added = min(left, max(0, lane_tokens // sum(both) - rows))
            if added:
                rows, left = rows + added, left - added
                widest_source, widest_target = both
            if left == 0:
                continue
            runs.append(Run(first, rows, 1, widest_source, widest_target))
            first += rows
        most = max(1, lane_tokens // (source + target))
        full, rows = divmod(left, most)
        if full:
            runs.append(Run(first, most, full, source, target))
            first += full * most
        widest_source, widest_target = source, target
    if rows:
        runs.append(Run(first, rows, 1, widest_source, widest_target))
    return runs


def _size(runs: list[Run]) -> int:
    return sum(run.repeats for run in runs)


def _cut_into(wanted: int, classes: Classes, lane_tokens: int, costs: Costs) -> list[Run]:
    """Cut into as many micro-batches as wanted, under the lowest bound that needs no more."""
    too_low, enough = 0, lane_tokens
    while enough - too_low > 1:
        bound = (too_low + enough) // 2
        if _size(_cut(classes, bound)) <= wanted:
            enough = bound
        else:
            too_low = bound
    runs = _cut(classes, enough)
    return _halve(runs, wanted - _size(runs), costs)


def _halve(runs: list[Run], missing: int, costs: Costs) -> list[Run]:
    """Halve the costliest micro-batches until there are `missing` more, or no row has company."""

    def entry(run: Run) -> tuple[int, Run]:
        return -int(costs.of(*np.asarray([run.rows, run.source, run.target]))), run

    heap = [entry(run) for run in runs if run.rows > 1]
    heapq.heapify(heap)
    done = [run for run in runs if run.rows == 1]
    while missing and heap:
        _, run = heapq.heappop(heap)
        halved, half = min(missing, run.repeats), run.rows // 2
        whole = run.repeats - halved
        middle = run.first + whole * run.rows
        parts = [
            run._replace(repeats=whole),
            run._replace(first=middle, rows=half, repeats=halved),
            run._replace(first=middle + halved * half, rows=run.rows - half, repeats=halved),
        ]
        for part in parts:
            if part.repeats and part.rows == 1:
                done.append(part)
            elif part.repeats:
                heapq.heappush(heap, entry(part))
        missing -= halved
    return done + [run for _, run in heap]


def lane_slots(lanes: int, ranks: int) -> int:
    """Return how many micro-batches each rank runs in an update; short ranks repeat one at weight 0."""
    return -(-lanes // ranks)


def idle_share(lanes: int, ranks: int) -> float:
    """Return the share of an update's work that ranks repeat for nothing."""
    return 1.0 - lanes / (lane_slots(lanes, ranks) * ranks)
