"""The fused head against the plain loss in float64, and what a caller may rely on around it.

Shapes: B batch, T target positions, N target rows, D width, V vocabulary.
"""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration

from stages.finetune import fused_head
from stages.finetune.config import LossConfig, R3FConfig
from stages.finetune.fused_head import Rows, fused_loss
from stages.finetune.loss import LossSums, Smoothing, plain_loss
from stages.finetune.model import Batch, R3FModel

torch.set_num_threads(1)

PAD, START, VOCABULARY = 1, 2, 53
SETTINGS = list(
    itertools.product(("token", "fairseq"), ("torch", "fairseq"), (0.0, 0.1), (0.0, 1.0))
)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of several blocks, none of them full, also for a handful of rows."""
    monkeypatch.setitem(fused_head._CHUNK_ROWS, "cpu", 10)
    monkeypatch.setitem(fused_head._BLOCK_ROWS, "cpu", 3)
    monkeypatch.setattr(fused_head, "_VOCABULARY_PART", 20)


def new_bart(**settings: float) -> BartForConditionalGeneration:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        init_std=0.2,
        **{"dropout": 0.0, **settings},
    )
    bart = BartForConditionalGeneration(config).double()
    bart.final_logits_bias.normal_()  # zero in BART's own weights, not in every derived model's
    return bart


def new_batch(extra_pads: int = 0) -> Batch:
    sources, targets = (9, 6, 3, 8), (5, 7, 2, 6)
    random = torch.Generator().manual_seed(1)
    source_BS = torch.full((4, max(sources)), PAD)
    target_BT = torch.full((4, max(targets) + extra_pads), PAD)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        source_BS[row, :source] = torch.randint(4, VOCABULARY, (source,), generator=random)
        target_BT[row, :target] = torch.randint(4, VOCABULARY, (target,), generator=random)
    decoder_BT = torch.cat([torch.full((4, 1), START), target_BT[:, :-1]], dim=1)
    return Batch.of(source_BS, (source_BS != PAD).long(), decoder_BT, target_BT, target_BT != PAD)


def new_module(
    reduction: str, form: str, epsilon: float, kl_lambda: float, **settings: float
) -> R3FModel:
    r3f = {"reduction": reduction, "sigma": 0.2, "lambda": kl_lambda}
    loss = LossConfig.model_validate({"label_smoothing": epsilon, "smoothing": form})
    return R3FModel(new_bart(**settings), loss, R3FConfig.model_validate(r3f)).train()


def plainly(module: R3FModel, batch: Batch, setting: tuple[str, str, float, float]) -> LossSums:
    """The module's loss by whole logits."""
    reduction, form, epsilon, kl_lambda = setting
    hidden = module.hidden(batch, is_noised=kl_lambda > 0)
    logits = module.bart.lm_head(hidden) + module.bart.final_logits_bias
    clean_BTV, noised_BTV = logits.chunk(2) if kl_lambda > 0 else (logits, None)
    return plain_loss(
        clean_BTV,
        noised_BTV,
        batch.target_ids_BT,
        batch.target_mask_BT,
        smoothing=Smoothing(epsilon, form),  # type: ignore[arg-type]
        reduction=reduction,  # type: ignore[arg-type]
        kl_lambda=kl_lambda,
    )


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_whole_model_equals_the_plain_form_in_float64(
    setting: tuple[str, str, float, float], dropout: float
) -> None:
    module, batch = new_module(*setting, dropout=dropout), new_batch()
    found = []
    for form in (module, lambda b: plainly(module, b, setting)):
        torch.manual_seed(5)
        module.zero_grad()
        sums: LossSums = form(batch)
        (sums.total / 17.0).backward()  # the incoming gradient is not 1
        gradients = {name: p.grad.clone() for name, p in module.named_parameters()}
        found.append((sums, gradients))
    (fused, fused_gradients), (plain, plain_gradients) = found
    for ours, theirs in zip(fused, plain, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-12, abs=1e-13)
    largest = max(float(gradient.norm()) for gradient in plain_gradients.values())
    for name, gradient in plain_gradients.items():
        difference = float((fused_gradients[name] - gradient).norm())
        # A key's bias has gradient 0 but for rounding: measured against the largest gradient then.
        assert difference <= 1e-10 * max(float(gradient.norm()), 1e-3 * largest), name


def test_extra_padding_changes_the_fairseq_loss_only() -> None:
    for reduction, is_changed in (("token", False), ("fairseq", True)):
        totals = []
        for extra in (0, 9):
            module = new_module(reduction, "torch", 0.1, 1.0)
            torch.manual_seed(5)
            totals.append(module(new_batch(extra)).total.item())
        difference = abs(totals[1] / totals[0] - 1.0)
        assert difference > 1e-3 if is_changed else difference < 1e-12


