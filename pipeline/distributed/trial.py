"""What a rank can do with torch, tried in a process of its own, since it may hang or end without a word.

`python -m pipeline.distributed.trial MARK` prints what it has found out so far, as JSON in a line that begins
with MARK: torch, then deepspeed, then group (with `--group`: joined, before anything is reduced), then
all_reduce. No file is needed, so that a full disk does not hide the rest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.distributed as dist

from pipeline.config import JSON
from pipeline.distributed.collectives import barrier, device, joined
from pipeline.distributed.world import World, quiet_libraries, thread_count

REDUCED_BYTES = 16 * 2**20
"""As much as a bucket of gradients of BART-large in DeepSpeed is at least."""
_SMALL_BYTES = 8
_REPEATS = 5


def main() -> None:
    """Try everything, and leave word after each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mark")
    parser.add_argument("--group", action="store_true")
    options = parser.parse_args()
    quiet_libraries()
    world, threads = World.from_env(), thread_count()
    answers: JSON = {}

    def tell(step: str, facts: JSON) -> None:
        answers[step] = facts
        # On a line of its own, whatever a library has left on this one.
        print(f"\n{options.mark}{json.dumps(answers)}", flush=True)

    tell("torch", torch_facts(world))
    tell("deepspeed", {"error": import_fault()})
    if not options.group:
        return
    with joined(world, threads):
        tell("group", {"backend": dist.get_backend(), "size": dist.get_world_size()})
        tell("all_reduce", all_reduce_facts(device(world)))
        barrier()


def torch_facts(world: World) -> JSON:
    """Return torch's version and build, the GPUs that this process sees, and which of them it would use."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    place = device(world)
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [
            {"name": gpu.name, "uuid": str(gpu.uuid), "bytes": gpu.total_memory} for gpu in gpus
        ],
        "gpu": str(gpus[place.index].uuid) if place.index is not None else None,
    }


def import_fault() -> str:
    """Import DeepSpeed as training does; returns what that says, or an empty text."""
    try:
        import pipeline.distributed.zero  # noqa: F401 - only whether it can be done
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is the answer
        return f"{type(error).__name__}: {error}"
    return ""


def all_reduce_facts(place: torch.device) -> JSON:
    """Sum ones over the ranks and measure it.

    Returns:
        `sum`, which should be the number of ranks, and seconds (median) for `bytes` and for 8 bytes.
    """
    total = torch.ones(1, device=place)
    dist.all_reduce(total)
    return {
        "sum": float(total.item()),
        "bytes": REDUCED_BYTES,
        "seconds": _seconds(REDUCED_BYTES, place),
        "seconds_small": _seconds(_SMALL_BYTES, place),
    }


def _seconds(size: int, place: torch.device) -> float:
    values = torch.zeros(size // 4, dtype=torch.float32, device=place)
    times = []
    for _ in range(1 + _REPEATS):
        barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])  # the first makes connections


if __name__ == "__main__":
    main()
