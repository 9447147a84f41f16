"""Work split into named shards: any number of processes claim them, and a dead one's shard is taken over.

A claim is a lease beside the shards, and only a hint that keeps two workers from doing the same shard. What
makes the result right is that a shard's bytes depend on the shard alone and that it is published by rename:
done twice, it is the same file. Workers on other hosts that see the same folder may join in.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Protocol

from filelock import SoftFileLease, Timeout

from pipeline.errors import LaunchError, Preempted
from pipeline.lease import LEASE_SECONDS
from pipeline.preemption import StopFlag
from pipeline.workers import POLL_SECONDS, begin_worker

_LEAVE_SECONDS = 5.0
"""How long a worker may take to end once there is nothing left to do; one that is paused never would."""

_logger = logging.getLogger(__name__)


class ShardedWork(Protocol):
    """What is done to each shard; picklable."""

    def __call__(self, shard: int) -> None:
        """Do a shard and publish its result by rename; another worker may be doing the same."""

    def is_done(self, shard: int) -> bool:
        """Whether its result is there, whoever made it."""


def work_through(
    work: ShardedWork,
    shards: Sequence[int],
    claims: Path,
    processes: int,
    threads: int,
    stop: StopFlag,
) -> Iterator[int]:
    """Do what is left of the shards; yields how many are done whenever more are.

    Args:
        work: What to do.
        shards: All shards, done or not.
        claims: Folder for the claims, seen by all workers of these shards; made if it is not there.
        processes: Worker processes; with 1, the work is done in this one.
        threads: Threads of each worker.
        stop: Polled between shards; shards in work are finished first.

    Raises:
        Preempted: If a stop was asked for.
        LaunchError: If workers keep dying.
    """
    claims.mkdir(exist_ok=True)
    missing = [shard for shard in shards if not work.is_done(shard)]
    if processes == 1 or len(missing) <= 1:
        for left in claim_and_work(work, missing, claims, stop):
            yield len(shards) - left
        return
    crew = _Crew(work, missing, claims, threads, min(processes, len(missing)))
    try:
        for left in crew.supervise(stop):
            yield len(shards) - left
    finally:
        crew.dismiss()


def claim_and_work(
    work: ShardedWork, shards: Sequence[int], claims: Path, stop: StopFlag
) -> Iterator[int]:
    """Do each shard that nobody else does, until all are done; yields how many are left when fewer are.

    Raises:
        Preempted: If a stop was asked for.
    """
    left = list(shards)
    # Kept while a shard is another's: a lease expires by how long its contender has seen no sign of life.
    leases = {
        shard: SoftFileLease(
            claims / f"{shard:05d}.lease", lease_duration=LEASE_SECONDS, thread_local=False
        )
        for shard in left
    }
    while left:
        before = len(left)
        for shard in left[:]:
            stop.check()
            if not work.is_done(shard):
                try:
                    leases[shard].acquire(timeout=0)
                except Timeout:
                    continue
                try:
                    if not work.is_done(shard):
                        work(shard)
                finally:
                    leases[shard].release()
            left.remove(shard)
            yield len(left)
        if len(left) == before:
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class _Orders:
    """What a worker process is told when it starts."""

    work: ShardedWork
    shards: Sequence[int]
    claims: Path
    threads: int
    number: int
    parent: int


@dataclass(slots=True)
class _Crew:
    """Worker processes, each replaced if it dies without a word."""

    work: ShardedWork
    shards: Sequence[int]
    claims: Path
    threads: int
    size: int
    stop: Event = field(init=False)
    workers: list[tuple[SpawnProcess, Connection]] = field(init=False)

    def __post_init__(self) -> None:
        self.stop = multiprocessing.get_context("spawn").Event()
        self.workers = [self.hire(number) for number in range(self.size)]

    def hire(self, number: int) -> tuple[SpawnProcess, Connection]:
        """Start a worker; each begins at another place, so that they seldom want the same shard."""
        spawn = multiprocessing.get_context("spawn")
        at = number * len(self.shards) // self.size
        shards = [*self.shards[at:], *self.shards[:at]]
        orders = _Orders(self.work, shards, self.claims, self.threads, number, os.getpid())
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_work, args=(orders, self.stop, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def supervise(self, stop: StopFlag) -> Iterator[int]:
        """Yield how many shards are left whenever fewer are; returns when none is."""
        left = list(self.shards)
        deaths = 0
        while left:
            stop.check()
            time.sleep(POLL_SECONDS)
            remaining = [shard for shard in left if not self.work.is_done(shard)]
            if len(remaining) < len(left):
                left, deaths = remaining, 0
                yield len(left)
            for number, (process, connection) in enumerate(self.workers):
                if process.is_alive() or not left:
                    continue
                error = _last_word(connection)
                if error is not None:
                    raise error
                if process.exitcode == 0:
                    continue
                deaths += 1
                if deaths > 2 * self.size:
                    raise LaunchError(
                        f"workers died {deaths} times without finishing a shard, the last with exit code "
                        f"{process.exitcode} (-9 is often the out-of-memory killer); finished shards are "
                        "kept: run again, with fewer --processes if it was memory"
                    )
                _logger.warning(
                    "a worker died without a word (exit code %s); another takes over its shard",
                    process.exitcode,
                )
                self.workers[number] = self.hire(number)

    def dismiss(self) -> None:
        """Let workers finish the shard in hand and end, if there is still something to do; else end them."""
        is_over = all(map(self.work.is_done, self.shards))
        self.stop.set()
        deadline = time.monotonic() + _LEAVE_SECONDS
        for process, _ in self.workers:
            process.join(max(deadline - time.monotonic(), 0) if is_over else None)
            if process.is_alive():
                process.kill()
                process.join()


def _last_word(connection: Connection) -> BaseException | None:
    """Return the error that a worker left, if it left one."""
    try:
        error: BaseException | None = connection.recv() if connection.poll() else None
    except (EOFError, OSError):
        return None
    return error


def _work(orders: _Orders, stop: Event, connection: Connection) -> None:
    """Be a worker."""
    flag = StopFlag()

    def poll() -> None:
        if stop.is_set():
            flag.request("the supervising process")

    begin_worker(orders.parent, orders.threads, orders.number, poll)
    try:
        for _ in claim_and_work(orders.work, orders.shards, orders.claims, flag):
            pass
    except Preempted:
        return  # as the parent asked
    except Exception as error:  # noqa: BLE001  # raised again by the parent
        error.add_note(traceback.format_exc())
        connection.send(error)
