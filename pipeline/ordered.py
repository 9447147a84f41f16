"""Work on a stream by one process or several: results in order, little read ahead."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from pipeline.errors import LaunchError
from pipeline.workers import begin_worker, portable, start

Item = TypeVar("Item")
Result = TypeVar("Result")

_READ_AHEAD = 2
"""Items a process that are in work or wait for an earlier one."""
_END_SECONDS = 1.0
"""How long a worker may take to notice that it is wanted no more; one that is busy does not."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What came instead of a result."""

    error: Exception


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int, threads: int
) -> Generator[Result, None, None]:
    """Yield `work(item)` for each item, in their order.

    Close it (contextlib.closing) to be sure that no worker outlives an exception of the caller.

    Args:
        work: A picklable function.
        items: Read in this process, at most 2 * `processes` further than what was yielded.
        processes: Worker processes, each with one GPU where there are some; with 1, it is done in this one.
        threads: Threads of each worker.

    Raises:
        LaunchError: If a worker died. What `work` raises is raised here too, after the results before it.
    """
    if processes == 1:
        yield from map(work, items)
        return
    workers: dict[SpawnProcess, Connection] = {}
    idle: list[Connection] = []
    busy: dict[Connection, int] = {}
    ready: dict[int, Result | _Failure] = {}
    due = 0
    numbered = enumerate(items)
    following = next(numbered, None)
    try:
        while following is not None or busy:
            while (
                following is not None
                and len(busy) < processes
                and following[0] - due < _READ_AHEAD * processes
            ):
                if not idle:
                    worker, connection = _started(work, len(workers), threads)
                    workers[worker] = connection
                    idle.append(connection)
                number, item = following
                _give(idle[-1], item)
                busy[idle.pop()] = number
                following = next(numbered, None)
            arrived = wait(list(busy))
            for connection in [one for one in busy if one in arrived]:
                ready[busy.pop(connection)] = _take(connection)
                idle.append(connection)
            while due in ready:
                outcome = ready.pop(due)
                if isinstance(outcome, _Failure):
                    raise outcome.error
                yield outcome
                due += 1
    finally:
        _end(workers)


def _started(work: object, number: int, threads: int) -> tuple[SpawnProcess, Connection]:
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, os.getpid(), threads, number)
    worker = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments)
    start(worker)
    theirs.close()  # so that its death is the end of the connection
    _give(ours, work)
    return worker, ours


def _serve(connection: Connection, parent: int, threads: int, number: int) -> None:
    """Work in a process of its own, until the parent ends it or dies."""
    begin_worker(parent, threads, number)
    with contextlib.suppress(EOFError, ConnectionError):
        work = connection.recv()  # brings numeric libraries in: after the threads are limited
        while True:
            item = connection.recv()
            try:
                outcome = work(item)
            except Exception as error:  # noqa: BLE001  # raised again by the parent
                outcome = _Failure(portable(error))
            connection.send(outcome)


def _give(connection: Connection, value: object) -> None:
    with _death_told():
        connection.send(value)


def _take(connection: Connection) -> Any:
    with _death_told():
        return connection.recv()


@contextlib.contextmanager
def _death_told() -> Generator[None, None, None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise LaunchError(
            "a worker died without a word (often the out-of-memory killer); run again, with fewer "
            "--processes if it was memory"
        ) from error


def _end(workers: Mapping[SpawnProcess, Connection]) -> None:
    for connection in workers.values():
        connection.close()
    deadline = time.monotonic() + _END_SECONDS
    for worker in workers:
        worker.join(max(deadline - time.monotonic(), 0))
        worker.kill()
        worker.join()
