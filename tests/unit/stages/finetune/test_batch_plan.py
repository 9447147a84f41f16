"""The batch plan: complete, bounded, even, the same for every layout and found without history."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.finetune.batch_plan import (
    SHIFTS,
    BatchPlan,
    Classes,
    Int64s,
    _cut,
    idle_share,
    lane_slots,
)
from stages.finetune.config import BatchConfig
from stages.finetune.costs import Costs

BART_LARGE = Costs(1024, 12, 12, 4096, 4096, 50_265)

lengths = st.lists(st.tuples(st.integers(2, 70), st.integers(2, 30)), min_size=1, max_size=120)
configs = st.builds(
    BatchConfig,
    lanes=st.integers(1, 9),
    lane_tokens=st.integers(20, 400),
    source_bucket=st.integers(1, 20),
    target_bucket=st.integers(1, 10),
)
quick = settings(max_examples=60, deadline=None)


def new_plan(pairs: list[tuple[int, int]], config: BatchConfig, seed: int = 1) -> BatchPlan:
    sources, targets = np.asarray(pairs, dtype=np.int64).T
    return BatchPlan(sources, targets, config, seed, BART_LARGE)


def updates(plan: BatchPlan, epoch: int) -> list[list[Int64s]]:
    planned = plan.epoch(epoch)
    return [planned.update(index) for index in range(plan.updates_per_epoch)]


def as_lists(planned: list[list[Int64s]]) -> list[list[list[int]]]:
    return [[lane.tolist() for lane in update] for update in planned]


@quick
@given(lengths, configs, st.integers(0, 5))
def test_every_row_comes_exactly_once_an_epoch(
    pairs: list[tuple[int, int]], config: BatchConfig, epoch: int
) -> None:
    planned = updates(new_plan(pairs, config), epoch)
    rows = [int(row) for update in planned for lane in update for row in lane]
    assert sorted(rows) == list(range(len(pairs)))


@quick
@given(lengths, configs, st.integers(0, 5))
def test_micro_batches_keep_to_the_bound_unless_a_row_is_alone(
    pairs: list[tuple[int, int]], config: BatchConfig, epoch: int
) -> None:
    for update in updates(new_plan(pairs, config), epoch):
        assert 1 <= len(update) <= config.lanes
        for lane in update:
            source, target = (max(pairs[row][side] for row in lane) for side in (0, 1))
            assert len(lane) == 1 or len(lane) * (source + target) <= config.lane_tokens


@quick
@given(lengths, configs)
def test_rows_over_the_bound_are_counted(pairs: list[tuple[int, int]], config: BatchConfig) -> None:
    over = sum(source + target > config.lane_tokens for source, target in pairs)
    assert new_plan(pairs, config).oversized == over


def lane_shapes(plan: BatchPlan, epoch: int) -> Counter[tuple[int, int, int]]:
    """Rows and bounds of width of an epoch's micro-batches."""
    counts, *shapes = (column.tolist() for column in plan.epoch(epoch).shapes)
    found: Counter[tuple[int, int, int]] = Counter()
    for count, rows, source, target in zip(counts, *shapes, strict=True):
        found[rows, source, target] += count
    return found