def head_case(
    count: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    clean_ND = torch.randn(count, 16, generator=random, dtype=torch.float64)
    noised_ND = clean_ND + 0.1 * torch.randn(count, 16, generator=random, dtype=torch.float64)
    weight_VD = torch.randn(VOCABULARY, 16, generator=random, dtype=torch.float64)
    targets_N = torch.randint(0, VOCABULARY, (count,), generator=random)
    hidden = (tensor.to(dtype).requires_grad_() for tensor in (clean_ND, noised_ND, weight_VD))
    return *hidden, targets_N


def head(
    clean_ND: Tensor,
    noised_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    dtype: torch.dtype,
    form: Literal["torch", "fairseq"] = "torch",
) -> LossSums:
    ones_N = torch.ones(len(targets_N), dtype=clean_ND.dtype)
    rows = Rows(targets_N, ones_N)
    smoothing = Smoothing(0.1, form)
    return fused_loss(
        clean_ND, noised_ND, weight_VD, None, rows, smoothing=smoothing, kl_lambda=0.7, dtype=dtype
    )


def test_padding_leaves_the_heads_bits_alone() -> None:
    """Given the same decoder outputs, padded columns are gathered away before anything is computed."""
    outputs = []
    for extra in (0, 9):
        module, batch = new_module("token", "torch", 0.1, 1.0), new_batch(extra)
        random = torch.Generator().manual_seed(3)
        hidden_MTD = torch.randn(8, 7, 32, generator=random, dtype=torch.float64)
        hidden_MTD = torch.nn.functional.pad(hidden_MTD, (0, 0, 0, extra))
        module.hidden = lambda _batch, hidden=hidden_MTD, **_: hidden  # type: ignore[method-assign]
        sums = module(batch)
        sums.total.backward()
        outputs.append([*(part.item() for part in sums), module.bart.lm_head.weight.grad])
    assert outputs[0][:5] == outputs[1][:5]
    assert torch.equal(outputs[0][5], outputs[1][5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precisions_are_as_near_float64_as_the_plain_form(dtype: torch.dtype) -> None:
    """Errors of the gradients, under fp16's loss scale, against those of autocast and whole logits."""
    gradients = {}
    for name, kind in (("exact", torch.float64), ("ours", torch.float32), ("plain", torch.float32)):
        *leaves, targets_N = head_case(23, kind)
        with torch.autocast("cpu", dtype=dtype, enabled=name != "exact" and dtype != torch.float32):
            if name == "plain":
                clean_BTV, noised_BTV = ((hidden @ leaves[2].T)[None] for hidden in leaves[:2])
                valid_BT = torch.ones(1, 23, dtype=torch.bool)
                sums = plain_loss(
                    *(clean_BTV, noised_BTV, targets_N[None], valid_BT),
                    smoothing=Smoothing(0.1, "torch"),
                    reduction="token",
                    kl_lambda=0.7,
                )
            else:  # autocast is left inside: it must not reach the products a second time
                sums = head(*leaves, targets_N, kind if name == "exact" else dtype)
        (sums.total / 23 * 65_536.0).backward()
        gradients[name] = [leaf.grad for leaf in leaves]
        assert all(gradient.dtype == kind for gradient in gradients[name])
    for exact, ours, plain in zip(*gradients.values(), strict=True):
        error, usual = (float((near - exact).norm() / exact.norm()) for near in (ours, plain))
        assert error <= 1.25 * usual + 1e-7, (error, usual)


def test_fp16_keeps_the_gradient_of_smoothing() -> None:
    """eps / V is 2e-6 at BART's vocabulary, where fp16 has a handful of values left."""
    vocabulary = 50_265
    random = torch.Generator().manual_seed(2)
    hidden_ND = torch.randn(3, 8, generator=random).requires_grad_()
    weight_VD = torch.randn(vocabulary, 8, generator=random)
    weight_VD[:, 0] += (
        torch.arange(vocabulary) % 2 * 10.0
    )  # a direction that only smoothing pulls on
    targets_N, ones_N = torch.tensor([3, 5, 7]), torch.ones(3)
    found = {}
    for dtype in (torch.float32, torch.float16):
        sums = fused_loss(
            *(hidden_ND, None, weight_VD, None, Rows(targets_N, ones_N)),
            smoothing=Smoothing(0.1, "torch"),
            kl_lambda=0.0,
            dtype=dtype,
        )
        (found[dtype],) = torch.autograd.grad(sums.total, hidden_ND)
    difference = found[torch.float16] - found[torch.float32]
    assert float(difference.norm()) < 2e-3 * float(found[torch.float32].norm())


def test_no_row_gives_zeros_and_zero_gradients() -> None:
    case = head_case(0)
    sums = head(*case, torch.float64)
    sums.total.backward()
    assert [part.item() for part in sums] == [0.0] * 5
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in case[:3])


def test_without_gradients_none_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("a gradient was made")

    monkeypatch.setattr(fused_head._Gradients, "__init__", refuse)
    with torch.no_grad():
        sums = head(*head_case(5), torch.float64)
    assert sums.total.item() > 0.0 and not sums.total.requires_grad


def test_a_second_backward_is_refused() -> None:
    sums = head(*head_case(5), torch.float64)
    sums.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass"):
        sums.total.backward()


def test_only_the_total_carries_a_gradient() -> None:
    sums = head(*head_case(5), torch.float64)
    assert [part.requires_grad for part in sums] == [True, False, False, False, False]
