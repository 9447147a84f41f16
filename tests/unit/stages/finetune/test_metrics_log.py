"""metrics.jsonl after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.finetune.metrics_log import MetricsLog, read


def written(path: Path, updates: range) -> MetricsLog:
    log = MetricsLog(path, 0)
    for update in updates:
        log.add(update, loss=update / 8, gradient_norm=None)
    return log


def test_records_are_read_as_written(tmp_path: Path) -> None:
    written(tmp_path / "metrics.jsonl", range(1, 4))
    assert read(tmp_path / "metrics.jsonl") == [
        {"update": update, "loss": update / 8, "gradient_norm": None} for update in (1, 2, 3)
    ]


def test_reopened_at_an_update_later_records_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 10))
    log = MetricsLog(path, 6)
    assert [record["update"] for record in read(path)] == [1, 2, 3, 4, 5, 6]
    log.add(7, loss=0.0)
    assert [record["update"] for record in read(path)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 5))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    if cut > 1:  # without its newline alone, the last record is still whole
        assert [record["update"] for record in read(path)] == [1, 2, 3]
    MetricsLog(path, 3).add(4, loss=4 / 8, gradient_norm=None)
    assert path.read_bytes() == whole


def test_killed_and_resumed_gives_the_bytes_of_one_run(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    written(one, range(1, 9))
    written(two, range(1, 7))  # killed after update 6; the last checkpoint is of update 4
    log = MetricsLog(two, 4)
    for update in range(5, 9):
        log.add(update, loss=update / 8, gradient_norm=None)
    assert two.read_bytes() == one.read_bytes()


def test_a_new_run_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read(path) == []
    MetricsLog(path, 0)
    assert path.read_text(encoding="utf-8") == ""
