"""The work told before training, against the batch plan walked through row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import CorruptArtifact
from stages.finetune.batch_plan import SHIFTS, BatchPlan, idle_share, lane_slots
from stages.finetune.config import FinetuneConfig
from stages.finetune.costs import Costs
from stages.finetune.lengths import row_lengths
from stages.finetune.memory import Shape
from stages.finetune.sizes import BartSizes
from stages.finetune.workload import Lengths, bytes_of, idleness, possible_shapes, workload

SIZES = BartSizes(32, 2, 2, 2, 2, 64, 96, 300, 256)
COSTS = Costs(32, 2, 2, 64, 96, 300)
LANES = 4


def config(updates: int = 600, lane_tokens: int = 600, warm_share: float = 0.0) -> FinetuneConfig:
    return FinetuneConfig.model_validate(
        {
            "updates": updates,
            "schedule": {"warmup_updates": 1},
            "batch": {"lanes": LANES, "lane_tokens": lane_tokens},
            "warm_start": {"share": warm_share, "source_tokens": 8, "target_tokens": 8},
        }
    )


def lengths(rows: int = 800) -> Lengths:
    random = np.random.default_rng(0)
    return Lengths(random.integers(3, 250, rows), random.integers(3, 60, rows))


def walked(given: Lengths, settings: FinetuneConfig, epoch: int) -> list[list[Shape]]:
    """Return the shapes of every micro-batch of an epoch, as its rows really are."""
    plan = BatchPlan(given.sources, given.targets, settings.batch, 1, COSTS)
    planned = plan.epoch(epoch)
    return [
        [
            Shape(len(rows), int(given.sources[rows].max()), int(given.targets[rows].max()))
            for rows in planned.update(index)
        ]
        for index in range(plan.updates_per_epoch)
    ]


def test_tokens_padding_and_flops_are_those_of_the_plan() -> None:
    given, settings = lengths(), config()
    found = workload(given, settings, 1, SIZES)
    plan = BatchPlan(given.sources, given.targets, settings.batch, 1, COSTS)
    updates = [
        sum(int(given.targets[rows].sum()) for rows in plan.epoch(0).update(index))
        for index in range(plan.updates_per_epoch)
    ]
    padded = sum(s.rows * (s.sources + s.targets) for u in walked(given, settings, 0) for s in u)
    real = int(given.sources.sum() + given.targets.sum())
    assert found.rows == 800
    assert found.updates_per_epoch == plan.updates_per_epoch
    assert found.epochs == pytest.approx(600 / plan.updates_per_epoch)
    assert found.target_tokens == (min(updates), pytest.approx(np.mean(updates)), max(updates))
    assert found.padding_share == pytest.approx(1 - real / padded, abs=1e-12)
    exact = COSTS.of(np.ones_like(given.sources), given.sources, given.targets).sum()
    least = 6 * int(exact) / plan.updates_per_epoch  # forward and backward of both passes
    assert least <= found.update_flops <= 1.2 * least
    assert not found.is_sampled


@pytest.mark.parametrize("lane_tokens", [200, 600, 3000])
def test_no_micro_batch_of_any_epoch_needs_more_than_the_worst(lane_tokens: int) -> None:
    given, settings = lengths(), config(lane_tokens=lane_tokens)
    found = workload(given, settings, 1, SIZES)
    most = max(
        bytes_of(shape, settings, SIZES)
        for epoch in range(SHIFTS)
        for update in walked(given, settings, epoch)
        for shape in update
    )
    assert most <= bytes_of(found.worst, settings, SIZES) <= 1.1 * most


def test_a_warm_start_counts_where_it_needs_more() -> None:
    """Its rows are cut to 8 + 8 tokens: many decoder positions for the same bound of tokens."""
    given = lengths()._replace(sources=np.full(800, 200))
    plain = workload(given, config(), 1, SIZES)
    warm = workload(given, config(warm_share=0.5), 1, SIZES)
    assert warm.epochs == pytest.approx(plain.epochs / 2)
    assert warm.worst != plain.worst
    assert warm.worst.targets <= 8


def test_rows_over_the_bound_are_counted() -> None:
    given = lengths()
    found = workload(given, config(lane_tokens=200), 1, SIZES)
    assert found.oversized == int(np.sum(given.sources + given.targets > 200))


def test_bounds_hold_before_lengths_are_known() -> None:
    """Whatever rows come, none longer than the limits, their largest micro-batch is within the bound."""
    settings = config(lane_tokens=600)
    bound = max(bytes_of(shape, settings, SIZES) for shape in possible_shapes(settings, 250, 60))
    for seed in range(5):
        random = np.random.default_rng(seed)
        most = random.integers(3, 251), random.integers(3, 61)
        given = Lengths(random.integers(2, most[0], 300), random.integers(2, most[1], 300))
        worst = workload(given, settings, 1, SIZES).worst
        assert bytes_of(worst, settings, SIZES) <= bound


@pytest.mark.parametrize(
    ("lanes", "processes", "share", "as_fast", "better"),
    [
        (8, 8, 0.0, 8, None),
        (8, 5, 0.2, 4, 8),
        (8, 3, 1 / 9, 3, 4),
        (16, 6, 1 / 9, 6, 8),
        (6, 4, 0.25, 3, 6),
        (7, 2, 1 / 8, 2, 7),
    ],
)
def test_idleness_by_hand(
    lanes: int, processes: int, share: float, as_fast: int, better: int | None
) -> None:
    found = idleness(lanes, processes)
    assert found.share == pytest.approx(share, abs=1e-12)
    assert (found.as_fast, found.next_better) == (as_fast, better)


@pytest.mark.parametrize("lanes", range(1, 20))
def test_fewest_processes_that_are_as_fast(lanes: int) -> None:
    for processes in range(1, lanes + 1):
        found = idleness(lanes, processes)
        slots = lane_slots(lanes, processes)
        as_fast = [w for w in range(1, lanes + 1) if lane_slots(lanes, w) == slots]
        assert found.as_fast == min(as_fast)
        if found.next_better is not None:
            assert idle_share(lanes, found.next_better) < found.share


def write_shard(path: Path, rows: list[tuple[int, int]]) -> None:
    columns = {
        name: pa.array([[7] * row[side] for row in rows], pa.list_(pa.int32()))
        for side, name in enumerate(("source_ids", "target_ids"))
    }
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def test_lengths_are_read_from_all_shards_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.arrow", [(3, 2), (0, 5), (9, 1)])
    write_shard(tmp_path / "00001.arrow", [(4, 4)])
    found = row_lengths(tmp_path)
    assert found.sources.tolist() == [3, 0, 9, 4]
    assert found.targets.tolist() == [2, 5, 1, 4]
    assert found.sources.dtype == np.int64


def test_a_folder_without_shards_is_damage(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="no Arrow shard"):
        row_lengths(tmp_path)
