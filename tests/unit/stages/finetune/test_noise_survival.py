"""Where noise survives 16-bit training: measured on the real path, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration

from stages.finetune import noise_survival
from stages.finetune.config import LossConfig, R3FConfig
from stages.finetune.model import Batch, R3FModel
from stages.finetune.noise_survival import NoiseProbe, Survival

torch.set_num_threads(1)

PAPER_SIGMA = 1e-5


def new_module(sigma: float, dropout: float = 0.1) -> R3FModel:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=101,
        d_model=64,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=48,
        init_std=0.04,
        dropout=dropout,
    )
    r3f = R3FConfig.model_validate({"sigma": sigma})
    return R3FModel(BartForConditionalGeneration(config), LossConfig(), r3f).train()


@pytest.fixture
def batch() -> Batch:
    random = torch.Generator().manual_seed(1)
    source_BS = torch.randint(4, 101, (8, 40), generator=random)
    source_BS[3:, 25:] = 1
    target_BT = torch.randint(4, 101, (8, 6), generator=random)
    return Batch.of(
        source_BS, (source_BS != 1).long(), target_BT.roll(1, 1), target_BT, target_BT != 1
    )


def survival(
    module: R3FModel, batch: Batch, dtype: torch.dtype | None
) -> tuple[Survival, NoiseProbe]:
    torch.manual_seed(2)
    probe = NoiseProbe()
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        module(batch, probe)
    return probe.survival(), probe


def test_float32_keeps_the_papers_noise_and_bf16_products_lose_most_of_it(batch: Batch) -> None:
    whole, _ = survival(new_module(PAPER_SIGMA), batch, None)
    assert min(whole.embedding, whole.residual, whole.compute) >= 0.99
    short, _ = survival(new_module(PAPER_SIGMA), batch, torch.bfloat16)
    assert min(short.embedding, short.residual) >= 0.99
    assert short.compute < 0.25


def test_a_sum_cast_before_layer_norm_is_found_out(batch: Batch) -> None:
    module = new_module(PAPER_SIGMA)
    exact = module._embeddings

    def rounded(batch: Batch) -> Tensor:
        return exact(batch).bfloat16()

    module._embeddings = rounded  # type: ignore[method-assign]
    found, _ = survival(module, batch, torch.bfloat16)
    assert found.embedding < 0.5


def test_a_16_bit_residual_is_found_out(batch: Batch) -> None:
    module = new_module(PAPER_SIGMA)
    module.bart.model.encoder.layernorm_embedding.register_forward_hook(
        lambda _module, _arguments, output: output.bfloat16().float()
    )
    found, _ = survival(module, batch, torch.bfloat16)
    assert found.embedding >= 0.99 and found.residual < 0.25


def test_the_sigma_that_passes_passes(batch: Batch) -> None:
    _, probe = survival(new_module(PAPER_SIGMA, dropout=0.0), batch, torch.bfloat16)
    sigma = PAPER_SIGMA * probe.sufficient_factor()
    at, _ = survival(new_module(sigma, dropout=0.0), batch, torch.bfloat16)
    below, _ = survival(new_module(0.8 * sigma, dropout=0.0), batch, torch.bfloat16)
    assert at.compute == pytest.approx(0.5, abs=0.03) and below.compute < 0.48


def test_no_noise_survives_nowhere(batch: Batch) -> None:
    module = new_module(1.0)
    module._noise = torch.zeros_like  # type: ignore[method-assign]
    found, probe = survival(module, batch, torch.bfloat16)
    assert found == Survival(0.0, 0.0, 0.0)
    assert probe.sufficient_factor() == float("inf")


def test_padding_is_left_out(batch: Batch) -> None:
    """Noise that only padding gets survives nowhere."""
    module = new_module(1.0)
    is_pad = batch.source_mask_BS[:, :, None] == 0
    module._noise = lambda like: torch.ones_like(like) * is_pad  # type: ignore[method-assign]
    assert survival(module, batch, None)[0].embedding == 0.0


def test_hooks_are_gone_afterwards(batch: Batch) -> None:
    module = new_module(PAPER_SIGMA)
    survival(module, batch, None)
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_equal_dropout_leaves_what_the_noise_does(batch: Batch) -> None:
    """Dropout dwarfs the paper's noise; with equal masks what is left is quadratic in sigma."""
    kl = {}
    for sigma in (0.002, 0.004):
        module = new_module(sigma)
        with torch.no_grad():
            torch.manual_seed(3)
            kl[sigma] = module(batch, None, 7).kl.item()
            torch.manual_seed(3)
            usual = module(batch).kl.item()
        assert kl[sigma] < usual
    assert kl[0.004] / kl[0.002] == pytest.approx(4.0, rel=0.15)
    module = new_module(PAPER_SIGMA)
    with torch.no_grad():
        assert module(batch, None, 7).kl.item() < 1e-4 * module(batch).kl.item()


def test_shares_by_hand() -> None:
    clean = torch.tensor([1.0, 2.0, 3.0, 0.0, 5.0])
    noised = torch.tensor([1.0, 2.5, 3.0, -0.0, 6.0])
    counts = torch.tensor([True, True, True, True, False])
    assert [int(n) for n in noise_survival._changed(clean, noised, counts)] == [1, 4]
