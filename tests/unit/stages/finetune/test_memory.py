"""Bytes by arithmetic, against bytes that torch really keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from pipeline.distributed.profile import bucket_elements
from pipeline.distributed.zero import merge_settings
from stages.finetune.config import FinetuneConfig
from stages.finetune.fused_head import Rows, fused_loss
from stages.finetune.loss import Smoothing
from stages.finetune.memory import (
    CPU,
    GPU,
    DeviceMemory,
    Shape,
    Sharding,
    activation_bytes,
    device_memory,
    head_bytes,
    host_bytes,
    resume_bytes,
)
from stages.finetune.model import Batch, R3FModel
from stages.finetune.sizes import KNOWN, BartSizes, sizes_of_config
from tests.storage_ledger import StorageLedger

TINY = BartSizes(32, 2, 2, 2, 2, 64, 96, 300, 256)
MEDIUM = BartSizes(256, 4, 3, 4, 4, 1024, 1024, 1000, 512)
LARGE = KNOWN["facebook/bart-large"]
TOLERANCE = 0.02
"""What the estimate of activations keeps; measured: 1.5 %."""


def settings(precision: str = "fp32", kl: float = 1.0, **more: Any) -> FinetuneConfig:
    given = {"precision": precision, "r3f": {"lambda": kl}, "attention_dropout": 0.0, **more}
    return FinetuneConfig.model_validate({"updates": 1000, **given})


def built(sizes: BartSizes, config: FinetuneConfig) -> R3FModel:
    names = list(BartSizes.__dataclass_fields__)
    bart = BartForConditionalGeneration(
        BartConfig(
            **{name: getattr(sizes, name) for name in names},
            dropout=config.dropout,
            attention_dropout=0.0,
            activation_dropout=config.activation_dropout,
        )
    )
    assert sizes_of_config(bart.config.to_dict(), "config") == sizes
    if config.activation_checkpointing:
        bart.activation_checkpointing_enable({"use_reentrant": False})
    return R3FModel(bart, config.loss, config.r3f).train()


def padded_batch(shape: Shape, vocabulary: int) -> Batch:
    sources = torch.randint(5, vocabulary, (shape.rows, shape.sources))
    targets = torch.randint(5, vocabulary, (shape.rows, shape.targets))
    source_mask = torch.ones_like(sources)
    source_mask[:, -2:] = 0
    target_mask = torch.ones_like(targets, dtype=torch.bool)
    return Batch.of(sources, source_mask, targets, targets, target_mask)


def kept_for_backward(sizes: BartSizes, shape: Shape, config: FinetuneConfig) -> int:
    """Return the bytes of all storages that the body's forward pass saves, parameters and casts left out."""
    model = built(sizes, config)
    batch = padded_batch(shape, sizes.vocab_size)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    is_16_bit = config.precision == "bf16"
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_16_bit),
    ):
        model.hidden(batch, is_noised=config.r3f.is_on)
    has_casts = is_16_bit and not config.activation_checkpointing
    return sum(kept.values()) - (2 * sizes.product_parameters if has_casts else 0)


