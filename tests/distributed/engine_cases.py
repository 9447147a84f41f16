"""What ranks do in the tests of the engine: a toy model on data that depend on (update, lane) alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - imported by every engine; once is enough
import torch
import torch._dynamo
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from torch import Tensor, nn

from pipeline.distributed.profile import find_profile, load_profile
from pipeline.distributed.world import World
from pipeline.distributed.zero import ZeroEngine, decay_groups, partitioned_loading

LANES = 6
TOKENS = 12
VOCABULARY, WIDTH = 20, 8
LR, BETAS, EPS, DECAY = 0.1, (0.9, 0.95), 1.0, 0.01
"""A large eps makes the step follow the gradient's size, which plain Adam hides: clipping shows."""


class Toy(nn.Module):
    """Embedding, LayerNorm, two products and a head tied to the embedding: a summed cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layer_norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.fc2 = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        hidden = self.layer_norm(self.embed(ids))
        hidden = hidden + self.fc2(torch.tanh(self.fc1(hidden)))
        logits = self.head(hidden).float()
        return nn.functional.cross_entropy(logits, targets, reduction="sum")


def batch(update: int, lane: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1000 * update + lane)
    ids, targets = torch.randint(0, VOCABULARY, (2, TOKENS), generator=random)
    return ids, targets


def groups_of(module: nn.Module) -> list[dict[str, Any]]:
    return decay_groups(module.named_parameters(), DECAY, "matrices")


def engine(
    world: World, profile: str, precision: Any, clip_norm: float = 0.5, lanes: int = LANES
) -> ZeroEngine:
    module = Toy()
    return ZeroEngine(
        module,
        groups_of(module),
        profile=load_profile(find_profile(profile)),
        world=world,
        lane_slots=lanes // world.size,
        precision=precision,
        clip_norm=clip_norm,
        betas=BETAS,
        eps=EPS,
    )


@contextlib.contextmanager
def opened(*arguments: Any, **settings: Any) -> Iterator[ZeroEngine]:
    made = engine(*arguments, **settings)
    try:
        yield made
    finally:
        made.close()


def run_update(
    ranks: ZeroEngine, world: World, update: int, *, factor: float = 1.0, is_discarded: bool = False
) -> tuple[float, bool]:
    """One update on this rank's lanes; returns its share of the loss, and whether it was applied."""
    loss_sum, is_applied = 0.0, True
    for lane in range(world.rank, LANES, world.size):
        loss = ranks(*batch(update, lane)) / (LANES * TOKENS)
        loss_sum += loss.item()
        ranks.backward(loss * factor)
        if is_discarded and lane + world.size >= LANES:
            ranks.discard()
        else:
            is_applied = ranks.step(LR)
    return loss_sum, is_applied


def weights(ranks: ZeroEngine) -> dict[str, list[float]]:
    """Whole fp32 weights by name, on every rank."""
    return {
        name: safe_get_full_fp32_param(p).flatten().tolist()
        if ranks.zero_stage
        else p.detach().flatten().tolist()
        for name, p in ranks.module.named_parameters()
    }


def train(
    world: World,
    profile: str,
    precision: str,
    data: Sequence[int] = (0, 1, 2, 3),
    clip_norm: float = 0.5,
    factors: Mapping[str, float] | None = None,
    discarded: Sequence[int] = (),
) -> dict[str, Any]:
    """Train on the batches of `data`, and tell what can be seen of it. `factors` multiply losses."""
    found: dict[str, Any] = {"losses": [], "norms": [], "applied": [], "scales": []}
    with opened(world, profile, precision, clip_norm) as ranks:
        for number in data:
            factor = (factors or {}).get(str(number), 1.0)
            loss, is_applied = run_update(
                ranks, world, number, factor=factor, is_discarded=number in discarded
            )
            found["losses"].append(loss)
            found["norms"].append(ranks.gradient_norm())
            found["applied"].append(is_applied)
            found["scales"].append(ranks.loss_scale)
        return {**found, "parameters": ranks.parameter_count, "weights": weights(ranks)}


