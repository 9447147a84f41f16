"""Bytes that fine-tuning needs, by arithmetic: state by ZeRO stage, activations, head, checkpoints.

What DeepSpeed holds was read in its source and measured (0.19.8, every storage counted, 1 to 4 ranks): with
`torch_autocast` parameters are fp32, and from ZeRO-1 on each rank keeps its partition of fp32 masters beside
them, although they are equal. Names in formulas: P parameters, W processes, d width, f feed-forward width,
h heads, V vocabulary, S source and T target positions of a row, c bytes of a matrix product's operand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pipeline.distributed.profile import bucket_elements
from stages.finetune.config import FinetuneConfig
from stages.finetune.sizes import BartSizes

FP32 = 4
_ZERO0_BUCKET = 500_000_000  # DeepSpeed's `buffered_allreduce_fallback`
_REUSE_DISTANCE = 1_000_000_000  # DeepSpeed's default of stage3_max_reuse_distance


class Device(NamedTuple):
    """What differs between kinds of devices; as fused_head.py and torch 2.13 have it."""

    head_rows: int
    """Stacked rows of a chunk of the fused head."""
    block_rows: int
    """Rows of a block of its elementwise work."""
    is_dropout_fused: bool
    """A fused dropout keeps a byte for each element, another one a copy of the element."""
    is_product_exact: bool
    """Whether products of 16-bit operands come out in fp32, beside which the gradient is kept."""


GPU = Device(2048, 256, is_dropout_fused=True, is_product_exact=True)
CPU = Device(1024, 16, is_dropout_fused=False, is_product_exact=False)


class Shape(NamedTuple):
    """A padded micro-batch."""

    rows: int
    sources: int
    """Source positions of each row."""
    targets: int
    """Target positions of each row."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """How training state is spread: a DeepSpeed profile on a number of processes."""

    stage: int
    """ZeRO stage, 0 to 3."""
    processes: int
    lane_slots: int
    """Micro-batches that each process runs in an update."""
    offload_optimizer: bool = False
    offload_param: bool = False
    bucket: int | None = None
    """Elements of a reduction bucket; None where the size of the model decides."""
    reuse_distance: int = _REUSE_DISTANCE
    """Elements within which ZeRO-3 keeps gathered parameters for their next use."""

    @classmethod
    def of_profile(cls, profile: Mapping[str, Any], processes: int, lane_slots: int) -> Sharding:
        """Read what matters for memory from a profile that `load_profile` has checked."""
        zero = profile.get("zero_optimization", {})
        return cls(
            stage=zero.get("stage", 0),
            processes=processes,
            lane_slots=lane_slots,
            offload_optimizer=_is_offloaded(zero.get("offload_optimizer")),
            offload_param=_is_offloaded(zero.get("offload_param")),
            bucket=zero.get("reduce_bucket_size"),
            reuse_distance=int(zero.get("stage3_max_reuse_distance", _REUSE_DISTANCE)),
        )

    def at(self, stage: int) -> Sharding:
        """Return the same at another ZeRO stage, nothing offloaded."""
        return replace(self, stage=stage, offload_optimizer=False, offload_param=False)


def _is_offloaded(setting: Mapping[str, Any] | None) -> bool:
    return setting is not None and setting.get("device", "none") != "none"


def product_bytes(config: FinetuneConfig) -> int:
    """Return the bytes of a matrix product's operand."""
    return FP32 if config.precision == "fp32" else 2


