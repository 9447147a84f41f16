"""The batch plan: complete, bounded, even, the same for every layout and found without history."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.finetune.batch_plan import BatchPlan, Int64s, idle_share, lane_slots
from stages.finetune.config import BatchConfig

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
    return BatchPlan(sources, targets, config, seed, d_model=64)


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


def padded_shapes(
    plan: BatchPlan, pairs: list[tuple[int, int]], config: BatchConfig, epoch: int
) -> Counter[tuple[int, int, int]]:
    """Rows and padded widths of an epoch's micro-batches, widths in length classes."""
    return Counter(
        (
            len(lane),
            max(-(-pairs[row][0] // config.source_bucket) for row in lane),
            max(-(-pairs[row][1] // config.target_bucket) for row in lane),
        )
        for update in updates(plan, epoch)
        for lane in update
    )


@quick
@given(lengths, configs, st.randoms(use_true_random=False))
def test_shapes_depend_on_the_lengths_only(
    pairs: list[tuple[int, int]], config: BatchConfig, random: object
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    plan, other = new_plan(pairs, config), new_plan(shuffled, config, seed=2)
    assert plan.updates_per_epoch == other.updates_per_epoch
    expected = padded_shapes(plan, pairs, config, 0)
    assert padded_shapes(plan, pairs, config, 7) == expected
    assert padded_shapes(other, shuffled, config, 0) == expected


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


def test_another_epoch_mixes_rows_and_updates() -> None:
    plan = new_plan(log_normal(2000), BatchConfig())
    groups, costs = [], []
    for epoch in (0, 1):
        planned = updates(plan, epoch)
        groups.append({frozenset(lane.tolist()) for update in planned for lane in update})
        costs.append([sum(map(len, update)) for update in planned])
    assert len(groups[0] & groups[1]) < 0.5 * len(groups[0])
    assert costs[0] != costs[1]


@pytest.mark.parametrize("lane_tokens", [4096, 8192])
def test_eight_lanes_waste_less_than_a_tenth(lane_tokens: int) -> None:
    """Efficiency = real tokens / tokens that lanes are busy or waiting for.

    = padding share (sum of real / sum of padded tokens)
    x straggler share (sum of padded / sum over updates of lanes * largest padded micro-batch)
    """
    pairs, config = log_normal(5000), BatchConfig(lanes=8, lane_tokens=lane_tokens)
    real = sum(map(sum, pairs))
    padded = waited = 0
    for update in updates(new_plan(pairs, config), 0):
        costs = [
            len(lane) * sum(max(pairs[row][side] for row in lane) for side in (0, 1))
            for lane in update
        ]
        padded += sum(costs)
        waited += 8 * max(costs)
    assert (real / padded) * (padded / waited) >= 0.9


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


def test_fewer_micro_batches_than_lanes_make_one_update() -> None:
    plan = new_plan([(5, 5), (30, 9)], BatchConfig(lanes=8))
    assert plan.updates_per_epoch == 1
    assert len(plan.epoch(0).update(0)) <= 2
