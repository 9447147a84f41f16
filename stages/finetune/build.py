"""The model under its engine, as the recipe and the sharding profile want it."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import BartForConditionalGeneration

from pipeline.distributed.profile import load_profile
from pipeline.distributed.world import World
from pipeline.distributed.zero import ZeroEngine, decay_groups, partitioned_loading
from pipeline.errors import ConfigError
from stages.finetune.batch_plan import lane_slots
from stages.finetune.config import FinetuneConfig
from stages.finetune.model import R3FModel

_logger = logging.getLogger(__name__)


def build_engine(
    config: FinetuneConfig, model_folder: Path, profile_path: Path, world: World
) -> ZeroEngine:
    """Load a model and hand it to DeepSpeed; under ZeRO-3 no rank ever holds all of it.

    Raises:
        ConfigError: If this GPU has no bf16.
    """
    has_gpu = torch.cuda.is_available()
    if config.precision == "bf16" and has_gpu and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name()
        raise ConfigError(f"finetune.precision is bf16, which {name} lacks: use fp16 or fp32")
    profile = load_profile(profile_path)
    with partitioned_loading(profile):
        bart = BartForConditionalGeneration.from_pretrained(
            model_folder,
            dtype=torch.float32,
            encoder_layerdrop=0.0,  # ranks that skip different layers would wait for each other at ZeRO-3
            decoder_layerdrop=0.0,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            activation_dropout=config.activation_dropout,
        )
    if config.activation_checkpointing:
        # Not the reentrant form, which fails at ZeRO-3 (deepspeed 0.19.8) and asks for inputs with gradients.
        enable = getattr(
            bart, "activation_checkpointing_enable", bart.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
    if config.compile:
        for layer in (*bart.model.encoder.layers, *bart.model.decoder.layers):
            layer.forward = torch.compile(layer.forward, dynamic=True)  # hooks stay outside
    module = R3FModel(bart, config.loss, config.r3f)
    optimizer = config.optimizer
    return ZeroEngine(
        module,
        decay_groups(module.named_parameters(), optimizer.weight_decay, optimizer.decay),
        profile=profile,
        world=world,
        lane_slots=lane_slots(config.batch.lanes, world.size),
        precision=config.precision,
        clip_norm=optimizer.clip_norm,
        betas=optimizer.betas,
        eps=optimizer.eps,
    )
