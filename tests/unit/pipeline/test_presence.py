"""Who is absent, told from the files that ranks keep; and how long the others wait."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.distributed import presence
from pipeline.distributed.presence import absent, rank_file
from pipeline.distributed.world import timeout_seconds
from pipeline.errors import LaunchError

TIMEOUT = 40.0
NOW = 1_000_000.0  # no host's clock: only differences between files count


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_HERE", presence._Here(host="node7"))


def leave(log_dir: Path, rank: int, place: str, *, waits: bool, age: float = 0.0) -> None:
    file = rank_file(log_dir, rank, "where")
    file.write_text(json.dumps({"place": place, "is_waiting": waits, "host": "node7"}))
    os.utime(file, (NOW - age, NOW - age))


def test_nobody_is_absent_where_all_wait(tmp_path: Path) -> None:
    for rank in range(3):
        leave(tmp_path, rank, "update 17", waits=True, age=rank)
    assert absent(tmp_path, 3, TIMEOUT) == {}


def test_each_way_of_being_absent_is_told_apart(tmp_path: Path) -> None:
    leave(tmp_path, 0, "update 18", waits=True)
    leave(tmp_path, 1, "update 17", waits=False, age=41.0)
    leave(tmp_path, 2, "update 16", waits=False, age=2.0)
    leave(
        tmp_path, 3, "update 18", waits=True, age=43.0
    )  # stopped while it waited, before the others
    assert absent(tmp_path, 5, TIMEOUT) == {
        1: "on node7, last seen at update 17, without a sign of life for 41 s",
        2: "on node7, last seen at update 16, alive but busy with something else",
        3: "on node7, last seen at update 18, without a sign of life for 43 s",
        4: "never started",
    }


def test_a_rank_that_gave_up_waits_wherever_it_was(tmp_path: Path) -> None:
    presence.mark("update 18")
    assert presence.give_up(tmp_path, 0) == "update 18"
    assert absent(tmp_path, 2, TIMEOUT) == {1: "never started"}


def test_a_wait_that_ends_is_over_and_one_in_vain_is_not(tmp_path: Path) -> None:
    with presence.waiting():
        assert presence._HERE.is_waiting
    assert not presence._HERE.is_waiting
    with pytest.raises(RuntimeError), presence.waiting():
        raise RuntimeError("Timed out waiting 40000ms")
    assert presence._HERE.is_waiting


def test_a_rank_says_where_it_is_while_it_works(tmp_path: Path) -> None:
    presence.announce(tmp_path, 0, timeout=0.2)
    presence.mark("update 2")
    file, deadline = rank_file(tmp_path, 0, "where"), time.monotonic() + 10
    while not (file.exists() and json.loads(file.read_text())["place"] == "update 2"):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_wait_that_nothing_ends_is_noticed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "GRACE_SECONDS", 0.1)
    noticed = threading.Event()
    presence.announce(tmp_path, 0, timeout=0.2, on_overdue=noticed.set)
    assert not noticed.wait(0.5)  # busy, however long, is not overdue
    for _ in range(10):
        with presence.waiting():
            time.sleep(0.05)
    with pytest.raises(RuntimeError), presence.waiting():
        raise RuntimeError("Timed out waiting 200ms")
    assert not noticed.wait(0.5)  # many short waits, and one that ended by itself
    with presence.waiting():
        started = time.monotonic()
        assert noticed.wait(10)
    assert time.monotonic() - started > 0.2


def test_ranks_wait_ten_minutes_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUMPIPE_TIMEOUT_SECONDS", raising=False)
    assert timeout_seconds() == 600
    monkeypatch.setenv("SUMPIPE_TIMEOUT_SECONDS", "20")
    assert timeout_seconds() == 20


@pytest.mark.parametrize("text", ["0", "-2", "ten", "1.5", "", "²"])
def test_a_timeout_that_cannot_be_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMPIPE_TIMEOUT_SECONDS", text)
    with pytest.raises(LaunchError, match=r"SUMPIPE_TIMEOUT_SECONDS.*at least 1"):
        timeout_seconds()
