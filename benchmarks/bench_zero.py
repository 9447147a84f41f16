"""Memory of a rank and time of an update, by ZeRO stage and number of ranks.

    python benchmarks/bench_zero.py [--ranks 1 2 4] [--append]

The product's training (training_case.py) under ds_configs/zero0 to zero3, on a BART of 34 million parameters
and random weights, bf16 autocast, R3F; 4 lanes of 2 rows of 104 + 24 tokens in every case. All rows are as
long: on a CPU every new shape costs memory for good (oneDNN caches). Ranks are processes of their own, with
plain RANK, WORLD_SIZE, ... variables, one thread each; gloo on a CPU.

- memory: the most that the busiest rank held at any time, loading included, above what it held once
  everything was imported; resident memory on a CPU, torch's allocator on a GPU;
- time of an update after the first: CPU time of all ranks together, or on a GPU the slowest rank's wall time.
  Ratios are to ZeRO-0 on as many ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import peak_mib, report, versions

from pipeline.distributed.world import World, free_port, limit_threads, quiet_libraries
from stages.fetch.config import ScratchModel
from stages.finetune.config import BatchConfig, FinetuneConfig, ScheduleConfig

MODEL = ScratchModel(source="scratch", d_model=512, layers=4, heads=8, ffn=2048, max_positions=256)
VOCABULARY = 8192
STAGES = (0, 1, 2, 3)
WARM, MEASURED = 1, 4


def main() -> None:
    """Print the table; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], choices=[1, 2, 4])
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_threads(1)
    quiet_libraries()
    if arguments.rank:
        print(json.dumps(measure_rank(Path(arguments.rank[0]), arguments.rank[1])))
        return
    lines = [versions("torch", "deepspeed"), "", *table(arguments.ranks)]
    report("ZeRO", lines, is_kept=arguments.append)


def table(sizes: list[int]) -> list[str]:
    """Return the lines of the table; progress goes to stderr."""
    lines = [
        "| ranks | ZeRO stage | peak memory of a rank | ratio | time of an update, ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    with TemporaryDirectory() as folder:
        write_random_case(Path(folder))
        for size in sizes:
            first: tuple[float, float] | None = None
            for stage in STAGES:
                memory, time = combined(run_ranks(size, folder, f"zero{stage}"))
                first = first or (memory, time)
                ratios = f"{memory / first[0]:.2f} | {time / first[1]:.2f}"
                lines.append(f"| {size} | {stage} | {memory:.0f} MiB | {ratios} |")
                print(lines[-1], file=sys.stderr, flush=True)
    return lines


def combined(ranks: list[dict[str, float]]) -> tuple[float, float]:
    """Return the busiest rank's memory and the time of all: summed CPU time, or the slowest's wall time."""
    seconds = [rank["seconds"] for rank in ranks]
    time = max(seconds) if ranks[0]["is_gpu"] else sum(seconds)
    return max(rank["peak_mib"] for rank in ranks), time


def run_ranks(size: int, folder: str, profile: str) -> list[dict[str, float]]:
    """Run `measure_rank` on every rank, each in a fresh process; returns what they found."""
    port = free_port()
    command = [sys.executable, __file__, "--rank", folder, profile]
    ranks = []
    for rank in range(size):
        environment = {**os.environ, "SUMPIPE_TIMEOUT_SECONDS": "60"}  # if another rank fails
        World(rank, size, rank, "127.0.0.1", port).export(environment)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        ranks.append(subprocess.Popen(command, **pipes, text=True, env=environment))
    said = [process.communicate() for process in ranks]
    for process, (_, errors) in zip(ranks, said, strict=True):
        if process.returncode != 0:
            raise RuntimeError(f"{profile} on {size} ranks failed:\n{errors[-2000:]}")
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def measure_rank(folder: Path, profile: str) -> dict[str, float]:
    """Train as this rank; returns seconds of an update and the peak of memory."""
    import torch
    from training_case import Spent, train_ours

    spent: list[Spent] = []
    world = World.from_env()
    peak = peak_mib(lambda: spent.append(train_ours(folder, profile, world, WARM)))
    seconds, is_gpu = spent[0].seconds / MEASURED, torch.cuda.is_available()
    return {"seconds": seconds, "peak_mib": peak, "is_gpu": is_gpu}


def write_random_case(folder: Path) -> None:
    """Write a model and random rows of one length."""
    from training_case import write_case

    random = np.random.default_rng(0)
    sources, targets = (random.integers(4, VOCABULARY, (80, width)).tolist() for width in (104, 24))
    config = FinetuneConfig(
        updates=WARM + MEASURED,
        schedule=ScheduleConfig(warmup_updates=1),
        batch=BatchConfig(lanes=4, lane_tokens=256),
    )
    write_case(folder, MODEL, VOCABULARY, (sources, targets), config)


if __name__ == "__main__":
    main()
