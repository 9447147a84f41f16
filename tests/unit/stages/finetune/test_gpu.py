"""What only a CUDA device shows: float32 logits straight from 16-bit products, compiled layers."""

from __future__ import annotations

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from stages.finetune.config import LossConfig, R3FConfig
from stages.finetune.fused_head import Rows, fused_loss
from stages.finetune.loss import LossSums, Smoothing
from stages.finetune.model import Batch, R3FModel
from stages.finetune.noise_survival import NoiseProbe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VOCABULARY, WIDTH, ROWS = 5_003, 64, 3_000


def head(device: str, dtype: torch.dtype, kind: torch.dtype) -> tuple[LossSums, list[torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    clean = torch.randn(ROWS, WIDTH, generator=random)
    noised = clean + 0.1 * torch.randn(ROWS, WIDTH, generator=random)
    weight = 0.2 * torch.randn(VOCABULARY, WIDTH, generator=random)
    targets = torch.randint(VOCABULARY, (ROWS,), generator=random).to(device)
    ones = torch.ones(ROWS, dtype=kind, device=device)
    leaves = [t.to(device, kind).requires_grad_() for t in (clean, noised, weight)]
    sums = fused_loss(
        *(*leaves, None, Rows(targets, ones)),
        smoothing=Smoothing(0.1, "torch"),
        kl_lambda=0.5,
        dtype=dtype,
    )
    (sums.total / ROWS).backward()
    gradients = []
    for leaf in leaves:
        assert leaf.grad is not None
        gradients.append(leaf.grad.double().cpu())
    return sums, gradients


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)]
)
def test_the_head_agrees_with_float64_on_the_cpu(dtype: torch.dtype, tolerance: float) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    wanted_sums, wanted = head("cpu", torch.float64, torch.float64)
    found_sums, found = head("cuda", dtype, torch.float32)
    for ours, exact in zip(found_sums[:3], wanted_sums[:3], strict=True):
        assert ours.item() == pytest.approx(exact.item(), rel=tolerance)
    for ours, exact in zip(found, wanted, strict=True):
        assert float((ours - exact).norm()) <= tolerance * float(exact.norm())


@pytest.mark.filterwarnings("ignore:.*TensorFloat32.*:UserWarning")
def test_compiled_layers_train_alike() -> None:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=503,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=64,
        dropout=0.0,
    )
    bart = BartForConditionalGeneration(config).cuda()
    module = R3FModel(bart, LossConfig(), R3FConfig.model_validate({"sigma": 0.01})).train()
    ids = torch.randint(4, 503, (4, 32))
    targets = torch.randint(4, 503, (4, 12))
    valid = torch.ones_like(targets, dtype=torch.bool)
    batch = Batch.of(ids, torch.ones_like(ids), targets.roll(1, 1), targets, valid).to(
        torch.device("cuda")
    )
    totals = []
    for is_compiled in (False, True):
        if is_compiled:
            for layer in (*bart.model.encoder.layers, *bart.model.decoder.layers):
                layer.forward = torch.compile(layer.forward)
        module.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cuda", torch.bfloat16):
            sums = module(batch, NoiseProbe())
        sums.total.backward()
        totals.append((sums.total.item(), float(bart.model.shared.weight.grad.norm())))
    assert totals[1] == pytest.approx(totals[0], rel=1e-2)