def activation_bytes(
    sizes: BartSizes, shape: Shape, config: FinetuneConfig, device: Device = GPU
) -> int:
    """Bytes that a micro-batch's forward pass keeps for its backward pass, the head's left out.

    Per position of a layer, with fused attention (no S x S weights are kept) and LayerNorm in fp32:
    - operands of products: in fp32 the LayerNorm outputs themselves (4 d each), in 16 bits a cast copy for
      each product that takes them (c d); queries, keys, values and the attention's output (c d each);
    - each LayerNorm's input (4 d), dropout masks, log-sum-exp of each head (4 h);
    - feed-forward: what GELU and the second product take (c f each);
    - of cross-attention, for each source position, keys and values, and in 16 bits their two operands.
    Attention over padded sources keeps its mask, c bytes for each pair of positions of a row.
    With activation checkpointing each layer keeps its input (4 d), and one layer at a time all of this.

    Args:
        sizes: Of the model.
        shape: The micro-batch; R3F doubles its rows.
        config: Precision, dropout, R3F and activation checkpointing.
        device: Where it runs. A CPU has no fused attention with attention dropout; its S x S weights are
            not counted.
    """
    rows = shape.rows * config.r3f.passes
    sources, targets = rows * shape.sources, rows * shape.targets
    d, c = sizes.d_model, product_bytes(config)
    is_16_bit = c < FP32
    mask_bytes = 1 if device.is_dropout_fused else c
    mask = mask_bytes if config.dropout else 0

    def operands(products: int, norms: int) -> int:
        return products * c * d if is_16_bit else norms * FP32 * d

    def feed_forward(width: int) -> int:
        inner_mask = mask_bytes * width if config.activation_dropout else 0
        return 2 * c * width + inner_mask + (mask + FP32) * d

    def attention(heads: int) -> int:
        return 4 * c * d + FP32 * heads + (mask + FP32) * d

    encoder_layer = (
        sources
        * (
            operands(4, 2)
            + attention(sizes.encoder_attention_heads)
            + feed_forward(sizes.encoder_ffn_dim)
        )
        + rows * shape.sources**2 * c
    )
    decoder_layer = (
        targets * (
            operands(5, 3)
            + 2 * attention(sizes.decoder_attention_heads)
            - 2 * c * d  # keys and values of cross-attention belong to source positions
            + feed_forward(sizes.decoder_ffn_dim)
        )
        + sources * (2 * c * d + operands(2, 0))
        + rows * shape.targets * shape.sources * c
    )  # fmt: skip
    ends = (sources + targets) * (FP32 + mask) * d + FP32 * d * sources
    if config.activation_checkpointing:
        inputs = (sizes.encoder_layers * sources + sizes.decoder_layers * targets) * FP32 * d
        return ends + inputs + max(encoder_layer, decoder_layer)
    return ends + sizes.encoder_layers * encoder_layer + sizes.decoder_layers * decoder_layer


_HEAD_BLOCKS = 5


