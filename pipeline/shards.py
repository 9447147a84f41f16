"""Work split into named shards, done by one process or several, each shard published by rename."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from signal import SIG_IGN, signal

from pipeline.distributed.world import limit_threads, use_one_gpu
from pipeline.errors import LaunchError
from pipeline.preemption import SIGNALS, StopFlag

_POLL_SECONDS = 0.3


def work_through(
    work: Callable[[int], None], shards: Sequence[int], processes: int, threads: int, stop: StopFlag
) -> Iterator[int]:
    """Do `work(shard)` for each shard; yields how many are finished after each one.

    Args:
        work: A picklable function that publishes a shard's result by rename.
        shards: Shard numbers that are not done yet.
        processes: Worker processes; with 1, the work is done in this one.
        threads: Threads of each worker.
        stop: Polled between shards; shards in work are finished first.

    Raises:
        Preempted: If a stop was asked for.
        LaunchError: If a worker died.
    """
    if processes == 1 or len(shards) <= 1:
        for done, shard in enumerate(shards, 1):
            stop.check()
            work(shard)
            yield done
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(processes, len(shards)),
        mp_context=spawn,
        initializer=_start_worker,
        initargs=(os.getpid(), threads, spawn.Value("i", 0)),
    )
    try:
        yield from _collect({pool.submit(work, shard) for shard in shards}, stop)
    except BrokenProcessPool as error:
        raise LaunchError(
            "a worker died without a word (often the out-of-memory killer); finished shards are kept: "
            "run again, with fewer --processes if it was memory"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(running: set[Future[None]], stop: StopFlag) -> Iterator[int]:
    done_count = 0
    while running:
        stop.check()
        done, running = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
            done_count += 1
        if done:
            yield done_count


def _start_worker(parent: int, threads: int, started: Synchronized[int]) -> None:
    """Take a GPU of its own, let the parent decide about stops, and end with it should it die."""
    with started.get_lock():
        use_one_gpu(started.value)
        started.value += 1
    for number in SIGNALS:
        signal(number, SIG_IGN)
    limit_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
