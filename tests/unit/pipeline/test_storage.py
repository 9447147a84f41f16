"""Storage: retries, the size of a checkpoint, and the room it needs."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.distributed import storage
from pipeline.distributed.loss_scale import GROWTH_INTERVAL, LossScale
from pipeline.distributed.storage import TRIES, checkpoint_bytes, patiently, require_space
from pipeline.errors import StorageError

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("failures", range(TRIES + 1))
def test_a_few_failures_are_waited_out(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", pauses.append)
    left = failures

    def action() -> str:
        nonlocal left
        if left:
            left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return "written"

    if failures < TRIES:
        assert patiently(action, "a file") == "written"
    else:
        with pytest.raises(OSError, match="Input/output error"):
            patiently(action, "a file")
    assert pauses == [0.5, 1.0][:failures]


def test_a_fault_of_another_kind_is_not_tried_again() -> None:
    calls = []

    def action() -> None:
        calls.append(1)
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        patiently(action, "a file")
    assert calls == [1]


def test_too_little_room_is_told_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "not" / "yet"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 30 * 10**9))
    require_space(root, 10 * 10**9, 2)  # two kept and one being written
    with pytest.raises(StorageError) as failure:
        require_space(root, 10 * 10**9 + 1, 2)
    for part in (str(root), "30 GB are free", "2 checkpoints of 10 GB", "need 30 GB", "--run-dir"):
        assert part in str(failure.value)


def test_checkpoints_that_are_there_count_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "update_00000001").mkdir()
    (tmp_path / "update_00000001" / "state.pt").write_bytes(bytes(600))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 400))
    require_space(tmp_path, 500, 1)
    with pytest.raises(StorageError):
        require_space(tmp_path, 501, 1)


def test_the_size_of_bart_large() -> None:
    weights = 406_290_432
    assert checkpoint_bytes(weights, 0, 8) == pytest.approx(12 * weights, rel=1e-3)
    assert checkpoint_bytes(weights, 2, 8) == pytest.approx(16 * weights, rel=1e-3)
    assert checkpoint_bytes(weights, 3, 8) == pytest.approx(12 * weights, rel=1e-3)


def test_it_is_known_without_torch() -> None:
    code = "import sys, pipeline.distributed.storage; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_loss_scale_halves_at_once_and_doubles_late() -> None:
    scale = LossScale()
    assert scale.value == 65536.0
    assert scale.after(is_applied=False) == LossScale(32768.0)
    for _ in range(GROWTH_INTERVAL):
        assert scale.value == 65536.0
        scale = scale.after(is_applied=True)
    assert scale == LossScale(131072.0)
    assert LossScale(64.0, 1999).after(is_applied=False) == LossScale(32.0)
    assert LossScale(1.0).after(is_applied=False).value == 1.0
