"""A claim ends with its holder, also with one that died before it wrote its name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipeline import lease, shards
from pipeline.artifact import RunDir
from pipeline.claim import Claim
from pipeline.errors import Preempted
from pipeline.preemption import StopFlag
from tests.fakes.toy_stages import Squares

SECONDS = 1.0


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    first, second = Claim(tmp_path / "a"), Claim(tmp_path / "a")
    assert first.take()
    assert first.token
    assert not second.take()
    assert second.token is None
    second.release()
    assert not second.take()
    first.release()
    assert second.take()


def test_a_nameless_marker_is_removed_after_the_silence_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    claim = Claim(tmp_path / "a", SECONDS)
    asked = time.monotonic()
    assert not claim.take()
    time.sleep(SECONDS / 2)
    assert not claim.take()
    assert claim.take(timeout=5)
    assert time.monotonic() - asked >= SECONDS


def test_a_nameless_marker_that_is_refreshed_is_a_living_holders(tmp_path: Path) -> None:
    """Another host may see a file before what was written to it; a refresh changes its times."""
    (tmp_path / "a").touch()
    claim = Claim(tmp_path / "a", SECONDS)
    deadline = time.monotonic() + 3 * SECONDS
    while time.monotonic() < deadline:
        assert not claim.take()
        time.sleep(SECONDS / 4)
        os.utime(tmp_path / "a")


def test_a_stop_ends_the_wait_for_a_silent_holder(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    stop = StopFlag()
    stop.request("SIGUSR2")
    asked = time.monotonic()
    with pytest.raises(Preempted, match="SIGUSR2"):
        Claim(tmp_path / "a").take(60, stop.check)
    assert time.monotonic() - asked < 5


def test_a_run_directory_whose_taker_died_at_once_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", SECONDS)
    run_dir = RunDir(tmp_path)
    run_dir.lease.touch()
    with lease.hold(run_dir, None) as token:
        lease.require(run_dir, token)


def test_a_shard_whose_taker_died_at_once_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LEASE_SECONDS", SECONDS)
    claims = tmp_path / "claims"
    claims.mkdir()
    (claims / "00001.lease").touch()
    work = shards.Shards(Squares(tmp_path), 3, tmp_path, claims)
    assert list(shards.work_through(work, 1, 1, StopFlag()))[-1] == 3
    assert (tmp_path / "001.txt").read_text(encoding="utf-8") == "1\n"
