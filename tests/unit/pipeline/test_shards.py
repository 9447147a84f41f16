"""Sharded work: the same files from any number of processes, and no shard lost or half done."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

import pipeline.shards
from pipeline.claim import Claim
from pipeline.errors import DataError, LaunchError, Preempted, WorkIsGone
from pipeline.preemption import StopFlag
from pipeline.shards import FileShards, Shards, work_through
from tests.fakes.toy_stages import Complaining, Deadly, Squares, Unspeakable

SHARDS = range(6)


def results(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


SQUARES = {f"{shard:03d}.txt": f"{shard * shard}\n" for shard in SHARDS}


class Lines(FileShards):
    """Shards that are files."""


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    work = Lines(tmp_path)
    with (
        pytest.raises(OSError, match="No space left") as caught,
        work.publishing(work.path(3)) as unfinished,
    ):
        unfinished.write_bytes(b"half")
        with pa.OSFile("/dev/full", "wb") as file:
            file.write(b"more")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(work.path(3))
    with pytest.raises(KeyError), work.publishing(work.path(3)) as unfinished:
        unfinished.touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def shards_of(work: Squares) -> Shards:
    return Shards(work, len(SHARDS), work.folder, work.folder / "claims")


def through(work: Squares, processes: int, stop: StopFlag | None = None) -> Iterator[int]:
    return work_through(shards_of(work), processes, 1, stop or StopFlag())


@pytest.mark.parametrize("processes", [1, 2])
def test_every_shard_is_done_whoever_does_it(processes: int, tmp_path: Path) -> None:
    counts = list(through(Squares(tmp_path), processes))
    assert counts == sorted(set(counts))
    assert counts[-1] == len(SHARDS)
    assert results(tmp_path) == SQUARES
    assert len(list(tmp_path.glob("[0-9]*.begun.*"))) == len(SHARDS)  # none twice
    assert list((tmp_path / "claims").iterdir()) == []


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    list(through(Squares(tmp_path), 1))
    for path in tmp_path.glob("[0-9]*.begun.*"):
        path.unlink()
    assert list(through(Squares(tmp_path), 2)) == []
    assert not list(tmp_path.glob("[0-9]*.begun.*"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_between_shards_keeps_what_is_finished(processes: int, tmp_path: Path) -> None:
    stop = StopFlag()
    progress = through(Squares(tmp_path, seconds=0.7), processes, stop)
    next(progress)
    stop.request("a test")
    with pytest.raises(Preempted):
        list(progress)
    found = results(tmp_path)
    assert 1 <= len(found) < len(SHARDS)
    assert len(list(tmp_path.glob("[0-9]*.begun.*"))) == len(found)  # those in hand were finished
    assert found.items() <= SQUARES.items()


def test_a_stop_before_the_first_shard_does_nothing(tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request("a test")
    with pytest.raises(Preempted):
        list(through(Squares(tmp_path), 1, stop))
    assert results(tmp_path) == {}


def test_a_shard_that_is_deadly_is_named_and_finished_ones_stay(tmp_path: Path) -> None:
    told = "workers died with shard 1 in hand, the last with exit code 9"
    with pytest.raises(LaunchError, match=told):
        list(through(Deadly(tmp_path), 2))
    assert results(tmp_path).items() <= SQUARES.items()
    assert "001.txt" not in results(tmp_path)


def test_what_is_no_error_of_ours_is_told_whatever_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Unpicklable: x{1000}"):
        list(through(Unspeakable(tmp_path), 2))


def test_work_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    shards = Shards(Squares(folder), len(SHARDS), folder, tmp_path / "claims")
    progress = work_through(shards, 1, 1, StopFlag())
    next(progress)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(WorkIsGone, match="joined already, or were removed"):
        next(progress)
    assert not folder.exists()


def test_a_worker_that_was_paused_while_its_work_went_makes_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    shards = Shards(Squares(folder), len(SHARDS), folder, tmp_path / "claims")
    take = Claim.take

    def take_late(claim: Claim, *rest: Any) -> bool:
        folder.rename(tmp_path / "elsewhere")
        return take(claim, *rest)

    monkeypatch.setattr(Claim, "take", take_late)
    with pytest.raises(WorkIsGone):
        next(work_through(shards, 1, 1, StopFlag()))
    assert not folder.exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_row_in_a_shard_is_told_as_it_is(processes: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has a bad row"):
        list(through(Complaining(tmp_path), processes))


def begun_by(folder: Path) -> dict[str, psutil.Process]:
    """Who works on the shards that are not done, by shard."""
    return {
        path.name[:3]: psutil.Process(int(path.name.rpartition(".")[2]))
        for path in folder.glob("[0-9]*.begun.*")
        if not (folder / f"{path.name[:3]}.txt").exists()
        and psutil.pid_exists(int(path.name.rpartition(".")[2]))
    }


def test_the_shards_of_killed_workers_are_taken_over(tmp_path: Path) -> None:
    killed: set[int] = set()

    def kill_five() -> None:
        while len(killed) < 5:
            time.sleep(0.3)
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was seen
                busy = [one for one in begun_by(tmp_path).values() if one.pid not in killed]
                for worker in busy[:1]:
                    worker.kill()
                    killed.add(worker.pid)

    killer = threading.Thread(target=kill_five, daemon=True)
    killer.start()
    list(through(Squares(tmp_path, seconds=0.6), 3))
    assert len(killed) == 5
    assert results(tmp_path) == SQUARES


def test_a_worker_that_is_paused_for_good_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.shards, "LEASE_SECONDS", 3.0)
    other = subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path)], start_new_session=True)
    deadline = time.monotonic() + 20
    while not begun_by(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(other.pid, signal.SIGSTOP)  # with a shard in hand
    started = time.monotonic()
    list(through(Squares(tmp_path), 1))
    assert 2.0 < time.monotonic() - started < 10.0
    assert results(tmp_path) == SQUARES
    os.kill(other.pid, signal.SIGCONT)
    assert other.wait(20) == 0  # it goes on, and does no harm
    assert results(tmp_path) == SQUARES


ALONE = """
import sys
from pathlib import Path
import pipeline.shards
from pipeline.preemption import StopFlag
from tests.fakes.toy_stages import Squares
pipeline.shards.LEASE_SECONDS = 3.0
folder = Path(sys.argv[1])
work = Squares(folder, seconds=1.0)
shards = pipeline.shards.Shards(work, 6, folder, folder / "claims")
list(pipeline.shards.work_through(shards, 1, 1, StopFlag()))
"""

PARENT = """
import sys
from pathlib import Path
from pipeline.preemption import StopFlag
from pipeline.shards import Shards, work_through
from tests.fakes.toy_stages import Squares
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    shards = Shards(Squares(folder, seconds=60), 6, folder, folder / "claims")
    list(work_through(shards, 2, 1, StopFlag()))
"""


def works(process: psutil.Process) -> bool:
    """Whether a process is there and no zombie that init has yet to collect."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script, folder = tmp_path / "parent.py", tmp_path / "pids"
    script.write_text(PARENT, encoding="utf-8")
    folder.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(folder)]) as parent:
        deadline = time.monotonic() + 20
        while len(list(folder.glob("[0-9]*.begun.*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = [
            psutil.Process(int(path.name.rpartition(".")[2]))
            for path in folder.glob("[0-9]*.begun.*")
        ]
        os.kill(parent.pid, signal.SIGKILL)
    assert len(workers) == 2
    deadline = time.monotonic() + 5
    while (
        alive := [worker for worker in workers if works(worker)]
    ) and time.monotonic() < deadline:
        time.sleep(0.02)
    for worker in alive:
        worker.kill()
    assert alive == []
