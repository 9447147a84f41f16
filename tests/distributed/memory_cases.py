"""What a rank does in the tests of the forecast of memory: train a BART, every storage counted."""

from __future__ import annotations

import gc
from typing import Any

import torch
from transformers import BartConfig, BartForConditionalGeneration

from pipeline.distributed.world import World
from pipeline.distributed.zero import ZeroEngine
from stages.finetune.config import FinetuneConfig
from stages.finetune.model import Batch, R3FModel
from tests.storage_ledger import StorageLedger

SIZES = {
    "d_model": 192,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 768,
    "decoder_ffn_dim": 768,
    "vocab_size": 2000,
    "max_position_embeddings": 128,
}
SLOTS = 2


def settings(precision: str) -> FinetuneConfig:
    given = {"updates": 1000, "precision": precision, "attention_dropout": 0.0}
    return FinetuneConfig.model_validate(given)


def peaks(
    world: World, profile: dict[str, Any], precision: str, shapes: list[list[int]]
) -> list[int]:
    """Return for each shape the most bytes that this rank held in an update, its moments there."""
    config = settings(precision)
    with StorageLedger() as ledger:
        bart = BartForConditionalGeneration(
            BartConfig(**SIZES, dropout=config.dropout, attention_dropout=0.0)
        )
        module = R3FModel(bart, config.loss, config.r3f)
        engine = ZeroEngine(
            module,
            [{"params": list(module.parameters()), "weight_decay": 0.01}],
            profile=profile,
            world=world,
            lane_slots=SLOTS,
            precision=config.precision,
            clip_norm=0.1,
            betas=(0.9, 0.999),
            eps=1e-8,
        )
        del bart, module
        engine.train(True)
        _update(engine, shapes[0])
        found = []
        for shape in shapes:
            gc.collect()
            ledger.peak = ledger.now
            _update(engine, shape)
            found.append(ledger.peak)
        engine.close()
    return found


def _update(engine: ZeroEngine, shape: list[int]) -> None:
    for _ in range(SLOTS):
        engine.backward(engine(_batch(*shape)).total / 50)
        engine.step(1e-4)


def _batch(rows: int, sources: int, targets: int) -> Batch:
    source_ids, target_ids = (
        torch.randint(4, SIZES["vocab_size"], (rows, width)) for width in (sources, targets)
    )
    source_mask = torch.ones_like(source_ids)
    source_mask[:, -2:] = 0
    target_mask = torch.ones_like(target_ids, dtype=torch.bool)
    return Batch.of(source_ids, source_mask, target_ids, target_ids, target_mask)
