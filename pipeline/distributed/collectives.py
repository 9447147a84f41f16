"""The process group of a launch, and the few collective operations the project needs."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from pipeline.distributed.presence import waiting
from pipeline.distributed.world import World, timeout_seconds
from pipeline.errors import Preempted

LATER_SECONDS = {"gloo": 0, "nccl": 60}
"""By how much each backend's limit is later than ours. NCCL aborts the process without a word, so that
`presence` must end the wait before; gloo raises."""

T = TypeVar("T")


def device(world: World) -> torch.device:
    """Return the device of this rank: its GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return torch.device("cpu")


@contextlib.contextmanager
def joined(world: World, threads: int) -> Iterator[None]:
    """Join the process group of this launch for the duration, with a fixed number of threads.

    The group is ours and exists before DeepSpeed looks, so its timeout is the one asked for. DeepSpeed
    then clones it without naming a timeout, and the clone would get torch's default: 30 minutes with
    gloo (deepspeed 0.19.8, utils/groups.py; torch 2.13).

    It is left where all leave together, which is after success and when preempted. After a failure the
    others may be anywhere, and NCCL would wait for what was asked of them: the process's end does it then.
    """
    place = device(world)
    backend = "nccl" if place.type == "cuda" else "gloo"
    limit = datetime.timedelta(seconds=timeout_seconds() + LATER_SECONDS[backend])
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        setattr(dist.distributed_c10d, name, limit)
    world.export()
    torch.set_num_threads(threads)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    with waiting():
        dist.init_process_group(
            backend,
            init_method="env://",  # torchrun keeps its own store at the master port
            rank=world.rank,
            world_size=world.size,
            timeout=limit,
            device_id=place if place.type == "cuda" else None,
        )
    try:
        yield
    except Preempted:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is rank 0 of the group."""
    return dist.get_rank() == 0


def barrier() -> None:
    """Wait until every rank is here."""
    with waiting():
        dist.barrier()


def broadcast(value: T) -> T:
    """Return rank 0's `value` on every rank; it must be picklable."""
    box: list[T | None] = [value if is_first() else None]
    with waiting():
        dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


def all_sum(values: list[float], place: torch.device) -> list[float]:
    """Return the sums over ranks, computed in float64."""
    total = torch.tensor(values, dtype=torch.float64, device=place)
    with waiting():
        dist.all_reduce(total)
        return cast(list[float], total.tolist())


def all_max(value: int, place: torch.device) -> int:
    """Return the largest `value` of any rank."""
    largest = torch.tensor([value], dtype=torch.int64, device=place)
    with waiting():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())