@quick
@given(lengths, configs, st.randoms(use_true_random=False), st.integers(0, 40))
def test_shapes_depend_on_the_lengths_only(
    pairs: list[tuple[int, int]], config: BatchConfig, random: object, epoch: int
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    plan, other = new_plan(pairs, config), new_plan(shuffled, config, seed=2)
    assert plan.updates_per_epoch == other.updates_per_epoch
    assert lane_shapes(plan, epoch) == lane_shapes(other, epoch)


@quick
@given(lengths, configs, st.integers(0, 40))
def test_every_update_fills_all_lanes_while_rows_suffice(
    pairs: list[tuple[int, int]], config: BatchConfig, epoch: int
) -> None:
    plan = new_plan(pairs, config)
    sizes = sorted(map(len, updates(plan, epoch)))
    assert sum(sizes) == min(plan.updates_per_epoch * config.lanes, len(pairs))
    assert sizes[0] >= 1
    assert sizes[1:] == [config.lanes] * (plan.updates_per_epoch - 1)


@quick
@given(lengths, configs, st.integers(0, 40))
def test_micro_batches_have_the_shapes_foretold(
    pairs: list[tuple[int, int]], config: BatchConfig, epoch: int
) -> None:
    """Of each number of rows there are as many as foretold, and no wider than the widest of them."""
    plan = new_plan(pairs, config)
    lanes = [lane for update in updates(plan, epoch) for lane in update]
    foretold = lane_shapes(plan, epoch)
    for size in {len(lane) for lane in lanes}:
        shapes = [
            shape[1:] for shape, count in foretold.items() for _ in range(count) if shape[0] == size
        ]
        found = [
            tuple(max(pairs[row][side] for row in lane) for side in (0, 1))
            for lane in lanes
            if len(lane) == size
        ]
        assert len(found) == len(shapes)
        for side in (0, 1):
            highest = sorted(shape[side] for shape in shapes)
            assert all(
                width <= bound
                for width, bound in zip(sorted(f[side] for f in found), highest, strict=True)
            )


def cut_row_by_row(classes: list[tuple[int, int, int]], lane_tokens: int) -> list[tuple[int, int]]:
    """First place and rows of each micro-batch, by taking one row after the other."""
    widths = [(source, target) for count, source, target in classes for _ in range(count)]
    cuts = [0]
    for place in range(1, len(widths)):
        source, target = (max(w[side] for w in widths[cuts[-1] : place + 1]) for side in (0, 1))
        if (place + 1 - cuts[-1]) * (source + target) > lane_tokens:
            cuts.append(place)
    return [(first, end - first) for first, end in zip(cuts, [*cuts[1:], len(widths)], strict=True)]


@quick
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(2, 70), st.integers(2, 30)),
        min_size=1,
        max_size=15,
    ),
    st.integers(2, 400),
)
def test_cuts_equal_those_made_row_by_row(
    classes: list[tuple[int, int, int]], lane_tokens: int
) -> None:
    counts, sources, targets = np.asarray(classes).T
    runs = _cut(Classes(counts, np.cumsum(counts), sources, targets, counts, counts), lane_tokens)
    found = [
        (run.first + number * run.rows, run.rows) for run in runs for number in range(run.repeats)
    ]
    assert found == cut_row_by_row(classes, lane_tokens)


def log_normal(rows: int) -> list[tuple[int, int]]:
    """Lengths shaped like news articles and their summaries."""
    random = np.random.default_rng(0)
    sources = np.clip(np.exp(random.normal(np.log(600), 0.6, rows)), 4, 1024).astype(int)
    targets = np.clip(np.exp(random.normal(np.log(60), 0.4, rows)), 4, 142).astype(int)
    return list(zip(sources.tolist(), targets.tolist(), strict=True))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    pairs, config = log_normal(300), BatchConfig(lanes=4)
    plan = new_plan(pairs, config)
    first = as_lists(updates(plan, 3))
    assert as_lists(updates(new_plan(pairs, config), 3)) == first
    assert as_lists(updates(plan, 4)) != first
    assert as_lists(updates(new_plan(pairs, config, seed=2), 3)) != first


def company(plan: BatchPlan, epoch: int) -> set[frozenset[int]]:
    """The rows of each micro-batch that has more than one."""
    lanes = [lane for update in updates(plan, epoch) for lane in update]
    return {frozenset(lane.tolist()) for lane in lanes if len(lane) > 1}


@pytest.mark.parametrize(("lane_tokens", "most"), [(4096, 0.03), (2048, 0.12)])
def test_rows_of_sparse_classes_change_their_company(lane_tokens: int, most: float) -> None:
    """2,000 rows in 1,000 classes; with the same boundaries in every epoch it was 0.19 and 0.28."""
    plan = new_plan(log_normal(2000), BatchConfig(lane_tokens=lane_tokens))
    epochs = [company(plan, epoch) for epoch in range(5)]
    for before, after in pairwise(epochs):
        assert len(before & after) < most * len(after)


