"""The fused R3F head, and a whole step with it, against forms written by hand.

    python benchmarks/bench_loss.py [--targets COUNT] [--append]

Head: decoder outputs [slots, 768] of a clean and a noised pass, output embedding [50265, 768], a fifth of
the slots padding; label smoothing 0.1, lambda 1; forward and backward. Step: a BART-base of random weights,
dropout 0.1, forward and backward without the optimizer; targets fill 60 to 100 % of their width, sources all
of it.

- naive: whole logits, five softmaxes, two kl_div calls, the KL of padding too (naive_r3f.py); in the step two
  forward passes;
- checkpointed: the plain form over 256 rows at a time under torch.utils.checkpoint; one concatenated pass;
- fused: ours.

One thread on a CPU. A ratio is naive / variant: more is better.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import in_fresh_process, peak_mib, report, seconds, versions
from naive_r3f import NaiveR3F, naive_loss
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import BartConfig, BartForConditionalGeneration

from stages.finetune.config import LossConfig, R3FConfig
from stages.finetune.fused_head import Rows, fused_loss
from stages.finetune.loss import Smoothing, plain_loss
from stages.finetune.model import Batch, R3FModel

WIDTH, VOCABULARY = 768, 50_265
SHAPES = {
    "CNN/DM-like, 2 x (780 -> 70)": (2, 780, 70),
    "Gigaword-like, 24 x (36 -> 10)": (24, 36, 10),
    "head-heavy, 4 x (200 -> 128)": (4, 200, 128),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class HeadCase(NamedTuple):
    """Inputs of the head alone."""

    clean: Tensor
    noised: Tensor
    weight: Tensor
    targets: Tensor
    valid: Tensor


def head_case(slots: int) -> HeadCase:
    """Return random inputs."""
    torch.manual_seed(0)
    clean = torch.randn(slots, WIDTH, device=DEVICE)
    noised = clean + 0.01 * torch.randn_like(clean)
    weight = 0.05 * torch.randn(VOCABULARY, WIDTH, device=DEVICE)
    targets = torch.randint(VOCABULARY, (slots,), device=DEVICE)
    valid = torch.arange(slots, device=DEVICE) % 5 > 0
    leaves = (tensor.requires_grad_() for tensor in (clean, noised, weight))
    return HeadCase(*leaves, targets, valid)


def autocast(dtype: torch.dtype) -> torch.autocast:
    """Return autocast as training has it."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype != torch.float32)


def naive_head(case: HeadCase, dtype: torch.dtype) -> Tensor:
    """Return the loss of whole logits."""
    with autocast(dtype):
        clean, noised = (F.linear(half, case.weight) for half in (case.clean, case.noised))
    return naive_loss(clean, noised, case.targets, case.valid, 0.1, 1.0)


def checkpointed_head(case: HeadCase, dtype: torch.dtype) -> Tensor:
    """Return the loss of 256 rows at a time, computed again in the backward pass."""

    def part(clean: Tensor, noised: Tensor, weight: Tensor, rows: slice) -> Tensor:
        with autocast(dtype):
            halves = (F.linear(half, weight)[None] for half in (clean, noised))
        return plain_loss(
            *(*halves, case.targets[None, rows], case.valid[None, rows]),
            smoothing=Smoothing(0.1, "torch"),
            reduction="token",
            kl_lambda=1.0,
        ).total

    total = case.clean.new_zeros(())
    for start in range(0, len(case.targets), 256):
        rows = slice(start, start + 256)
        halves = (case.clean[rows], case.noised[rows])
        total = total + checkpoint(part, *halves, case.weight, rows, use_reentrant=False)
    return total


def fused_head(case: HeadCase, dtype: torch.dtype) -> Tensor:
    """Return the loss of our head."""
    index = case.valid.nonzero().squeeze(1)
    ones = torch.ones(len(index), device=DEVICE)
    return fused_loss(
        *(case.clean.index_select(0, index), case.noised.index_select(0, index), case.weight, None),
        Rows(case.targets[index], ones),
        smoothing=Smoothing(0.1, "torch"),
        kl_lambda=1.0,
        dtype=dtype,
    ).total


