"""What ranks do together so that none goes on alone: enter, do a step, and fail as one."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from pipeline.distributed.presence import waiting
from pipeline.distributed.world import World, timeout_seconds
from pipeline.errors import LaunchError, PipelineError, StorageError, storage_error

ENTRY_LIMIT = datetime.timedelta(minutes=2)
"""How long a rank waits for the others to enter what none may do alone."""

T = TypeVar("T")


def require_entry(what: str, world: World) -> None:
    """Wait for all ranks to get here, by the store and not a collective, so that the absent can be named.

    Raises:
        LaunchError: If some have not come within `ENTRY_LIMIT`, or the collectives' timeout if shorter.
    """
    limit = min(ENTRY_LIMIT, datetime.timedelta(seconds=timeout_seconds()))
    store = dist.distributed_c10d._get_default_store()
    times = store.add(f"{what}/{world.rank}", 1)
    names = [f"{what}/{times}/{rank}" for rank in range(world.size)]
    store.set(names[world.rank], "here")
    try:
        with waiting():
            store.wait(names, limit)
    except RuntimeError as error:
        absent = [str(rank) for rank, name in enumerate(names) if not store.check([name])]
        raise LaunchError(
            f"{what}: rank {', '.join(absent) or '?'} did not come to it within {limit.seconds} s; its "
            "log says where it is. Run the same command again to continue from the last checkpoint"
        ) from error


def gathered(value: T) -> list[T]:
    """Return every rank's `value`, by rank; it must be picklable."""
    box: list[Any] = [None] * dist.get_world_size()
    with waiting():
        dist.all_gather_object(box, value)
    return box


def voted(action: Callable[[], T], world: World, *, only_first: bool = False) -> list[T]:
    """Run `action` on every rank, or on rank 0 alone; if it failed on any, raise on all.

    Returns:
        What it returned on each rank it ran on.

    Raises:
        PipelineError: The first rank's that had one; StorageError for an OSError. A rank with a fault of
            another kind raises that itself, and the others LaunchError.
    """
    failure: Exception | None = None
    results: list[T] = []
    if world.is_first or not only_first:
        try:
            results.append(action())
        except Exception as error:  # noqa: BLE001 - raised below, when the other ranks know of it
            failure = error
    answers = gathered((results, None if failure is None else _told(failure, world)))
    if failure is not None and not isinstance(failure, (PipelineError, OSError)):
        raise failure
    for _, told in answers:
        if told is not None:
            raise told from failure
    return [result for part, _ in answers for result in part]


def _told(failure: Exception, world: World) -> PipelineError:
    """Say what failed on this rank in a form that can be sent to the others."""
    if isinstance(failure, PipelineError):
        return failure
    if isinstance(failure, OSError):
        return storage_error(failure) or StorageError(f"rank {world.rank}: {failure}")
    return LaunchError(f"rank {world.rank} failed: {type(failure).__name__}: {failure}")
