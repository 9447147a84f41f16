"""Work split into named shards: any number of processes claim them, and a dead one's shard is taken over.

A claim is a lease beside the shards, and only a hint that keeps two workers from doing the same shard. What
makes the result right is that a shard's bytes depend on the shard alone and that it is published by rename:
done twice, it is the same file, also by workers on other hosts that see the same folder.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import ClassVar, Protocol

from pipeline.claim import LEASE_SECONDS, Claim
from pipeline.errors import LaunchError, Preempted, WorkIsGone
from pipeline.files import publish
from pipeline.preemption import StopFlag
from pipeline.workers import POLL_SECONDS, begin_worker, portable, start, start_tracker

_MOST_DEATHS = 6
"""Workers that may die with the same shard in hand."""
_LEAVE_SECONDS = 5.0
"""How long a worker may take to end once there is nothing left to do; one that is paused never would."""

_logger = logging.getLogger(__name__)


class ShardedWork(Protocol):
    """What is done to each shard; picklable."""

    def __call__(self, shard: int) -> None:
        """Do a shard and publish its result by rename; another worker may be doing the same."""

    def is_done(self, shard: int) -> bool:
        """Whether its result is there, whoever made it."""


@dataclass(frozen=True, slots=True)
class Shards:
    """Work that any number of processes may share."""

    work: ShardedWork
    count: int
    """They are numbered from 0."""
    folder: Path
    """Where they are published. It is there while they are wanted: only the process that holds the run makes
    and removes it. Other work has another folder, so that a worker left over from before, even one that was
    paused, finds no place to publish."""
    claims: Path
    """Folder for the claims, seen by all workers; outside of what is committed, as anybody may make it."""
    unit: str = "shard"
    """What progress calls one. Steps of a stage differ in it, or a stop in a later one seems no further."""

    def missing(self) -> list[int]:
        """Return the shards that nobody has done."""
        return [shard for shard in range(self.count) if not self.work.is_done(shard)]


@dataclass(frozen=True, slots=True)
class FileShards:
    """The part of ShardedWork that is the same wherever a shard is a file."""

    folder: Path

    suffix: ClassVar[str] = ".jsonl"

    def path(self, shard: int) -> Path:
        """Return where a shard is."""
        return self.folder / f"{shard:05d}{self.suffix}"

    def is_done(self, shard: int) -> bool:
        """Whether the shard is published."""
        return self.path(shard).exists()

    @contextlib.contextmanager
    def publishing(self, path: Path) -> Iterator[Path]:
        """Yield a file to write, and give it its name when it is whole; nothing is left of one that is not.

        Raises:
            OSError: If it cannot be written; names the file.
        """
        # Its own name until then: another worker, here or elsewhere, may have the same shard in hand.
        unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            yield unfinished
            publish(unfinished, path)
        except OSError as error:
            if error.filename in (None, str(unfinished)):  # Arrow's errors name none
                error.filename = str(path)
            raise
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)


def work_through(shards: Shards, processes: int, threads: int, stop: StopFlag) -> Iterator[int]:
    """Do what is left of the shards; yields how many are done whenever more are.

    Args:
        shards: What to do.
        processes: Worker processes; with 1, the work is done in this one.
        threads: Threads of each worker.
        stop: Polled between shards. A shard in work is finished first; one that a worker process has not
            finished after LEASE_SECONDS is given up, and done again by the next run.

    Raises:
        Preempted: If a stop was asked for.
        LaunchError: If workers keep dying; WorkIsGone if the shards' folder went away.
    """
    missing = shards.missing()
    if processes == 1 or len(missing) <= 1:
        for left in claim_and_work(shards, missing, stop):
            yield shards.count - left
        return
    crew = _Crew(shards, missing, threads, min(processes, len(missing)))
    try:
        for left in crew.supervise(stop):
            yield shards.count - left
    finally:
        crew.dismiss()


def claim_and_work(
    shards: Shards,
    missing: Sequence[int],
    stop: StopFlag,
    begun: Callable[[int], None] = lambda _: None,
) -> Iterator[int]:
    """Do each shard that nobody else does, until all are done; yields how many are left when fewer are.

    Args:
        shards: What to do.
        missing: Those to do, in this order.
        stop: Polled between shards.
        begun: Called with each shard before it is done.

    Raises:
        Preempted: If a stop was asked for.
        WorkIsGone: If the shards' folder is.
    """
    left, work = list(missing), shards.work
    # Kept while a shard is another's: a holder's silence counts from when its contender first asked.
    claim = {shard: Claim(shards.claims / f"{shard:05d}.lease", LEASE_SECONDS) for shard in left}
    while left:
        before = len(left)
        for shard in left[:]:
            stop.check()
            if not work.is_done(shard):
                with _unless_gone(shards.folder):
                    if not claim[shard].take():
                        continue
                    try:
                        if not work.is_done(shard):
                            begun(shard)
                            work(shard)
                    finally:
                        claim[shard].release()
            left.remove(shard)
            yield len(left)
        if len(left) == before:
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _unless_gone(folder: Path) -> Iterator[None]:
    """Raise WorkIsGone where a file is missing because the whole work is."""
    told = f"{folder}: is gone; its shards are joined already, or were removed by another process"
    if not folder.is_dir():
        raise WorkIsGone(told)
    try:
        yield
    except FileNotFoundError:
        if folder.is_dir():
            raise
        raise WorkIsGone(told) from None


@dataclass(frozen=True, slots=True)
class _Orders:
    """What a worker process is told when it starts."""

    shards: Shards
    missing: Sequence[int]
    threads: int
    number: int
    parent: int


@dataclass(slots=True)
class _Crew:
    """Worker processes, each replaced if it dies without a word."""

    shards: Shards
    missing: Sequence[int]
    threads: int
    size: int
    stop: Event = field(init=False)
    workers: list[tuple[SpawnProcess, Connection]] = field(init=False)

    def __post_init__(self) -> None:
        start_tracker()  # else the event does
        self.stop = multiprocessing.get_context("spawn").Event()
        self.workers = [self.hire(number) for number in range(self.size)]

    def hire(self, number: int) -> tuple[SpawnProcess, Connection]:
        """Start a worker; each begins at another place, so that they seldom want the same shard."""
        spawn = multiprocessing.get_context("spawn")
        at = number * len(self.missing) // self.size
        missing = [*self.missing[at:], *self.missing[:at]]
        orders = _Orders(self.shards, missing, self.threads, number, os.getpid())
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_work, args=(orders, self.stop, theirs), daemon=True)
        start(process)
        theirs.close()
        return process, ours

    def supervise(self, stop: StopFlag) -> Iterator[int]:
        """Yield how many shards are left whenever fewer are; returns when none is."""
        left, work = list(self.missing), self.shards.work
        in_hand: dict[int, int] = {}
        deaths = Counter[int | None]()
        while left:
            stop.check()
            time.sleep(POLL_SECONDS)
            remaining = [shard for shard in left if not work.is_done(shard)]
            if len(remaining) < len(left):
                left = remaining
                yield len(left)
            for number, (process, connection) in enumerate(self.workers):
                is_over = not process.is_alive()  # asked first: its last word is there then
                for word in _words(connection):
                    if isinstance(word, Exception):
                        raise word
                    in_hand[number] = word
                if is_over and process.exitcode and left:
                    shard = in_hand.pop(number, None)
                    deaths[shard] += 1
                    _tell_death(shard, deaths[shard], process.exitcode)
                    self.workers[number] = self.hire(number)

    def dismiss(self) -> None:
        """Let workers finish the shard in hand and end, if there is still something to do; else end them."""
        is_over = all(map(self.shards.work.is_done, self.missing))
        self.stop.set()
        deadline = time.monotonic() + (_LEAVE_SECONDS if is_over else LEASE_SECONDS)
        for process, _ in self.workers:
            process.join(max(deadline - time.monotonic(), 0))
            if process.is_alive():
                process.kill()  # what it had in hand is done again by the next run
                process.join()


def _words(connection: Connection) -> Iterator[int | Exception]:
    """Yield what a worker said since it was last asked: shards that it began, or the error that ended it."""
    try:
        while connection.poll():
            yield connection.recv()
    except (EOFError, OSError):
        return  # dead, and all of it read


def _tell_death(shard: int | None, deaths: int, exit_code: int) -> None:
    """Warn of a worker that died without a word.

    Raises:
        LaunchError: If that happened too often with the same shard in hand, or none.
    """
    what = "before it began a shard" if shard is None else f"with shard {shard} in hand"
    if deaths == _MOST_DEATHS:
        raise LaunchError(
            f"{deaths} workers died {what}, the last with exit code {exit_code} (-9 is often the "
            "out-of-memory killer); finished shards are kept: run again, with fewer --processes if it "
            "was memory"
        )
    _logger.warning("a worker died %s (exit code %d); another takes over", what, exit_code)


def _work(orders: _Orders, stop: Event, connection: Connection) -> None:
    """Be a worker."""
    flag = StopFlag()

    def poll() -> None:
        if stop.is_set():
            flag.request("the supervising process")

    begin_worker(orders.parent, orders.threads, orders.number, poll)
    try:
        for _ in claim_and_work(orders.shards, orders.missing, flag, begun=connection.send):
            pass
    except Preempted:
        return  # as the parent asked
    except Exception as error:  # noqa: BLE001  # raised again by the parent
        connection.send(portable(error))
