"""Sharded work: the same files from any number of processes, and no shard lost or half done."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import DataError, LaunchError, Preempted
from pipeline.preemption import StopFlag
from pipeline.shards import work_through
from tests.fakes.toy_stages import shard_complain, shard_die, shard_square

SHARDS = range(6)


def results(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("processes", [1, 2])
def test_every_shard_is_done_whoever_does_it(processes: int, tmp_path: Path) -> None:
    work = functools.partial(shard_square, tmp_path)
    counts = list(work_through(work, SHARDS, processes, 1, StopFlag()))
    assert counts == sorted(set(counts))
    assert counts[-1] == len(SHARDS)
    assert results(tmp_path) == {f"{shard:03d}.txt": f"{shard * shard}\n" for shard in SHARDS}


def test_nothing_to_do_is_done_at_once(tmp_path: Path) -> None:
    work = functools.partial(shard_square, tmp_path)
    assert list(work_through(work, [], 2, 1, StopFlag())) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_between_shards_keeps_what_is_finished(processes: int, tmp_path: Path) -> None:
    stop = StopFlag()
    work = functools.partial(shard_square, tmp_path)
    progress = work_through(work, range(200), processes, 1, stop)
    finished = next(progress)
    stop.request("a test")
    with pytest.raises(Preempted):
        list(progress)
    found = results(tmp_path)
    assert finished <= len(found) < 200
    assert all(text == f"{int(name[:3]) ** 2}\n" for name, text in found.items())


def test_a_stop_before_the_first_shard_does_nothing(tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request("a test")
    with pytest.raises(Preempted):
        list(work_through(functools.partial(shard_square, tmp_path), SHARDS, 1, 1, stop))
    assert results(tmp_path) == {}


def test_a_worker_that_dies_is_an_error_and_finished_shards_stay(tmp_path: Path) -> None:
    work = functools.partial(shard_die, tmp_path)
    with pytest.raises(LaunchError):
        list(work_through(work, [0, 1], 2, 1, StopFlag()))
    assert results(tmp_path) == {"000.txt": "0\n"}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_row_in_a_shard_is_told_as_it_is(processes: int, tmp_path: Path) -> None:
    work = functools.partial(shard_complain, tmp_path)
    with pytest.raises(DataError, match="has a bad row"):
        list(work_through(work, SHARDS, processes, 1, StopFlag()))


PARENT = """
import functools, sys
from pathlib import Path
from pipeline.preemption import StopFlag
from pipeline.shards import work_through
from tests.fakes.toy_stages import shard_sleep
if __name__ == "__main__":
    list(work_through(functools.partial(shard_sleep, Path(sys.argv[1])), [0, 1], 2, 1, StopFlag()))
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
        while len(list(folder.glob("*.pid"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = [psutil.Process(int(path.stem)) for path in folder.glob("*.pid")]
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
