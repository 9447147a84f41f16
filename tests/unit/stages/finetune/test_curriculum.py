"""Which task an update works on, and the divisor of its loss."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from stages.finetune.config import BatchConfig, FinetuneConfig, ScheduleConfig, WarmStartConfig
from stages.finetune.costs import Costs
from stages.finetune.curriculum import Curriculum
from stages.finetune.data import EncodedSplit, HeadTask, SummaryTask

ROWS = 60
COSTS = Costs(16, 2, 1, 24, 32, 100)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> EncodedSplit:
    folder = tmp_path_factory.mktemp("train")
    random = np.random.default_rng(0)
    table = pa.table(
        {
            name: pa.array(
                [[0, *[9] * int(random.integers(longest)), 2] for _ in range(ROWS)],
                pa.list_(pa.int32()),
            )
            for name, longest in (("source_ids", 40), ("target_ids", 12))
        }
        | {"id": [f"row-{row}" for row in range(ROWS)]}
    )
    with (
        pa.OSFile(str(folder / "00000.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    return EncodedSplit(folder)


def new_curriculum(split: EncodedSplit, warm_updates: int) -> Curriculum:
    config = FinetuneConfig(
        updates=1000,
        schedule=ScheduleConfig(warmup_updates=0),
        batch=BatchConfig(lanes=3, lane_tokens=100),
        warm_start=WarmStartConfig(share=warm_updates / 1000),
    )
    return Curriculum(split, config, seed=1, costs=COSTS, mask_id=99)


def test_warm_start_comes_first_and_summarization_starts_at_its_beginning(
    split: EncodedSplit,
) -> None:
    warm, plain = new_curriculum(split, 5), new_curriculum(split, 0)
    assert all(isinstance(warm.update(number).task, HeadTask) for number in range(5))
    for number in range(20):
        work, expected = warm.update(5 + number), plain.update(number)
        assert isinstance(work.task, SummaryTask)
        assert [lane.tolist() for lane in work.lanes] == [lane.tolist() for lane in expected.lanes]


@pytest.mark.parametrize("number", [0, 4, 5, 30])
def test_divisor_is_the_target_tokens_of_all_lanes(split: EncodedSplit, number: int) -> None:
    work = new_curriculum(split, 5).update(number)
    rows = np.concatenate(work.lanes)
    assert work.target_tokens == sum(len(work.task.row(int(row), work.epoch)[1]) for row in rows)


@pytest.mark.parametrize("number", [0, 4, 5, 30])
def test_the_work_is_that_of_each_row_at_its_own_length(split: EncodedSplit, number: int) -> None:
    work = new_curriculum(split, 5).update(number)
    pairs = [work.task.row(int(row), work.epoch) for row in np.concatenate(work.lanes)]
    assert work.tokens == sum(len(source) + len(target) for source, target in pairs)
    one = np.ones(1, dtype=np.int64)
    assert work.forward_flops == sum(
        int(COSTS.of(one, one * len(source), one * len(target))[0]) for source, target in pairs
    )


def test_updates_go_through_whole_epochs(split: EncodedSplit) -> None:
    curriculum = new_curriculum(split, 0)
    size = curriculum.summary_plan.updates_per_epoch
    for epoch in range(3):
        works = [curriculum.update(epoch * size + index) for index in range(size)]
        assert {work.epoch for work in works} == {epoch}
        rows = sorted(int(row) for work in works for lane in work.lanes for row in lane)
        assert rows == list(range(ROWS))


def test_an_update_does_not_depend_on_what_was_asked_before(split: EncodedSplit) -> None:
    walked = new_curriculum(split, 5)
    for number in range(40):
        walked.update(number)
    for number in (3, 77):
        work, fresh = walked.update(number), new_curriculum(split, 5).update(number)
        assert [lane.tolist() for lane in work.lanes] == [lane.tolist() for lane in fresh.lanes]