def plain(
    world: World,
    precision: str,
    data: Sequence[int] = (0, 1, 2, 3),
    clip_norm: float = 0.5,
    factors: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The same in plain torch on one process: the oracle of `train`."""
    assert world.size == 1
    module = Toy()
    optimizer = torch.optim.AdamW(groups_of(module), lr=LR, betas=BETAS, eps=EPS)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    scale, norms = 65536.0 if precision == "fp16" else 1.0, []
    for number in data:
        for lane in range(LANES):
            with torch.autocast("cpu", dtype, enabled=precision != "fp32"):
                loss = module(*batch(number, lane)) / (LANES * TOKENS)
            (loss * (factors or {}).get(str(number), 1.0) * scale).backward()
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.grad /= scale
        norms.append(nn.utils.clip_grad_norm_(module.parameters(), clip_norm or math.inf).item())
        if math.isfinite(norms[-1]):
            optimizer.step()
        else:
            scale = max(scale / 2, 1.0)
        optimizer.zero_grad()
    return {
        "norms": norms,
        "weights": {name: p.flatten().tolist() for name, p in module.named_parameters()},
    }


def travelling(world: World, profile: str, precision: str) -> dict[str, bool]:
    """Whether a gathered weight and a reduced gradient hold no more bits than bf16 does."""
    seen: list[Tensor] = []
    with opened(world, profile, precision, 0.0, lanes=world.size) as ranks:
        product = ranks.module.fc1
        assert isinstance(product, nn.Module)
        product.register_forward_hook(
            lambda module, *_: seen.append(module.weight.detach().clone())
        )
        ranks.backward(ranks(*batch(0, world.rank)) / 7)
        gradient = safe_get_full_grad(product.weight) if ranks.zero_stage else product.weight.grad
        return {
            "weight": bool(torch.equal(seen[0], seen[0].bfloat16().float())),
            "gradient": bool(torch.equal(gradient, gradient.bfloat16().float())),
        }


def make_bart(world: World, folder: str) -> int:
    """Write a tiny BART to disk; returns its number of parameters."""
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=100,
        d_model=16,
        max_position_embeddings=64,
        init_std=0.15,
        encoder_layers=1,
        decoder_layers=1,
        dropout=0.0,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    model = BartForConditionalGeneration(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def bart(world: World, folder: str, profile: str, is_partitioned: bool) -> dict[str, Any]:
    """Load a BART, whole or partitioned, and train it for two updates."""
    from transformers import BartForConditionalGeneration

    settings = load_profile(find_profile(profile))
    with partitioned_loading(settings) if is_partitioned else contextlib.nullcontext():
        model = BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = decay_groups(model.named_parameters(), DECAY, "matrices")
    held = sum(getattr(p, "ds_tensor", p).numel() for p in model.parameters())
    ranks = ZeroEngine(
        model,
        groups,
        profile=settings,
        world=world,
        lane_slots=1,
        precision="fp32",
        clip_norm=0.1,
        betas=BETAS,
        eps=1e-8,
    )
    for update in range(2):
        ids = torch.randint(
            4, 100, (2, 8), generator=torch.Generator().manual_seed(10 * update + world.rank)
        )
        logits = ranks(ids, None, ids).logits
        ranks.backward((logits.logsumexp(-1) - logits[..., 7]).mean())
        ranks.step(1e-2)
    found = {
        "groups": [[names[id(p)] for p in group["params"]] for group in groups],
        "decay": [group["weight_decay"] for group in groups],
        "one_dimensional": [name for name, p in model.named_parameters() if p.dim() == 1],
        "held": held,
        "parameters": ranks.parameter_count,
        "weights": weights(ranks),
    }
    ranks.close()
    return found
