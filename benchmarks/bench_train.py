"""Our training against Hugging Face's Seq2SeqTrainer with R3F written by hand.

    python benchmarks/bench_train.py --data FOLDER [--sets NAME ...] [--rounds COUNT] [--small] [--append]

Useful tokens (source and target, no padding) a second: of CPU time on a CPU, where other work may share the
cores, of wall time on a GPU. One process, one thread, bf16 autocast, AdamW, R3F; a BART of random weights
(base on a CPU, large on a GPU) with GPT-2's BPE; train.jsonl of FOLDER/cnndm and FOLDER/giga_like cut to 1024
and 142 tokens. Each side runs in a fresh process; its first updates are left out. Of several rounds, in which
the sides take turns, a side's least time counts: other work on the cores costs CPU time too.

- ours: the product's engine, batch plan and updates under ds_configs/zero2 (training_case.py);
- Trainer: as shipped, with two forwards and F.kl_div (naive_trainer.py); as many rows a micro-batch as ours
  has on average, as many micro-batches an update, rows chosen by its `train_sampling_strategy`.

`ratio` is ours / side: more is better. Sides see different rows of a set, as their samplers choose.
MFU is that of the useful tokens' matrix products, both passes of R3F (stages/finetune/costs.py), against the
GPU's peak in stages/finetune/throughput.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from common import in_fresh_process, report, versions

from pipeline.distributed.world import World, limit_threads, quiet_libraries, use_large_pages
from stages.fetch.config import ScratchModel
from stages.finetune.config import BatchConfig, FinetuneConfig, ScheduleConfig

VOCABULARY = 50_265
"""BART's; the last ids stay unused, GPT-2's BPE with the special tokens has 50,262."""
MODELS = {
    "small": ScratchModel(source="scratch"),
    "BART-base": ScratchModel(source="scratch", d_model=768, layers=6, heads=12, ffn=3072),
    "BART-large": ScratchModel(source="scratch", d_model=1024, layers=12, heads=16, ffn=4096),
}
BUCKETS = {"giga_like": (4, 2), "cnndm": (16, 8)}
"""Length classes of the batch plan: source, target."""
STRATEGIES = ("random", "group_by_length")


class Effort(NamedTuple):
    """How much each side does."""

    model: str
    lanes: int
    lane_tokens: dict[str, int]
    """Of each set."""
    warm: int
    """Updates left out."""
    measured: int


EFFORTS = {
    # cnndm: room for three of the longest rows, 1024 + 142 tokens, which makes ours four rows on average, as
    # exactly as Trainer has them.
    "small": Effort("small", 2, {"giga_like": 1024, "cnndm": 3 * 1166}, 1, 2),
    "cpu": Effort("BART-base", 2, {"giga_like": 2048, "cnndm": 3 * 1166}, 1, 2),
    "cuda": Effort("BART-large", 8, {"giga_like": 16_384, "cnndm": 16_384}, 3, 20),
}


def main() -> None:
    """Print the table; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="folder of cnndm, giga_like and gpt2_bpe")
    parser.add_argument("--small", action="store_true", help="a small model and few tokens")
    parser.add_argument("--sets", nargs="+", choices=list(BUCKETS), default=list(BUCKETS))
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side, 1 or more")
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_threads(1)
    quiet_libraries()
    if arguments.side:
        side, folder, rows, warm = arguments.side
        print(json.dumps(trained(side, Path(folder), int(rows), int(warm))))
        return
    if arguments.data is None:
        print("Nothing to train on: give --data.")
        return
    if find_spec("accelerate") is None:
        parser.error("Trainer needs accelerate: pip install -e '.[bench]'")
    import torch

    effort = EFFORTS["small" if arguments.small else "cuda" if torch.cuda.is_available() else "cpu"]
    lines = [
        versions("torch", "transformers", "accelerate", "deepspeed"),
        f"{effort.model}, {effort.measured} updates of {effort.lanes} lanes measured, after "
        f"{effort.warm} left out; {arguments.rounds} rounds.",
        "",
        *table(arguments.data, arguments.sets, effort, arguments.rounds),
    ]
    report("Training", lines, is_kept=arguments.append)


