"""What ranks do in the test of gradients: one real update of a small BART with R3F, read in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - imported by every engine; once is enough
import numpy as np
import torch
import torch._dynamo
from deepspeed.utils import safe_get_full_grad
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration

from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import World
from pipeline.preemption import StopFlag
from stages.finetune.build import build_engine
from stages.finetune.config import FinetuneConfig
from stages.finetune.curriculum import UpdateWork
from stages.finetune.training import Ranks, train_update

LANES = 6
CONFIG = FinetuneConfig.model_validate(
    {
        "precision": "fp32",
        "dropout": 0.1,
        "batch": {"lanes": LANES},
        "optimizer": {"clip_norm": 0.0},
        "r3f": {"sigma": 0.05, "lambda": 1.0},
    }
)


def make_bart(world: World, folder: str) -> None:
    """Write a small BART to disk."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=120,
        d_model=32,
        max_position_embeddings=64,
        init_std=0.1,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)


class RaggedTask:
    """Rows of very different lengths, so that a mean of means would be another number."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.source_lengths = random.integers(5, 40, 24)
        self.target_lengths = random.integers(2, 30, 24)

    def ids(self, rows: Any) -> list[str]:
        return [str(row) for row in rows]

    def row(self, row: int, _epoch: int) -> tuple[Any, Any]:
        random = np.random.default_rng(100 + row)
        sides = (self.source_lengths[row], self.target_lengths[row])
        source, target = (random.integers(4, 120, length).astype(np.int32) for length in sides)
        return source, target


def gradients(world: World, model: str, folder: str) -> dict[str, float]:
    """Store the whole gradient of one update at each ZeRO stage in `folder`; returns losses by stage."""
    task = RaggedTask()
    lanes = np.split(np.arange(24), [1, 3, 8, 12, 20])
    tokens = int(task.target_lengths.sum())
    work = UpdateWork(task, 0, lanes, tokens, 0, 0)  # type: ignore[arg-type]
    found = {}
    for stage in range(4):
        engine = build_engine(CONFIG, Path(model), find_profile(f"zero{stage}"), world)
        read: dict[str, Tensor] = {}
        step = engine.step

        def reading(lr: float, engine: Any = engine, step: Any = step, read: Any = read) -> bool:
            if engine._engine.is_gradient_accumulation_boundary():
                for name, parameter in engine.module.named_parameters():
                    whole = safe_get_full_grad(parameter) if engine.zero_stage else parameter.grad
                    read[name] = whole.clone()
            return bool(step(lr))

        engine.step = reading  # type: ignore[method-assign]
        ranks = Ranks(engine, world, seed=1, pad_id=1, start_id=2)
        outcome = train_update(ranks, work, 5, LANES, 1e-3, StopFlag())
        assert outcome.is_applied
        found[str(stage)] = sum(outcome.sums[:3]) / tokens
        if world.is_first:
            torch.save(read, Path(folder) / f"stage{stage}_ranks{world.size}.pt")
        engine.close()
    return found
