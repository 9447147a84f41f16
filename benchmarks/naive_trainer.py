"""R3F in Hugging Face's Seq2SeqTrainer as it is written by hand. The peer of our training.

Trainer as shipped: DataCollatorForSeq2Seq, its own samplers, accelerate's autocast, gradient accumulation. By
hand is `compute_loss`: naive_r3f.py, averaged over the micro-batch's target tokens.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import now
from naive_r3f import NaiveR3F
from torch import Tensor
from training_case import SEED, Spent, config_of, costs_of
from transformers import (
    AutoTokenizer,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from stages.finetune.config import FinetuneConfig
from stages.finetune.data import EncodedSplit


class R3FTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer with the loss of fairseq's R3F; notes the lengths of what it trained on."""

    loss_is_scaled_for_ga = False

    def __init__(self, *, finetune: FinetuneConfig, **settings: Any) -> None:
        super().__init__(**settings)
        self.finetune = finetune
        self.seen: list[tuple[int, Tensor, Tensor]] = []
        """Of each micro-batch: updates done before it, source and target tokens of its rows."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the loss per target token."""
        valid = inputs["labels"] != -100
        lengths = inputs["attention_mask"].sum(1), valid.sum(1)
        self.seen.append((self.state.global_step, *lengths))
        loss, r3f = self.finetune.loss, self.finetune.r3f
        naive = NaiveR3F(model, loss.label_smoothing, r3f.sigma, r3f.lambda_)
        targets = inputs["labels"].masked_fill(~valid, 0)
        summed = naive(
            *(inputs["input_ids"], inputs["attention_mask"], inputs["decoder_input_ids"]),
            *(targets, valid),
        )
        return summed / valid.sum()


class Clock(TrainerCallback):
    """The time after each update."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        """Note the time."""
        self.times.append(now())


def train_peer(folder: Path, rows: int, strategy: str, warm: int) -> Spent:
    """Train like `training_case.train_ours`, with `rows` rows a micro-batch that `strategy` chose."""
    torch.set_num_threads(1)
    config, split = config_of(folder), EncodedSplit(folder / "train")
    bart = BartForConditionalGeneration.from_pretrained(
        folder / "model",
        dtype=torch.float32,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
    )
    optimizer, clock = config.optimizer, Clock()
    with TemporaryDirectory() as output:
        trainer = R3FTrainer(
            finetune=config,
            model=bart,
            args=Seq2SeqTrainingArguments(
                output_dir=output,
                max_steps=config.updates,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=config.batch.lanes,
                train_sampling_strategy=strategy,
                learning_rate=optimizer.lr,
                adam_beta1=optimizer.betas[0],
                adam_beta2=optimizer.betas[1],
                adam_epsilon=optimizer.eps,
                weight_decay=optimizer.weight_decay,
                max_grad_norm=optimizer.clip_norm,
                lr_scheduler_type="linear",
                warmup_steps=config.schedule.warmup_updates,
                bf16=config.precision == "bf16",
                use_cpu=not torch.cuda.is_available(),
                seed=SEED,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=[_example(split, row) for row in range(len(split))],
            data_collator=DataCollatorForSeq2Seq(
                AutoTokenizer.from_pretrained(folder / "model"), model=bart
            ),
            callbacks=[clock],
        )
        trainer.train()
    sources, targets = (
        torch.cat([lengths[side] for lengths in trainer.seen if lengths[0] >= warm]).cpu().numpy()
        for side in (1, 2)
    )
    flops = costs_of(folder).of(np.ones_like(sources), sources, targets).sum()
    tokens = sources.sum() + targets.sum()
    return Spent(clock.times[-1] - clock.times[warm - 1], int(tokens), int(flops))


def _example(split: EncodedSplit, row: int) -> dict[str, list[int]]:
    source = split.source(row).tolist()
    attention = [1] * len(source)
    return {"input_ids": source, "attention_mask": attention, "labels": split.target(row).tolist()}