@pytest.mark.parametrize("shape", [Shape(4, 60, 20), Shape(2, 200, 150)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sizes", [TINY, MEDIUM], ids=["tiny", "medium"])
@pytest.mark.parametrize(
    "more",
    [
        {"kl": 0.0},
        {"kl": 1.0, "dropout": 0.0},
        {"kl": 1.0},
        {"kl": 1.0, "activation_dropout": 0.1},
    ],
)
def test_activations_are_what_autograd_keeps(
    sizes: BartSizes, precision: str, shape: Shape, more: dict[str, Any]
) -> None:
    config = settings(precision, **more)
    measured = kept_for_backward(sizes, shape, config)
    predicted = activation_bytes(sizes, shape, config, CPU)
    assert predicted == pytest.approx(measured, rel=TOLERANCE)


def test_with_checkpointing_layers_keep_their_inputs_alone() -> None:
    """Hooks see what is kept between layers; what one layer keeps while it is redone comes on top."""
    config = settings(activation_checkpointing=True)
    shape = Shape(2, 200, 150)
    between = kept_for_backward(MEDIUM, shape, config)
    one_layer = replace(MEDIUM, encoder_layers=1, decoder_layers=0)
    plain = settings()
    none = replace(MEDIUM, encoder_layers=0, decoder_layers=0)
    encoder_layer = activation_bytes(one_layer, shape, plain, CPU) - activation_bytes(
        none, shape, plain, CPU
    )
    decoder_layer = activation_bytes(
        replace(one_layer, encoder_layers=0, decoder_layers=1), shape, plain, CPU
    ) - activation_bytes(none, shape, plain, CPU)
    predicted = activation_bytes(MEDIUM, shape, config, CPU)
    assert predicted == pytest.approx(between + max(encoder_layer, decoder_layer), rel=TOLERANCE)
    assert predicted < 0.5 * activation_bytes(MEDIUM, shape, plain, CPU)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rows", [200, 700, 2000])
def test_the_head_takes_what_is_said(precision: str, rows: int) -> None:
    config, width, vocabulary = settings(precision), 64, 5000
    sizes = replace(TINY, d_model=width, vocab_size=vocabulary)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    weight = torch.randn(vocabulary, width, requires_grad=True)
    with StorageLedger() as ledger:
        halves = [torch.randn(rows, width, requires_grad=True) for _ in range(2)]
        ones = torch.ones(rows)
        losses = fused_loss(
            *halves,
            weight,
            None,
            Rows(torch.randint(vocabulary, (rows,)), ones),
            smoothing=Smoothing(0.1, "torch"),
            kl_lambda=1.0,
            dtype=dtype,
        )
    assert losses.total.requires_grad
    predicted = head_bytes(sizes, Shape(1, 1, rows), config, CPU)
    own = weight.nbytes if dtype == weight.dtype else 0  # seen through its views
    assert predicted == pytest.approx(ledger.peak - own, rel=0.05)


def test_the_head_of_a_gpu_does_not_grow_with_the_vocabulary_times_the_targets() -> None:
    """performance.md's form: at 16,384 stacked targets the plain loss keeps 24 bytes an entry."""
    config = settings("bf16")
    few, many = (head_bytes(LARGE, Shape(1, 1, targets), config) for targets in (2048, 8192))
    assert many - few == (8192 - 2048) * 2 * 2 * LARGE.d_model * 4
    assert many < 2**31 < 24 * 8192 * LARGE.vocab_size // 4


@pytest.mark.parametrize("parameters", [1_000, 10_000_000, 139_420_416, 10**9])
def test_buckets_are_sized_as_training_sizes_them(parameters: int) -> None:
    merged = merge_settings({}, parameters, 1, "fp32", 0.1)
    assert bucket_elements(parameters) == merged["zero_optimization"]["reduce_bucket_size"]


def test_a_profile_is_read_for_what_it_says() -> None:
    zero = {
        "stage": 3,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "none"},
        "reduce_bucket_size": 1000,
        "stage3_max_reuse_distance": 0,
    }
    assert Sharding.of_profile({"zero_optimization": zero}, 4, 2) == Sharding(
        3, 4, 2, offload_optimizer=True, bucket=1000, reuse_distance=0
    )
    assert Sharding.of_profile({}, 2, 1) == Sharding(0, 2, 1)


def memory(stage: int, processes: int = 4, slots: int = 2, **more: Any) -> DeviceMemory:
    sharding = Sharding(stage, processes, slots, **more)
    return device_memory(LARGE, Shape(1, 64, 32), settings("fp32"), sharding)


P = LARGE.parameters


@pytest.mark.parametrize(
    ("stage", "slots", "weights", "gradients", "optimizer"),
    [
        (0, 2, 4 * P, 4 * P, 8 * P),
        (1, 2, 4 * P, 4 * P, 3 * P),
        (2, 2, 4 * P, 2 * P, 3 * P),
        (2, 1, 4 * P, P, 3 * P),
        (3, 2, P + 4 * P, P, 3 * P),
    ],
)
def test_state_by_hand_on_four_processes(
    stage: int, slots: int, weights: int, gradients: int, optimizer: int
) -> None:
    found = memory(stage, slots=slots)
    assert (found.weights, found.gradients, found.optimizer) == (weights, gradients, optimizer)


def test_a_short_reuse_distance_is_what_makes_zero3_small() -> None:
    assert memory(3, reuse_distance=0).weights == P + 4 * LARGE.embedding_parameters
    assert memory(3, reuse_distance=0).peak < memory(2).peak < memory(3).peak + 2 * P


def test_what_is_offloaded_is_on_the_host() -> None:
    sharding = Sharding(2, 4, 2, offload_optimizer=True)
    found = device_memory(LARGE, Shape(1, 64, 32), settings("fp32"), sharding)
    assert (found.gradients, found.optimizer) == (0, 0)
    assert host_bytes(LARGE, sharding) == 6 * P + 4 * LARGE.embedding_parameters
    both = Sharding(3, 4, 2, offload_optimizer=True, offload_param=True)
    assert host_bytes(LARGE, both) == 6 * P
    assert host_bytes(LARGE, Sharding(2, 4, 2)) == 0
    assert resume_bytes(LARGE, sharding) > resume_bytes(LARGE, Sharding(2, 4, 2))


def test_a_gpu_keeps_a_byte_for_each_element_of_a_dropout_mask() -> None:
    shape, dropped, whole = Shape(2, 100, 50), settings("bf16"), settings("bf16", dropout=0.0)
    added = activation_bytes(MEDIUM, shape, dropped, GPU) - activation_bytes(
        MEDIUM, shape, whole, GPU
    )
    layers = 2 * MEDIUM.encoder_layers + 1, 3 * MEDIUM.decoder_layers + 1
    positions = 2 * shape.rows * shape.sources, 2 * shape.rows * shape.targets
    assert added == MEDIUM.d_model * sum(n * m for n, m in zip(layers, positions, strict=True))