def test_boundaries_return_after_a_while_and_not_before() -> None:
    plan = new_plan(log_normal(500), BatchConfig())
    seen = [lane_shapes(plan, epoch) for epoch in range(2 * SHIFTS)]
    assert all(seen[epoch] == seen[epoch + SHIFTS] for epoch in range(SHIFTS))
    assert all(seen[epoch] != seen[epoch + 1] for epoch in range(SHIFTS - 1))


def test_any_two_rows_of_a_class_meet_as_often() -> None:
    """24 rows in 6 micro-batches of 4: two meet in one with chance 3/23, in an update of two with 7/23."""
    plan = new_plan([(8, 4)] * 24, BatchConfig(lanes=2, lane_tokens=48))
    epochs = 1000
    meetings: Counter[tuple[int, int]] = Counter()
    together: Counter[tuple[int, int]] = Counter()
    for epoch in range(epochs):
        for update in updates(plan, epoch):
            together.update(combinations(sorted(int(row) for lane in update for row in lane), 2))
            for lane in update:
                assert len(lane) == 4
                meetings.update(combinations(sorted(lane.tolist()), 2))
    pairs = list(combinations(range(24), 2))
    assert within_chance(meetings, pairs, epochs, 3 / 23)
    assert within_chance(together, pairs, epochs, 7 / 23)


def within_chance(
    met: Counter[tuple[int, int]], pairs: list[tuple[int, int]], epochs: int, chance: float
) -> bool:
    """Whether no pair is 5 standard deviations off, and the spread of all is that of chance, +- 30 %."""
    scores = np.asarray([met[pair] - epochs * chance for pair in pairs])
    scores /= np.sqrt(epochs * chance * (1 - chance))
    return bool(np.abs(scores).max() < 5 and 0.7 < np.mean(scores**2) < 1.3)


def test_updates_are_run_in_another_order_each_epoch() -> None:
    """The update of the long row comes at each of 8 places in 50 +- 6.6 of 400 epochs."""
    plan = new_plan([(8, 4)] * 15 + [(40, 8)], BatchConfig(lanes=2, lane_tokens=12))
    assert plan.updates_per_epoch == 8
    at = Counter(
        next(
            place
            for place, update in enumerate(updates(plan, epoch))
            if 15 in np.concatenate(update)
        )
        for epoch in range(400)
    )
    assert all(abs(at[place] - 50) < 4 * 6.6 for place in range(8))


@pytest.mark.parametrize(
    ("rows", "lane_tokens", "least"),
    [(5000, 4096, 0.975), (5000, 8192, 0.965), (5000, 16_384, 0.955), (700, 2048, 0.965)],
)
@pytest.mark.parametrize("epoch", [0, 7])
def test_eight_lanes_spend_their_flops_on_tokens(
    rows: int, lane_tokens: int, least: float, epoch: int
) -> None:
    """Share = FLOPs without padding / (lanes x FLOPs of the costliest lane, summed over updates)."""
    pairs = np.asarray(log_normal(rows))
    plan = new_plan(log_normal(rows), BatchConfig(lanes=8, lane_tokens=lane_tokens))
    useful = int(BART_LARGE.of(np.ones(rows, dtype=np.int64), *pairs.T).sum())
    waited = sum(
        max(int(BART_LARGE.of(np.asarray(len(lane)), *pairs[lane].max(axis=0))) for lane in update)
        for update in updates(plan, epoch)
    )
    assert useful / (8 * waited) >= least


