"""The losses against torch, a float64 loop and numbers worked by hand.

Shapes: B batch, T target positions, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.finetune.loss import reduce_kl, smoothed_nll, symmetric_kl

torch.set_num_threads(1)

DEFINITIONS: tuple[Literal["torch", "fairseq"], ...] = ("torch", "fairseq")


def random_case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [3, 5, 11] in float64, targets, and a mask with rows of 5, 3 and 1 tokens."""
    random = torch.Generator().manual_seed(seed)
    logits_BTV = 3 * torch.randn(3, 5, 11, generator=random, dtype=torch.float64)
    targets_BT = torch.randint(0, 11, (3, 5), generator=random)
    valid_BT = torch.arange(5)[None, :] < torch.tensor([5, 3, 1])[:, None]
    return logits_BTV, targets_BT, valid_BT


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.9])
def test_torch_definition_is_torch_cross_entropy(epsilon: float) -> None:
    logits_BTV, targets_BT, valid_BT = random_case()
    found = smoothed_nll(logits_BTV, targets_BT, valid_BT, epsilon, "torch")
    flat_NV, flat_N = logits_BTV[valid_BT], targets_BT[valid_BT]
    nll = F.cross_entropy(flat_NV, flat_N, reduction="sum")
    total = F.cross_entropy(flat_NV, flat_N, reduction="sum", label_smoothing=epsilon)
    torch.testing.assert_close(found.nll, nll, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.nll + found.smoothing, total, rtol=1e-13, atol=0)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.9])
def test_fairseq_definition_spreads_epsilon_over_the_other_tokens(epsilon: float) -> None:
    logits_BTV, targets_BT, valid_BT = random_case(1)
    expected = 0.0
    for row, column in zip(*np.nonzero(valid_BT.numpy()), strict=True):
        logits_V = logits_BTV[row, column].numpy()
        log_p_V = logits_V - math.log(sum(math.exp(one) for one in logits_V))
        wanted_V = np.full(11, epsilon / 10)  # what the prediction should be
        wanted_V[targets_BT[row, column]] = 1 - epsilon
        expected -= float(wanted_V @ log_p_V)
    found = smoothed_nll(logits_BTV, targets_BT, valid_BT, epsilon, "fairseq")
    assert float(found.nll + found.smoothing) == pytest.approx(expected, rel=1e-13)


# p = 1/2, 1/4, 1/8, 1/16, 1/16 and target 1: -log2 p is 2 there and 14 over all five tokens.
#   torch:    0.9 * 2 + 0.1 / 5 * 14            = 2.08
#   fairseq:  (1 - 0.1 - 0.025) * 2 + 0.025 * 14 = 2.10
@pytest.mark.parametrize(("definition", "bits"), [("torch", 2.08), ("fairseq", 2.10)])
def test_five_token_vocabulary_by_hand(
    definition: Literal["torch", "fairseq"], bits: float
) -> None:
    logits_BTV = torch.tensor([[[0.5, 0.25, 0.125, 0.0625, 0.0625]]], dtype=torch.float64).log()
    one_BT = torch.ones(1, 1, dtype=torch.int64)
    found = smoothed_nll(logits_BTV, one_BT, one_BT.bool(), 0.1, definition)
    assert float(found.nll) == pytest.approx(2 * math.log(2), rel=1e-14)
    assert float(found.nll + found.smoothing) == pytest.approx(bits * math.log(2), rel=1e-14)


def test_definitions_agree_at_epsilon_scaled_by_v_over_v_minus_1() -> None:
    case = random_case(2)
    of_fairseq = smoothed_nll(*case, 0.1, "fairseq")
    of_torch = smoothed_nll(*case, 0.1 * 11 / 10, "torch")
    torch.testing.assert_close(of_torch.smoothing, of_fairseq.smoothing, rtol=1e-12, atol=0)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("junk", [1e4, math.inf, math.nan])
def test_padding_enters_neither_term(definition: Literal["torch", "fairseq"], junk: float) -> None:
    logits_BTV, targets_BT, valid_BT = random_case()
    clean = smoothed_nll(logits_BTV, targets_BT, valid_BT, 0.1, definition)
    logits_BTV[~valid_BT] = junk
    targets_BT[~valid_BT] = 7
    assert smoothed_nll(logits_BTV, targets_BT, valid_BT, 0.1, definition) == clean


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_padding_gets_no_gradient(definition: Literal["torch", "fairseq"]) -> None:
    logits_BTV, targets_BT, valid_BT = random_case()
    logits_BTV.requires_grad_()
    sum(smoothed_nll(logits_BTV, targets_BT, valid_BT, 0.1, definition)).backward()
    assert logits_BTV.grad is not None
    assert bool((logits_BTV.grad[~valid_BT] == 0).all())
    assert bool((logits_BTV.grad[valid_BT] != 0).all())


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_all_padding_is_a_zero_loss(definition: Literal["torch", "fairseq"]) -> None:
    logits_BTV, targets_BT, valid_BT = random_case()
    found = smoothed_nll(logits_BTV, targets_BT, valid_BT & False, 0.1, definition)
    assert (float(found.nll), float(found.smoothing)) == (0.0, 0.0)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_smoothed_gradient_is_that_of_finite_differences(
    definition: Literal["torch", "fairseq"],
) -> None:
    logits_BTV, targets_BT, valid_BT = random_case()
    logits_BTV.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: tuple(smoothed_nll(logits, targets_BT, valid_BT, 0.1, definition)),
        (logits_BTV,),
    )