def head_bytes(sizes: BartSizes, shape: Shape, config: FinetuneConfig, device: Device = GPU) -> int:
    """Most bytes of the fused output head; grows with the targets by 8 d each, with V only by chunks.

    A chunk's logits, on a GPU in 16 bits fp32 with their gradient beside them; a cast weight; blocks of
    elementwise scratch; the fp32 gradient of the weight and, in 16 bits, a product to be added to it; for
    each target its hidden state and that state's gradient (fp32).
    """
    halves, c, v = config.r3f.passes, product_bytes(config), sizes.vocab_size
    targets = halves * shape.rows * shape.targets
    chunks = -(-targets // device.head_rows)
    chunk = -(-targets // chunks)
    is_16_bit = c < FP32
    logits = chunk * v * (FP32 + c if is_16_bit and device.is_product_exact else c)
    block = min(device.block_rows, chunk // halves) * _HEAD_BLOCKS * v * FP32
    weight = sizes.embedding_parameters * FP32
    cast = sizes.embedding_parameters * c if is_16_bit else 0
    product = 0
    if is_16_bit and (chunks > 1 or not device.is_product_exact):
        product = sizes.embedding_parameters * (FP32 if device.is_product_exact else c)
    return logits + block + weight + cast + product + 2 * targets * sizes.d_model * FP32


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes on one device: what is held during the worst micro-batch, and the sums of other moments."""

    weights: int
    """fp32 parameters, at ZeRO-3 with those gathered, and 16-bit copies that products keep."""
    gradients: int
    """Summed over earlier micro-batches of the update, and those of this one."""
    optimizer: int
    """fp32 masters (from ZeRO-1 on) and AdamW's two moments."""
    buckets: int
    activations: int
    head: int
    reduction: int
    """Sum at the end of an update's last backward pass, when activations are gone."""
    step: int
    """Sum while AdamW steps, with its scratch."""

    @property
    def micro_batch(self) -> int:
        """Sum during the worst micro-batch."""
        state = self.weights + self.gradients + self.optimizer + self.buckets
        return state + self.activations + self.head

    @property
    def peak(self) -> int:
        """The largest of the three sums."""
        return max(self.micro_batch, self.reduction, self.step)


def device_memory(
    sizes: BartSizes,
    worst: Shape,
    config: FinetuneConfig,
    sharding: Sharding,
    device: Device = GPU,
) -> DeviceMemory:
    """Return the bytes that training allocates on each device, CUDA's own and fragmentation left out.

    ZeRO   weights                gradients                  masters   moments
    0      4 P                    4 P                        -         8 P
    1      4 P                    4 P, + 4 P/W when reduced  4 P/W     8 P/W
    2      4 P                    4 P/W, + 4 P/W new         4 P/W     8 P/W
    3      4 P/W, + 4 P gathered  4 P/W                      4 P/W     8 P/W

    With one micro-batch an update, activations and gradients of ZeRO 0 to 2 do not meet, but for new ones.
    Gathered parameters are kept for their next use within `stage3_max_reuse_distance`, by DeepSpeed's
    default 1e9 elements: up to that size ZeRO-3 holds all of them in every forward and backward pass. In 16
    bits products keep 2 bytes of each of their weights, which at ZeRO-3 are part of the gathered 4 P.
    """
    p, w, stage = sizes.parameters, sharding.processes, sharding.stage
    whole, part = FP32 * p, FP32 * -(-p // w)
    is_summed = sharding.lane_slots > 1
    is_offloaded = sharding.offload_optimizer and stage > 0
    casts = 2 * sizes.product_parameters if product_bytes(config) < FP32 else 0
    held = (0 if sharding.offload_param else part) if stage == 3 else whole
    in_passes = casts
    if stage == 3:
        is_gathered = w > 1 or sharding.offload_param
        live = min(p, sharding.reuse_distance + sizes.embedding_parameters)
        in_passes = FP32 * live if is_gathered else 0
    optimizer = 2 * whole if stage == 0 else 0 if is_offloaded else 3 * part
    buckets = 0 if stage == 0 else FP32 * (sharding.bucket or bucket_elements(p))
    summed = {0: whole * is_summed, 1: whole * is_summed, 2: part * is_summed, 3: part}[stage]
    new = part if stage == 2 else 0
    reduced = {0: min(p, _ZERO0_BUCKET) * FP32, 1: part, 2: 0, 3: 0}[stage]
    at_end = whole if stage < 2 else summed + new
    scratch = 0 if stage == 0 else part  # none of AdamW's own: it is fused
    at_step = {0: whole + reduced, 1: 0, 2: 0, 3: part}[stage]
    if is_offloaded:
        summed = new = reduced = at_end = scratch = at_step = 0
    return DeviceMemory(
        weights=held + in_passes,
        gradients=summed + new,
        optimizer=optimizer,
        buckets=buckets,
        activations=activation_bytes(sizes, worst, config, device),
        head=head_bytes(sizes, worst, config, device),
        # The embedding's gradient comes three times, and is summed when all are there.
        reduction=held
        + (in_passes if stage == 3 else 0)
        + optimizer
        + buckets
        + at_end
        + max(reduced, 3 * FP32 * sizes.embedding_parameters),
        step=held + optimizer + buckets + at_step + scratch,
    )


def host_bytes(sizes: BartSizes, sharding: Sharding) -> int:
    """Return the bytes of training state that one process keeps in host memory; 0 without offloading."""
    part = FP32 * -(-sizes.parameters // sharding.processes)
    if not sharding.offload_optimizer or sharding.stage == 0:
        return part if sharding.offload_param and sharding.stage == 3 else 0
    if sharding.stage == 3:  # masters, two moments, gradients twice, parameters if they are here
        return part * (5 + sharding.offload_param)
    is_summed = sharding.lane_slots > 1  # masters, moments, gradient, copy; sum over micro-batches
    return part * (5 + is_summed) + sizes.embedding_parameters * FP32


def resume_bytes(sizes: BartSizes, sharding: Sharding) -> int:
    """Return the most bytes of host memory that all processes of a host take to load a checkpoint.

    Each process reads the file of the whole weights (none at ZeRO-3, all state at ZeRO-0), then its own
    partition's masters and moments; at the start it held the model as loaded, again without ZeRO-3.
    """
    part = FP32 * -(-sizes.parameters // sharding.processes)
    whole = FP32 * sizes.parameters
    each = {0: 4 * whole, 1: 2 * whole + 3 * part, 2: 2 * whole + 3 * part, 3: 4 * part}
    return sharding.processes * (each[sharding.stage] + host_bytes(sizes, sharding))
