"""Work in order: the same results from any number of processes, little read ahead, nobody left behind."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import DataError, LaunchError
from pipeline.ordered import in_order


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))  # the first is not the fastest
    return number * number


def double(text: str) -> str:
    return text * 2


def complain(number: int) -> int:
    if number == 3:
        raise DataError(f"{number} is bad")
    return number


def die(number: int) -> int:
    if number == 1:
        os._exit(9)
    return number


def sleep(folder: Path, _number: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_and_little_is_read_ahead(processes: int) -> None:
    read = -1

    def items() -> Iterator[int]:
        nonlocal read
        while read < 19:
            read += 1
            yield read

    for done, result in enumerate(in_order(square, items(), processes, 1)):
        assert result == done * done
        assert read - done <= 2 * processes
    assert read == 19


def test_nothing_to_do_starts_nobody() -> None:
    assert list(in_order(square, [], 2, 1)) == []


def test_items_and_results_larger_than_a_pipe() -> None:
    texts = ["x" * 1_000_000, "y" * 2_000_000, "z" * 1_000_000]
    assert list(in_order(double, texts, 2, 1)) == [text * 2 for text in texts]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised_here_after_the_results_before_it(processes: int) -> None:
    found = []
    with pytest.raises(DataError) as caught:
        for result in in_order(complain, range(10), processes, 1):
            found.append(result)
    assert str(caught.value) == "3 is bad"
    assert found == [0, 1, 2]
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(LaunchError, match="fewer --processes"):
        list(in_order(die, range(4), 2, 1))
    assert not multiprocessing.active_children()


class Interruption(BaseException):
    """As a signal handler raises it."""


def test_signals_to_every_process_end_no_worker() -> None:
    """As Slurm sends them; whether to stop is for the one who reads."""
    found = []
    with contextlib.closing(in_order(square, range(40), 2, 1)) as results:
        for result in results:
            found.append(result)
            for each in psutil.Process().children():
                each.send_signal(signal.SIGTERM if len(found) % 2 else signal.SIGUSR2)
    assert found == [number**2 for number in range(40)]
    assert not multiprocessing.active_children()


def test_nobody_works_on_when_the_caller_is_interrupted(tmp_path: Path) -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        raise Interruption

    work = functools.partial(sleep, tmp_path)
    with pytest.raises(Interruption), contextlib.closing(in_order(work, items(), 2, 1)) as done:
        list(itertools.islice(done, 1))
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert pids and not any(map(psutil.pid_exists, pids))