def test_16_bit_logits_are_computed_in_float32() -> None:
    logits_BTV, targets_BT, valid_BT = random_case()
    short_BTV, other_BTV = logits_BTV.bfloat16(), logits_BTV.flip(-1).bfloat16()
    found = smoothed_nll(short_BTV, targets_BT, valid_BT, 0.1, "torch")
    exact = smoothed_nll(short_BTV.double(), targets_BT, valid_BT, 0.1, "torch")
    for part, wanted in zip(found, exact, strict=True):
        assert part.dtype == torch.float32
        torch.testing.assert_close(part.double(), wanted, rtol=1e-5, atol=1e-5)
    kl_BT = symmetric_kl(short_BTV, other_BTV)
    assert kl_BT.dtype == torch.float32
    wanted_BT = symmetric_kl(short_BTV.double(), other_BTV.double())
    torch.testing.assert_close(kl_BT.double(), wanted_BT, rtol=1e-5, atol=1e-5)


def two_logits() -> tuple[Tensor, Tensor]:
    return random_case(3)[0], random_case(4)[0]


def test_symmetric_kl_is_the_sum_of_both_directions() -> None:
    p_BTV, q_BTV = two_logits()
    log_p_BTV, log_q_BTV = p_BTV.log_softmax(-1), q_BTV.log_softmax(-1)
    forth_BT = F.kl_div(log_q_BTV, log_p_BTV, reduction="none", log_target=True).sum(-1)
    back_BT = F.kl_div(log_p_BTV, log_q_BTV, reduction="none", log_target=True).sum(-1)
    found_BT = symmetric_kl(p_BTV, q_BTV)
    torch.testing.assert_close(found_BT, forth_BT + back_BT, rtol=1e-12, atol=0)


# p = (3/4, 1/4), q = (1/4, 3/4): (3/4 - 1/4) ln 3 + (1/4 - 3/4) ln (1/3) = ln 3
def test_symmetric_kl_by_hand() -> None:
    p_BTV = torch.tensor([[[0.75, 0.25]]], dtype=torch.float64).log()
    assert float(symmetric_kl(p_BTV, p_BTV.flip(-1))) == pytest.approx(math.log(3), rel=1e-14)


def test_symmetric_kl_is_symmetric_and_not_negative() -> None:
    p_BTV, q_BTV = two_logits()
    found_BT = symmetric_kl(p_BTV, q_BTV)
    torch.testing.assert_close(found_BT, symmetric_kl(q_BTV, p_BTV), rtol=0, atol=0)
    assert bool((found_BT > 0).all())


def test_symmetric_kl_of_equal_distributions_is_zero() -> None:
    p_BTV, _ = two_logits()
    assert float(symmetric_kl(p_BTV, p_BTV).abs().max()) == 0.0
    assert float(symmetric_kl(p_BTV, p_BTV + 5).abs().max()) < 1e-13  # logits shift freely


def test_symmetric_kl_has_gradients_into_both_sides() -> None:
    p_BTV, q_BTV = (logits[:1, :2].requires_grad_() for logits in two_logits())
    assert torch.autograd.gradcheck(symmetric_kl, (p_BTV, q_BTV))
    symmetric_kl(p_BTV, q_BTV).sum().backward()
    assert p_BTV.grad is not None and q_BTV.grad is not None
    assert bool((p_BTV.grad != 0).any()) and bool((q_BTV.grad != 0).any())


def test_symmetric_kl_refuses_shapes_that_would_broadcast() -> None:
    p_BTV, q_BTV = two_logits()
    with pytest.raises(ValueError, match="against"):
        symmetric_kl(p_BTV, q_BTV[:, :1])


KL_BT = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
VALID_BT = torch.tensor([[True, True], [True, False]])


# token: 1 + 2 + 3.   fairseq: (1 + 2 + 3 + 4) / 2 sentences * 3 valid tokens.
@pytest.mark.parametrize(("reduction", "expected"), [("token", 6.0), ("fairseq", 15.0)])
def test_reductions_by_hand(reduction: Literal["token", "fairseq"], expected: float) -> None:
    assert float(reduce_kl(KL_BT, VALID_BT, reduction)) == expected


def test_added_padding_changes_the_fairseq_reduction_only() -> None:
    wider_BT, mask_BT = F.pad(KL_BT, (0, 3), value=2.5), F.pad(VALID_BT, (0, 3))
    assert reduce_kl(wider_BT, mask_BT, "token") == reduce_kl(KL_BT, VALID_BT, "token")
    # Six more positions of 2.5 nats on top of the ten nats that were there.
    factor = (10 + 6 * 2.5) / 10
    before, after = (
        float(reduce_kl(kl_BT, valid_BT, "fairseq"))
        for kl_BT, valid_BT in ((KL_BT, VALID_BT), (wider_BT, mask_BT))
    )
    assert after == pytest.approx(factor * before, rel=1e-6)


def test_token_reduction_ignores_what_padding_holds() -> None:
    kl_BT = KL_BT.masked_fill(~VALID_BT, math.inf)
    assert float(reduce_kl(kl_BT, VALID_BT, "token")) == 6.0


@pytest.mark.parametrize("reduction", ["token", "fairseq"])
def test_a_masked_micro_batch_weighs_nothing(reduction: Literal["token", "fairseq"]) -> None:
    kl_BT = KL_BT.clone().requires_grad_()
    total = reduce_kl(kl_BT, VALID_BT & False, reduction)
    total.backward()
    assert float(total.detach()) == 0.0
    assert kl_BT.grad is not None and bool((kl_BT.grad == 0).all())
