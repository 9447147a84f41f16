"""metrics.jsonl and TensorBoard's events after a resume."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from stages.finetune.metrics_log import SET_ASIDE, TRAINING, VALIDATION, MetricsLog, read


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


def set_aside(path: Path) -> list[dict[str, float]]:
    return read(path.parent / SET_ASIDE)


def test_later_records_are_set_aside_and_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 5))
    assert not (tmp_path / SET_ASIDE).exists()
    log = MetricsLog(path, 2)
    assert [record["loss"] for record in set_aside(path)] == [3 / 8, 4 / 8]
    log.add(3, loss=-1.0)
    MetricsLog(path, 2)  # killed again before the next checkpoint
    assert [record["loss"] for record in set_aside(path)] == [3 / 8, 4 / 8, -1.0]
    assert [record["update"] for record in read(path)] == [1, 2]


def several(path: Path, resumed_at: int = 0, *, undone: tuple[str, ...] = ()) -> MetricsLog:
    """Records of all kinds at update 4: training, noise, validation."""
    log = MetricsLog(path, resumed_at, undone=undone)
    if resumed_at < 4:
        log.add(4, loss=0.5)
        log.add(4, **{"r3f/kl_same_dropout": 0.25})
    log.add(4, **{"valid/nll": 2.0, "valid/accuracy": 0.1})
    log.add(5, loss=0.25)
    return log


def test_all_records_of_the_resumed_update_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    several(path)
    before = path.read_bytes().splitlines(keepends=True)
    MetricsLog(path, 4)
    assert path.read_bytes() == b"".join(before[:3])
    assert [json.dumps(record).encode() + b"\n" for record in set_aside(path)] == before[3:]


@pytest.mark.parametrize("resumed_at", [0, 3, 4])
def test_a_validation_that_is_done_again_is_recorded_once(tmp_path: Path, resumed_at: int) -> None:
    path = tmp_path / "metrics.jsonl"
    several(path)
    whole = path.read_bytes()
    several(path, resumed_at, undone=(VALIDATION,))
    assert path.read_bytes() == whole
    kinds = [next(iter(record.keys() - {"update", "valid/accuracy"})) for record in set_aside(path)]
    assert (
        kinds
        == {
            0: ["loss", "r3f/kl_same_dropout", "valid/nll", "loss"],
            3: ["loss", "r3f/kl_same_dropout", "valid/nll", "loss"],
            4: ["valid/nll", "loss"],
        }[resumed_at]
    )


def test_a_last_window_that_is_closed_again_is_recorded_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    several(path)
    MetricsLog(path, 4, undone=(VALIDATION, TRAINING))
    assert [list(record) for record in read(path)] == [["update", "r3f/kl_same_dropout"]]


def test_an_earlier_validation_stays_when_a_later_one_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for update in (2, 4):
        log.add(update, **{"valid/nll": 1.0})
    MetricsLog(path, 4, undone=(VALIDATION,))
    assert [record["update"] for record in read(path)] == [2]


def test_zeros_that_a_power_cut_left_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 3))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100))
    assert [record["update"] for record in read(path)] == [1, 2]
    MetricsLog(path, 2)
    assert path.read_bytes() == whole


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard shows, steps that a restart made anew taken once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_each_update_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the `track` extra")
    path, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    log = MetricsLog(path, 0, tensorboard=folder)
    for update in range(1, 6):
        log.add(update, loss=update / 8, gradient_norm=None if update == 2 else 1.0)
    assert scalars(folder, "loss") == [(update, update / 8) for update in range(1, 6)]
    assert [step for step, _ in scalars(folder, "gradient_norm")] == [1, 3, 4, 5]
    log = MetricsLog(path, 3, tensorboard=folder)
    for update in range(4, 7):
        log.add(update, loss=-update / 8)
    expected = [(1, 1 / 8), (2, 2 / 8), (3, 3 / 8), (4, -4 / 8), (5, -5 / 8), (6, -6 / 8)]
    assert scalars(folder, "loss") == expected
    assert [(record["update"], record["loss"]) for record in read(path)] == expected


def test_without_tensorboard_no_folder_is_made(tmp_path: Path) -> None:
    written(tmp_path / "metrics.jsonl", range(1, 3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_records_that_a_full_disk_refuses_are_written_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.add(1, loss=1.0)

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        log.add(2, loss=2.0)
        log.add(3, loss=3.0)
        with pytest.raises(StorageError, match=r"metrics\.jsonl: No space left on device"):
            log.flush()
    assert [record["update"] for record in read(path)] == [1]
    log.flush()
    assert [record["loss"] for record in read(path)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("junk", [b"3", b"{}", b"\xff\xfe", b"[1]", b'{"update'])
def test_a_line_that_is_no_record_is_named_and_left_out(
    junk: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 3))
    path.write_bytes(junk + b"\n" + path.read_bytes())
    assert [record["update"] for record in read(path)] == [1, 2]
    assert "metrics.jsonl, line 1: no record" in caplog.text


def test_a_log_that_is_gone_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    MetricsLog(tmp_path / "metrics.jsonl", 18)
    assert "the records up to update 18 are gone" in caplog.text


@pytest.mark.parametrize("left", ["whole", "torn", "nothing"])
def test_a_kill_while_records_are_set_aside_neither_loses_nor_doubles_them(
    tmp_path: Path, left: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 5))
    lines = path.read_bytes().splitlines(keepends=True)[2:]
    before = {"whole": b"".join(lines), "torn": lines[0][:7], "nothing": b""}[left]
    (tmp_path / SET_ASIDE).write_bytes(before)  # and the log is as it was
    MetricsLog(path, 2)
    assert [record["loss"] for record in set_aside(path)] == [3 / 8, 4 / 8]