HEADS: dict[str, Callable[[HeadCase, torch.dtype], Tensor]] = {
    "naive": naive_head,
    "checkpointed": checkpointed_head,
    "fused": fused_head,
}


def run_head(name: str, case: HeadCase, dtype: torch.dtype) -> None:
    """Do a forward and a backward pass."""
    for leaf in case[:3]:
        leaf.grad = None
    HEADS[name](case, dtype).backward()


def new_batch(rows: int, sources: int, targets: int) -> Batch:
    """Return a random batch; targets fill 60 to 100 % of their width."""
    torch.manual_seed(1)
    source_ids = torch.randint(4, VOCABULARY, (rows, sources))
    target_ids = torch.randint(4, VOCABULARY, (rows, targets))
    lengths = torch.linspace(0.6 * targets, targets, rows).ceil()
    valid = torch.arange(targets) < lengths[:, None]
    ones = torch.ones_like(source_ids)
    return Batch.of(source_ids, ones, target_ids.roll(1, 1), target_ids, valid).to(DEVICE)


def new_bart() -> BartForConditionalGeneration:
    """Return a BART-base of random weights."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
        dropout=0.1,
    )
    return BartForConditionalGeneration(config).to(DEVICE).train()


def steps(bart: BartForConditionalGeneration, batch: Batch) -> dict[str, Callable[[], None]]:
    """Return a whole step in each form, under bf16 autocast."""
    naive = NaiveR3F(bart, 0.1, 0.01, 1.0).train()
    ours = R3FModel(bart, LossConfig(), R3FConfig.model_validate({"sigma": 0.01})).train()
    inputs = (
        *(batch.source_ids_BS, batch.source_mask_BS, batch.decoder_ids_BT),
        *(batch.target_ids_BT, batch.target_mask_BT),
    )

    def run(loss: Callable[[], Tensor]) -> None:
        bart.zero_grad()
        with autocast(torch.bfloat16):
            total = loss()
        total.backward()

    return {
        "naive": lambda: run(lambda: naive(*inputs)),
        "fused": lambda: run(lambda: ours(batch).total),
    }


def main() -> None:
    """Print the tables; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", type=int, default=2048, help="slots whose memory is measured")
    parser.add_argument("--append", action="store_true", help="add the tables to RESULTS.md")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        dtype, slots, name = arguments.peak
        case = head_case(int(slots))
        print(json.dumps(peak_mib(lambda: run_head(name, case, DTYPES[dtype]))))
        return
    report(
        "Loss",
        [versions("torch", "transformers"), "", *head_lines(arguments.targets), "", *step_lines()],
        is_kept=arguments.append,
    )


def head_lines(targets: int) -> list[str]:
    """Return the table of the head alone; memory is that of `targets` slots."""
    lines = [
        f"| head | time, 512 slots | ratio | peak memory above inputs, {targets:,} slots | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for dtype in DTYPES:
        case = head_case(512)
        calls = {name: _head_call(name, case, DTYPES[dtype]) for name in HEADS}
        taken = seconds(calls, repeats=3)
        call = ("--peak", dtype, str(targets))
        peaks = {name: in_fresh_process(__file__, *call, name) for name in HEADS}
        for name in HEADS:
            times = f"{taken['naive'] / taken[name]:.2f}"
            memory = f"{peaks[name]:.0f} MiB | {peaks['naive'] / peaks[name]:.1f}"
            shown = f"{1000 * taken[name]:.1f} ms" if DEVICE.type == "cuda" else "-"
            lines.append(f"| {name}, {dtype} | {shown} | {times} | {memory} |")
    return lines


def _head_call(name: str, case: HeadCase, dtype: torch.dtype) -> Callable[[], None]:
    return lambda: run_head(name, case, dtype)


def step_lines() -> list[str]:
    """Return the table of whole steps."""
    bart = new_bart()
    lines = ["| whole step of BART-base, bf16 | naive / fused, time |", "| --- | --- |"]
    for name, shape in SHAPES.items():
        taken = seconds(steps(bart, new_batch(*shape)), repeats=3)
        lines.append(f"| {name} | {taken['naive'] / taken['fused']:.2f} |")
    return lines


if __name__ == "__main__":
    main()