def table(data: Path, sets: list[str], effort: Effort, rounds: int) -> list[str]:
    """Return the lines of the table; progress goes to stderr."""
    lines = [
        "| set, padded tokens a lane | side | useful tokens | tokens a second | MFU | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in sets:
        with TemporaryDirectory() as folder:
            rows = write_set(data, name, effort, Path(folder))
            least = least_spent(Path(folder), rows, effort.warm, rounds)
        ours = least["ours"]["tokens"] / least["ours"]["seconds"]
        for side, spent in least.items():
            shown = f"Trainer {side}, {rows} rows" if side != "ours" else "**ours**"
            ratio = ours * spent["seconds"] / spent["tokens"]
            figures = f"{spent['tokens']:,} | {on_gpu(spent)} | {ratio:.2f}"
            lines.append(f"| {name}, {effort.lane_tokens[name]:,} | {shown} | {figures} |")
    return lines


def least_spent(folder: Path, rows: int, warm: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return what each side spent in its fastest round."""
    least: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for side in ("ours", *STRATEGIES):
            call = ("--side", side, str(folder), str(rows), str(warm))
            spent = in_fresh_process(__file__, *call)
            print(f"{side}: {spent}", file=sys.stderr, flush=True)
            if side not in least or spent["seconds"] < least[side]["seconds"]:
                least[side] = spent
    return least


def on_gpu(spent: dict[str, float]) -> str:
    """Return the cells that mean something on a GPU only: tokens a second and MFU."""
    if spent["peak_tflops"] is None:
        return "- | -"
    share = mfu(spent["forward_flops"], spent["seconds"], spent["peak_tflops"])
    return f"{spent['tokens'] / spent['seconds']:,.0f} | {100 * share:.1f} %"


def mfu(forward_flops: float, seconds: float, peak_tflops: float) -> float:
    """Return the share of a peak that training takes: two passes, each backward twice its forward."""
    return forward_flops * 2 * 3 / seconds / (peak_tflops * 1e12)


def write_set(data: Path, name: str, effort: Effort, folder: Path) -> int:
    """Write what the sides train on; returns how many rows a micro-batch of ours has on average."""
    from training_case import rows_per_micro_batch, write_case

    from stages.fetch.scratch import gpt2_bpe

    tokenizer = gpt2_bpe(data / "gpt2_bpe", folder / "model")
    lines = (data / name / "train.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    sources, targets = (
        tokenizer([row[field] for row in examples], truncation=True, max_length=most)["input_ids"]
        for field, most in (("document", 1024), ("summary", 142))
    )
    buckets = dict(zip(("source_bucket", "target_bucket"), BUCKETS[name], strict=True))
    config = FinetuneConfig(
        updates=effort.warm + effort.measured,
        schedule=ScheduleConfig(warmup_updates=1),
        batch=BatchConfig(lanes=effort.lanes, lane_tokens=effort.lane_tokens[name], **buckets),
    )
    write_case(folder, MODELS[effort.model], VOCABULARY, (sources, targets), config)
    return rows_per_micro_batch(folder)


def trained(side: str, folder: Path, rows: int, warm: int) -> dict[str, float | None]:
    """Return what a side spent, and this device's peak for MFU."""
    if side == "ours":
        use_large_pages()  # as the product's ranks do
    import torch
    from training_case import train_ours

    from stages.finetune.throughput import peak_tflops

    if side == "ours":
        spent = train_ours(folder, "zero2", World.from_env(), warm)
    else:
        from naive_trainer import train_peer

        spent = train_peer(folder, rows, side, warm)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return {**spent._asdict(), "peak_tflops": peak_tflops(None, device)}


if __name__ == "__main__":
    main()
