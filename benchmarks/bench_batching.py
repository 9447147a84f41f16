"""How much of the FLOPs that lanes are busy or waiting for goes into tokens, by batching strategy.

    python benchmarks/bench_batching.py [--data FOLDER] [--append]

Of one epoch on 8 ranks, for BART-large:

    useful = FLOPs of all rows without padding / (8 x FLOPs of the slowest rank, summed over updates)

FLOPs are those of a forward pass (stages/finetune/costs.py; a backward pass changes both sides alike), padded
to the longest row of the micro-batch, for every strategy by the same formula. Peers get as many rows a
micro-batch as the batch plan has on average:
- Hugging Face Trainer: its own samplers, imported. Batches of the first two are dealt out to ranks in turn,
  the last ones completed with the epoch's first rows, as accelerate's BatchSamplerShard does for Trainer
  (written here: accelerate is not a dependency of ours);
- fairseq: its order (by source, then target, ties shuffled), its greedy cuts at max_tokens source tokens,
  batches shuffled and dealt out in turn, written here after its data_utils_fast.pyx and iterators.py
  (`--required-batch-size-multiple 1`, as its BART recipe has).

Synthetic lengths: log-normal, independent, 80,000 rows, seed 0, rounded and clipped, fitted to the shares of
source / target tokens that a study of these sets found under padding to the most allowed, and in random
batches of 32 and of 256 rows:

    CNN/DM-like    source exp N(ln 700, 0.50)  in 4..1024, target exp N(ln 66.3, 0.345) in 4..142
                   69 / 49 % and 69 / 54 %
    Gigaword-like  source exp N(ln 34.5, 0.20) in 4..80,   target exp N(ln 9.6, 0.29)   in 3..30
                   44 / 33 % and 58 / 45 %

Real lengths: train.jsonl of FOLDER/cnndm and FOLDER/giga_like in tokens of FOLDER/gpt2_bpe with <s> and
</s>, cut to 1024 and 142, under the largest power of two of lane tokens that gives 50 updates.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import in_fresh_process, report, resident_mib, versions
from numpy.typing import NDArray

from stages.finetune.batch_plan import BatchPlan
from stages.finetune.config import BatchConfig
from stages.finetune.costs import Costs

Int64s = NDArray[np.int64]
Update = list[list[Int64s]]
"""The micro-batches of each rank: row numbers."""

RANKS = 8
BART_LARGE = Costs(1024, 12, 12, 4096, 4096, 50_265)


class Lengths(NamedTuple):
    """Lengths of a data set in tokens and how it is batched."""

    name: str
    sources: Int64s
    targets: Int64s
    config: BatchConfig


def main() -> None:
    """Print the table; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="folder of cnndm, giga_like and gpt2_bpe")
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    parser.add_argument("--plan-rows", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan_rows:
        print(json.dumps(measure_planning(arguments.plan_rows)))
        return
    sets = [*synthetic_sets(), *(real_sets(arguments.data) if arguments.data else [])]
    lines = [versions("numpy", "transformers"), "", *table(sets), "", planning(10_000_000)]
    if not arguments.data:
        lines.append("No real sets: no --data.")
    report("Batching", lines, is_kept=arguments.append)


def table(sets: list[Lengths]) -> list[str]:
    """Return the lines of the table; progress goes to stderr."""
    lines = [
        "| lengths | strategy | micro-batches | updates | source / target tokens | FLOPs | useful, 8 ranks |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for lengths in sets:
        plan = list(batch_plan(lengths))
        size = round(len(lengths.sources) / sum(len(rank) for update in plan for rank in update))
        strategies = {
            "**batch plan**": plan,
            f"Trainer random, {size} rows": trainer_fixed(lengths, size, "random"),
            f"Trainer group_by_length, {size} rows": trainer_fixed(lengths, size, "group"),
            f"Trainer batch_rebalance, {size} rows": trainer_rebalance(lengths, size, 1),
            f"Trainer batch_rebalance, {size} rows x 4": trainer_rebalance(lengths, size, 4),
            "fairseq, max_tokens": fairseq(lengths),
        }
        for name, updates in strategies.items():
            lines.append(f"| {lengths.name} | {name} | {shares(lengths, updates)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def shares(lengths: Lengths, updates: Iterator[Update] | list[Update]) -> str:
    """Return the table's cells of a strategy, as percentages."""
    sources, targets = lengths.sources, lengths.targets
    tokens = np.zeros(2)
    padded = waited = micro_batches = count = 0
    for update in updates:
        ranks = []
        for rank in update:
            flops = 0
            for rows in rank:
                widths = int(sources[rows].max()), int(targets[rows].max())
                tokens += len(rows) * np.asarray(widths)
                flops += int(BART_LARGE.of(*np.asarray([len(rows), *widths])))
            ranks.append(flops)
            micro_batches += len(rank)
        padded, waited, count = padded + sum(ranks), waited + RANKS * max(ranks), count + 1
    real = int(BART_LARGE.of(np.ones_like(sources), sources, targets).sum())
    source, target = (sources.sum() / tokens[0], targets.sum() / tokens[1])
    percent = [f"{100 * share:.1f} %" for share in (source, target, real / padded, real / waited)]
    return f"{micro_batches} | {count} | {percent[0]} / {percent[1]} | {percent[2]} | {percent[3]}"


def batch_plan(lengths: Lengths) -> Iterator[Update]:
    """Yield the updates of an epoch of ours, one lane a rank."""
    plan = new_plan(lengths)
    epoch = plan.epoch(0)
    for index in range(plan.updates_per_epoch):
        yield [[lane] for lane in epoch.update(index)]


def new_plan(lengths: Lengths) -> BatchPlan:
    """Return our plan of a data set."""
    return BatchPlan(lengths.sources, lengths.targets, lengths.config, 1, BART_LARGE)


def trainer_fixed(lengths: Lengths, size: int, strategy: str) -> Iterator[Update]:
    """Yield Trainer's updates for `random` and `group_by_length`: rank r takes each 8th batch from r on."""
    import torch
    from torch.utils.data import RandomSampler
    from transformers.trainer_pt_utils import LengthGroupedSampler

    random = torch.Generator().manual_seed(0)
    sources = lengths.sources.tolist()
    rows = np.asarray(
        list(
            RandomSampler(sources, generator=random)
            if strategy == "random"
            else LengthGroupedSampler(size, lengths=sources, generator=random)
        )
    )
    completed = np.resize(rows, -(-len(rows) // (size * RANKS)) * size * RANKS)
    for update in completed.reshape(-1, RANKS, size):
        yield [[batch] for batch in update]


def trainer_rebalance(lengths: Lengths, size: int, accumulated: int) -> Iterator[Update]:
    """Yield Trainer's updates for `batch_rebalance`; its sampler gives each rank its own micro-batches."""
    from transformers.trainer_pt_utils import BatchRebalanceSampler

    samplers = [
        BatchRebalanceSampler(
            lengths=lengths.sources.tolist(),
            effective_batch_size=size * accumulated * RANKS,
            dp_size=RANKS,
            grad_accum=accumulated,
            rank=rank,
            drop_last=False,
        )
        for rank in range(RANKS)
    ]
    slots = zip(*samplers, strict=True)
    for first in slots:
        micro_batches = [first, *(next(slots) for _ in range(accumulated - 1))]
        yield [[np.asarray(batches[rank]) for batches in micro_batches] for rank in range(RANKS)]


def fairseq(lengths: Lengths) -> Iterator[Update]:
    """Yield fairseq's updates: sorted rows, greedy cuts at rows x longest source, shuffled, dealt out."""
    random = np.random.default_rng(0)
    order = random.permutation(len(lengths.sources))
    order = order[np.lexsort((lengths.targets[order], lengths.sources[order]))]
    widths = np.maximum(lengths.sources, lengths.targets)[order].tolist()
    cuts, widest = [0], 0
    for place, width in enumerate(widths):
        widest = max(widest, width)
        if (place + 1 - cuts[-1]) * widest > lengths.config.lane_tokens and place > cuts[-1]:
            cuts.append(place)
            widest = width
    batches = np.split(order, cuts[1:])
    shuffled = [batches[index] for index in random.permutation(len(batches))]
    for start in range(0, len(shuffled), RANKS):
        yield [[batch] for batch in shuffled[start : start + RANKS]]


def synthetic_sets() -> list[Lengths]:
    """Return the two synthetic data sets."""
    rows, bound = 80_000, 16_384
    return [
        Lengths(
            "CNN/DM-like",
            *news_lengths(rows),
            BatchConfig(lanes=RANKS, lane_tokens=bound, source_bucket=16, target_bucket=8),
        ),
        Lengths(
            "Gigaword-like",
            *log_normals(rows, (34.5, 0.20, 4, 80), (9.6, 0.29, 3, 30)),
            BatchConfig(lanes=RANKS, lane_tokens=bound, source_bucket=4, target_bucket=2),
        ),
    ]


def news_lengths(rows: int, seed: int = 0) -> tuple[Int64s, Int64s]:
    """Return CNN/DM-like source and target lengths."""
    return log_normals(rows, (700, 0.50, 4, 1024), (66.3, 0.345, 4, 142), seed)


def log_normals(
    rows: int,
    source: tuple[float, float, int, int],
    target: tuple[float, float, int, int],
    seed: int = 0,
) -> tuple[Int64s, Int64s]:
    """Draw lengths; a side is (median, standard deviation of the logarithm, least, most)."""
    random = np.random.default_rng(seed)
    first, second = (
        np.rint(np.clip(np.exp(random.normal(np.log(median), spread, rows)), least, most))
        for median, spread, least, most in (source, target)
    )
    return first.astype(np.int64), second.astype(np.int64)


def real_sets(data: Path) -> list[Lengths]:
    """Return the lengths of the real data sets, with a budget that gives 50 updates."""
    from tokenizers import ByteLevelBPETokenizer

    folder = data / "gpt2_bpe"
    tokenizer = ByteLevelBPETokenizer.from_file(
        str(folder / "encoder.json"), str(folder / "vocab.bpe")
    )
    sets = []
    for name, buckets in (("cnndm", (16, 8)), ("giga_like", (4, 2))):
        lines = (data / name / "train.jsonl").read_text(encoding="utf-8").splitlines()
        examples = [json.loads(line) for line in lines]
        sides = []
        for field, most in (("document", 1024), ("summary", 142)):
            encoded = tokenizer.encode_batch([example[field] for example in examples])
            sides.append(np.asarray([min(len(text.ids) + 2, most) for text in encoded]))
        for exponent in range(14, 6, -1):
            config = BatchConfig(
                lanes=RANKS,
                lane_tokens=2**exponent,
                source_bucket=buckets[0],
                target_bucket=buckets[1],
            )
            lengths = Lengths(f"{name}, {2**exponent} tokens", sides[0], sides[1], config)
            if new_plan(lengths).updates_per_epoch >= 50:
                break
        sets.append(lengths)
    return sets


def planning(rows: int) -> str:
    """Plan in a fresh process and return the sentence about its time and memory."""
    found = in_fresh_process(__file__, "--plan-rows", str(rows))
    return (
        f"Planning {rows:,} CNN/DM-like rows, 4,096 tokens a lane, in a fresh process: plan "
        f"{found['plan']:.2f} s, one epoch of it {found['epoch']:.3f} s, one update "
        f"{1000 * found['update']:.1f} ms (CPU time); peak memory {found['peak']:.0f} MiB, of which Python "
        f"and the lengths are {found['before']:.0f} MiB."
    )


def measure_planning(rows: int) -> dict[str, float]:
    """Return CPU seconds, and MiB of resident memory at its peak and before planning."""
    sources, targets = (np.empty(rows, dtype=np.int64) for _ in range(2))
    for start in range(0, rows, 1_000_000):
        end = min(start + 1_000_000, rows)
        sources[start:end], targets[start:end] = news_lengths(end - start, seed=start)
    before = resident_mib("VmRSS")
    times = [time.process_time()]
    plan = BatchPlan(sources, targets, BatchConfig(), 1, BART_LARGE)
    times.append(time.process_time())
    epoch = plan.epoch(7)
    times.append(time.process_time())
    epoch.update(plan.updates_per_epoch - 1)
    times.append(time.process_time())
    seconds = dict(zip(("plan", "epoch", "update"), np.diff(times).tolist(), strict=True))
    return {**seconds, "peak": resident_mib("VmHWM"), "before": before}


if __name__ == "__main__":
    main()
