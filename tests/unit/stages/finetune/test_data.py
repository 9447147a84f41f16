"""Encoded rows from Arrow shards, and the micro-batches made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.errors import CorruptArtifact
from stages.finetune.config import WarmStartConfig
from stages.finetune.data import EncodedSplit, HeadTask, SummaryTask, collate

PAD, START, MASK = 1, 2, 99
CPU = torch.device("cpu")
Rows = list[tuple[list[int], list[int]]]

SCHEMA = pa.schema(  # of stages/encode/rows.py
    [
        ("id", pa.string()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("source_tokens_lost", pa.int32()),
        ("target_tokens_lost", pa.int32()),
    ]
)


def random_rows(count: int, seed: int = 0, longest: int = 12) -> Rows:
    random = np.random.default_rng(seed)

    def sequence() -> list[int]:
        return [0, *random.integers(4, 90, random.integers(0, longest)).tolist(), 2]

    return [(sequence(), sequence()) for _ in range(count)]


def write_shard(path: Path, rows: Rows, *, rows_per_batch: int | None = None) -> None:
    columns = {
        "id": [f"{path.stem}-{number}" for number in range(len(rows))],
        "source_ids": [source for source, _ in rows],
        "target_ids": [target for _, target in rows],
        "source_tokens_lost": [0] * len(rows),
        "target_tokens_lost": [0] * len(rows),
    }
    table = pa.table(columns, schema=SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)


def split_of(folder: Path, rows: Rows) -> EncodedSplit:
    write_shard(folder / "00000.arrow", rows)
    return EncodedSplit(folder)


def test_rows_of_several_shards_come_in_order(tmp_path: Path) -> None:
    rows = random_rows(23)
    # Written out of order; one shard of several record batches, one of a single row.
    write_shard(tmp_path / "00002.arrow", rows[11:])
    write_shard(tmp_path / "00000.arrow", rows[:10], rows_per_batch=4)
    write_shard(tmp_path / "00001.arrow", rows[10:11])
    split = EncodedSplit(tmp_path)
    assert len(split) == 23
    found = [(split.source(row).tolist(), split.target(row).tolist()) for row in range(23)]
    assert found == rows
    assert split.source_lengths.tolist() == [len(source) for source, _ in rows]
    assert split.target_lengths.tolist() == [len(target) for _, target in rows]


def test_rows_have_the_ids_of_their_shards(tmp_path: Path) -> None:
    rows = random_rows(9)
    write_shard(tmp_path / "00000.arrow", rows[:5], rows_per_batch=2)
    write_shard(tmp_path / "00001.arrow", rows[5:])
    split = EncodedSplit(tmp_path)
    expected = [f"00000-{row}" for row in range(5)] + [f"00001-{row}" for row in range(4)]
    assert split.ids(np.arange(9)) == expected
    assert split.ids(np.asarray([8, 0, 4, 4])) == [expected[row] for row in (8, 0, 4, 4)]
    assert SummaryTask(split).ids(np.asarray([6])) == ["00001-1"]


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="no Arrow shard"):
        EncodedSplit(tmp_path)


def test_summary_task_is_document_in_summary_out(tmp_path: Path) -> None:
    rows = random_rows(5)
    task = SummaryTask(split_of(tmp_path, rows))
    for row, (source, target) in enumerate(rows):
        for epoch in (0, 3):
            found = task.row(row, epoch)
            assert (found[0].tolist(), found[1].tolist()) == (source, target)


def as_ids(rows: Rows) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.asarray(source, np.int32), np.asarray(target, np.int32)) for source, target in rows]


def test_collate_by_hand() -> None:
    batch = collate(
        as_ids([([0, 7, 2], [0, 8, 9, 2]), ([0, 2], [0, 2])]),
        pad_id=PAD,
        start_id=START,
        device=CPU,
    )
    assert batch.source_ids_BS.tolist() == [[0, 7, 2], [0, 2, PAD]]
    assert batch.source_mask_BS.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.target_ids_BT.tolist() == [[0, 8, 9, 2], [0, 2, PAD, PAD]]
    assert batch.target_mask_BT.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.decoder_ids_BT[0].tolist() == [START, 0, 8, 9]
    assert batch.decoder_ids_BT[1, :2].tolist() == [START, 0]


def test_decoder_inputs_are_targets_shifted_right() -> None:
    batch = collate(as_ids(random_rows(17, 3)), pad_id=PAD, start_id=START, device=CPU)
    assert bool((batch.decoder_ids_BT[:, 0] == START).all())
    is_valid = batch.target_mask_BT[:, 1:]
    shifted, targets = batch.decoder_ids_BT[:, 1:], batch.target_ids_BT[:, :-1]
    assert torch.equal(shifted[is_valid], targets[is_valid])


def test_masks_cover_exactly_the_tokens() -> None:
    rows = random_rows(17, 4)
    batch = collate(as_ids(rows), pad_id=PAD, start_id=START, device=CPU)
    for number, (source, target) in enumerate(rows):
        assert batch.source_ids_BS[number][batch.source_mask_BS[number] == 1].tolist() == source
        assert batch.target_ids_BT[number][batch.target_mask_BT[number]].tolist() == target
    assert bool((batch.source_ids_BS[batch.source_mask_BS == 0] == PAD).all())
    assert bool((batch.target_ids_BT[~batch.target_mask_BT] == PAD).all())
    assert batch.target_mask_BT.dtype == torch.bool


def head_task(folder: Path, *, mask: float = 0.3, count: int = 40, seed: int = 1) -> HeadTask:
    folder.mkdir(exist_ok=True)
    split = split_of(folder, random_rows(count, 5, longest=60))
    settings = WarmStartConfig(source_tokens=64, mask=mask, target_tokens=16)
    return HeadTask(split, settings, mask_id=MASK, seed=seed)


def test_head_task_masks_about_the_share_asked_for(tmp_path: Path) -> None:
    task = head_task(tmp_path, count=300)
    masked = inner = 0
    for row in range(300):
        source, _ = task.row(row, 0)
        masked += int((source == MASK).sum())
        inner += len(source) - 2
    assert inner > 5000
    assert masked / inner == pytest.approx(0.3, abs=0.03)


def test_head_task_changes_nothing_but_inner_tokens(tmp_path: Path) -> None:
    rows = random_rows(40, 5, longest=60)
    task = head_task(tmp_path)
    for row, (plain, _) in enumerate(rows):
        masked = task.row(row, 0)[0].tolist()
        assert len(masked) == len(plain)
        assert (masked[0], masked[-1]) == (0, 2)
        assert all(found in (token, MASK) for found, token in zip(masked, plain, strict=True))


def test_head_is_the_documents_beginning_unmasked_and_closed(tmp_path: Path) -> None:
    rows = random_rows(40, 5, longest=60)
    task = head_task(tmp_path)
    for row, (plain, _) in enumerate(rows):
        head = task.row(row, 0)[1].tolist()
        assert head == (plain if len(plain) <= 16 else [*plain[:15], 2])
        assert len(head) == task.target_lengths[row]
        assert len(plain) == task.source_lengths[row]


def test_mask_is_a_function_of_seed_epoch_and_row(tmp_path: Path) -> None:
    task, same, other = (
        head_task(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )

    def masks(drawn: HeadTask, epoch: int) -> list[list[bool]]:
        return [(drawn.row(row, epoch)[0] == MASK).tolist() for row in range(40)]

    first = masks(task, 0)
    assert masks(same, 0) == masks(task, 0) == first
    assert masks(task, 1) != first
    assert masks(other, 0) != first


def test_masking_leaves_the_encoded_rows_alone(tmp_path: Path) -> None:
    rows = random_rows(10, 6)
    split = split_of(tmp_path, rows)
    task = HeadTask(split, WarmStartConfig(source_tokens=512, mask=0.9), mask_id=MASK, seed=1)
    for row in range(10):
        task.row(row, 0)
    assert [split.source(row).tolist() for row in range(10)] == [source for source, _ in rows]


def test_mask_0_hides_nothing(tmp_path: Path) -> None:
    task = head_task(tmp_path, mask=0.0)
    assert not any((task.row(row, 0)[0] == MASK).any() for row in range(40))


def test_documents_are_cut_for_the_warm_start(tmp_path: Path) -> None:
    rows = random_rows(40, 5, longest=60)
    settings = WarmStartConfig(source_tokens=20, mask=0.0, target_tokens=8)
    task = HeadTask(split_of(tmp_path, rows), settings, mask_id=MASK, seed=1)
    for row, (plain, _) in enumerate(rows):
        source, head = (ids.tolist() for ids in task.row(row, 0))
        assert source == (plain if len(plain) <= 20 else [*plain[:19], 2])
        assert head == (source if len(source) <= 8 else [*source[:7], 2])
        assert len(source) == task.source_lengths[row]
        assert len(head) == task.target_lengths[row]