@pytest.mark.slow
def test_ten_million_rows_take_three_sorts_at_most_and_a_gibibyte() -> None:
    random = np.random.default_rng(0)
    sources = np.clip(np.exp(random.normal(np.log(700), 0.5, 10**7)), 4, 1024).astype(np.int64)
    targets = np.clip(np.exp(random.normal(np.log(66), 0.4, 10**7)), 4, 142).astype(np.int64)

    def find() -> None:
        plan = BatchPlan(sources, targets, BatchConfig(), 1, BART_LARGE)
        plan.epoch(1000).update(plan.updates_per_epoch - 1)

    def seconds(work: Callable[[], object]) -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    sort = min(seconds(lambda: np.argsort(sources, kind="stable")) for _ in range(3))  # a second
    assert min(seconds(find) for _ in range(3)) < 3 * sort
    tracemalloc.start()
    find()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**30


def test_late_epochs_are_found_as_fast_as_the_first() -> None:
    pairs, config = log_normal(5000), BatchConfig()
    plan = new_plan(pairs, config)

    def seconds(epoch: int) -> float:
        started = time.perf_counter()
        plan.epoch(epoch).update(0)
        return time.perf_counter() - started

    first, late = (min(seconds(epoch) for _ in range(7)) for epoch in (0, 1_000_000))
    assert late < 5 * first + 0.005


def test_an_update_is_found_without_the_ones_before_it() -> None:
    pairs, config = log_normal(500), BatchConfig(lanes=3)
    last = new_plan(pairs, config).epoch(1000).update(11)
    walked = new_plan(pairs, config)
    for epoch in (0, 1, 999):
        updates(walked, epoch)
    assert as_lists([last]) == as_lists([updates(walked, 1000)[11]])


@pytest.mark.parametrize(
    ("lanes", "ranks", "slots", "idle"),
    [
        (8, 1, 8, 0.0),
        (8, 2, 4, 0.0),
        (8, 3, 3, 1 / 9),
        (8, 5, 2, 2 / 10),
        (8, 7, 2, 6 / 14),
        (8, 8, 1, 0.0),
        (1, 1, 1, 0.0),
        (6, 4, 2, 2 / 8),
    ],
)
def test_slots_and_idle_share_by_hand(lanes: int, ranks: int, slots: int, idle: float) -> None:
    assert lane_slots(lanes, ranks) == slots
    assert idle_share(lanes, ranks) == pytest.approx(idle, abs=1e-15)


@pytest.mark.parametrize("ranks", range(1, 9))
def test_ranks_share_the_lanes_without_gap_or_overlap(ranks: int) -> None:
    taken = [rank + slot * ranks for rank in range(ranks) for slot in range(lane_slots(8, ranks))]
    assert sorted(lane for lane in taken if lane < 8) == list(range(8))


def test_fewer_rows_than_lanes_make_one_update_of_single_rows() -> None:
    plan = new_plan([(5, 5), (30, 9)], BatchConfig(lanes=8))
    assert plan.updates_per_epoch == 1
    assert sorted(lane.tolist() for lane in plan.epoch(0).update(0)) == [[0], [1]]


def test_the_costliest_micro_batches_are_halved_to_fill_the_lanes() -> None:
    """Four rows for 3 lanes: two and two under the bound, four times one under any lower bound."""
    plan = new_plan([(15, 5)] * 4, BatchConfig(lanes=3, lane_tokens=40))
    assert sorted(map(len, plan.epoch(0).update(0))) == [1, 1, 2]


def test_the_bound_is_lowered_to_even_out_the_lanes() -> None:
    """Twelve rows for 3 lanes: ten and two under the bound, four each under a lower one."""
    plan = new_plan([(15, 5)] * 12, BatchConfig(lanes=3, lane_tokens=200))
    assert list(map(len, plan.epoch(0).update(0))) == [4, 4, 4]


def test_long_rows_and_wide_numbers() -> None:
    """Lengths beyond 16 bits, and buckets of one token."""
    pairs = [(70_000 + k % 3, 2 + k % 5) for k in range(40)]
    config = BatchConfig(lanes=2, lane_tokens=150_000, source_bucket=1, target_bucket=1)
    rows = [
        int(row)
        for update in updates(new_plan(pairs, config), 3)
        for lane in update
        for row in lane
    ]
    assert sorted(rows) == list(range(40))
