"""Output head and loss in one: exact sums and gradients without ever holding all logits.

Targets are taken in chunks. A chunk's logits are made, turned into their own gradient in place, and
multiplied into the gradients of the hidden states and of the weight while they are in hand: three matrix
products a chunk, nothing recomputed, and memory that does not grow with the number of targets.

Shapes: N target rows, C rows of a chunk (clean and noised stacked), R rows of a block, V vocabulary, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.finetune.loss import LossSums, Smoothing
from stages.finetune.memory import CPU, GPU

_CHUNK_ROWS = {"cpu": CPU.head_rows, "cuda": GPU.head_rows}
"""Stacked rows of a chunk. Fewer make the weight's gradient, added up once a chunk, the dearest part."""
_BLOCK_ROWS = {"cpu": CPU.block_rows, "cuda": GPU.block_rows}
"""Rows of a block of elementwise work: on a CPU what stays in cache, on a GPU what bounds scratch memory."""
_VOCABULARY_PART = 16_384
"""Rows of the weight whose gradient is made at a time: a 16-bit product of all would be held beside it."""
_FP16_SCALE = 256.0
"""Smoothing's share of a gradient, eps / V, is 2e-6: below fp16's normal range unless scaled up first."""


class Rows(NamedTuple):
    """What the loss needs to know of the rows."""

    targets_N: Tensor
    """Token ids, int64; any id where `nll_weights_N` is 0."""
    nll_weights_N: Tensor
    """Weight of label-smoothed cross-entropy: 1, or 0 on padding."""
    kl_weight: float = 1.0
    """Weight of the symmetric KL of each row, padding too; lambda left out."""

    def part(self, rows: slice) -> Rows:
        """Return some of the rows."""
        return Rows(self.targets_N[rows], self.nll_weights_N[rows], self.kl_weight)


def fused_loss(
    clean_ND: Tensor,
    noised_ND: Tensor | None,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    rows: Rows,
    *,
    smoothing: Smoothing,
    kl_lambda: float,
    dtype: torch.dtype,
) -> LossSums:
    """Label-smoothed cross-entropy and symmetric KL of logits = hidden @ weight^T + bias, as sums.

    With a = clean and b = noised logits, lp = log_softmax(a), lq = log_softmax(b), p = e^lp, q = e^lq,
    D = lp - lq, A = sum_v p D, B = -sum_v q D, n a row's weight and y its target, k the weight of the KL:

        total = sum_N n (share_y (-lp_y) + share_all sum_v(-lp)) + lambda k (A + B)
        d total / da = n (p - share_y onehot_y - share_all) + lambda k (p (D - A) + p - q)
        d total / db = lambda k (q (-D - B) + q - p)

    Args:
        clean_ND: Decoder outputs of the clean pass, at least float32.
        noised_ND: Those of the noised pass, or None without one.
        weight_VD: Output embedding; its gradient comes back in its own dtype.
        bias_V: Added to the logits, without a gradient; None for zero.
        rows: Targets and weights.
        smoothing: Label smoothing.
        kl_lambda: Weight of the KL in `total`.
        dtype: What the matrix products take in; everything else is float32, or float64 if that is given.

    Returns:
        Scalars in nats. Only `total` carries a gradient.

    Source:
        The sums of loss.py (`plain_loss`), to which tests hold this in float64. The chunked, in-place form
        is that of fused linear cross-entropy (Liger Kernel, arXiv 2410.10989), with two live distributions.
    """
    with torch.autocast(clean_ND.device.type, enabled=False):
        return LossSums(
            *_FusedLoss.apply(  # type: ignore[no-untyped-call]
                *(clean_ND, noised_ND, weight_VD, bias_V, rows, smoothing, kl_lambda, dtype),
                torch.is_grad_enabled(),  # inside the function it always says no
            )
        )


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        clean_ND: Tensor,
        noised_ND: Tensor | None,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        rows: Rows,
        smoothing: Smoothing,
        kl_lambda: float,
        dtype: torch.dtype,
        is_recording: bool,
    ) -> tuple[Tensor, ...]:
        needs_gradient = is_recording and any(ctx.needs_input_grad[:3])
        head = _Head(
            weight_VD.to(dtype), bias_V, clean_ND.dtype, smoothing, rows.kl_weight, kl_lambda
        )
        halves = [clean_ND] if noised_ND is None else [clean_ND, noised_ND]
        losses = torch.zeros(4, dtype=torch.float64, device=clean_ND.device)
        gradients = _Gradients(halves, weight_VD) if needs_gradient else None
        count = clean_ND.shape[0]
        chunk_rows = _CHUNK_ROWS[clean_ND.device.type] // len(halves)
        chunks = -(-count // chunk_rows)
        for index in range(chunks):  # of equal size, up to one row
            part = slice(index * count // chunks, (index + 1) * count // chunks)
            losses += head.chunk([half[part] for half in halves], rows.part(part), part, gradients)
        nll, smooth, kl, correct = losses.to(clean_ND.dtype)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(nll, smooth, kl, correct)
        return nll + smooth + kl_lambda * kl, nll, smooth, kl, correct

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "a second backward pass through the fused head, which keeps nothing for it"
            )
        # The incoming gradient holds 1 / tokens, accumulation and the loss scale: it is not 1. In place, and
        # no reference is left behind: autograd takes the weight's gradient as it is, without a copy.
        clean_ND, *noised = (half.mul_(outputs[0]) for half in gradients.halves)
        weight_VD = gradients.take_weight().mul_(outputs[0])
        return clean_ND, noised[0] if noised else None, weight_VD, *[None] * 6


class _Gradients:
    """Gradients of the undivided sums, float32 (or float64): in 16 bits 1 / tokens would underflow later."""

    def __init__(self, halves: list[Tensor], weight_VD: Tensor) -> None:
        self.halves = [torch.empty_like(half) for half in halves]
        self._like_VD = weight_VD
        self._weight_VD: Tensor | None = None

    def take_weight(self) -> Tensor:
        """Hand over the gradient of the weight; zeros if there was no row."""
        weight_VD, self._weight_VD = self._weight_VD, None
        return torch.zeros_like(self._like_VD) if weight_VD is None else weight_VD

    def add_weight(self, gradient_CV: Tensor, hidden_CD: Tensor, scale: float) -> None:
        """Add a chunk's gradient of the weight, scaled up by `scale`."""
        exact, is_first = self._like_VD.dtype, self._weight_VD is None
        if self._weight_VD is None:
            self._weight_VD = torch.empty_like(self._like_VD)
        for start in range(0, len(self._weight_VD), _VOCABULARY_PART):
            part = slice(start, start + _VOCABULARY_PART)
            gradient_PC = gradient_CV[:, part].T
            if gradient_CV.dtype == exact:
                self._weight_VD[part].addmm_(gradient_PC, hidden_CD, beta=0.0 if is_first else 1.0)
                continue
            product_PD = _product(gradient_PC, hidden_CD, exact)
            if is_first:
                torch.div(product_PD, scale, out=self._weight_VD[part])
            else:
                self._weight_VD[part].add_(product_PD, alpha=1.0 / scale)


class _Head:
    """The head of one call; `weight_VD` in the dtype of the products."""

    def __init__(
        self,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        exact: torch.dtype,
        smoothing: Smoothing,
        kl_weight: float,
        kl_lambda: float,
    ) -> None:
        self._weight_VD, self._bias_V, self._exact = weight_VD, bias_V, exact
        self._share_target, self._share_all = smoothing.shares(weight_VD.shape[0])
        self._kl_weight, self._kl_lambda = kl_weight, kl_lambda
        is_fp16 = weight_VD.dtype == torch.float16
        # A heavy KL has large gradients of its own, which lowering fp16's loss scale could not cure here.
        self._scale = _FP16_SCALE / max(1.0, kl_lambda * kl_weight) if is_fp16 else 1.0

    def chunk(
        self, halves: list[Tensor], rows: Rows, part: slice, gradients: _Gradients | None
    ) -> Tensor:
        """Return [nll, smoothing, kl, correct] of a chunk, float64; add its gradients where wanted."""
        dtype = self._weight_VD.dtype
        hidden_CD = torch.cat(halves).to(dtype)
        logits_CV = _product(hidden_CD, self._weight_VD.T, self._exact)
        is_own = logits_CV.dtype == dtype
        gradient_CV = logits_CV if is_own else torch.empty_like(logits_CV, dtype=dtype)
        count = halves[0].shape[0]
        per_row_4N = torch.zeros(4, count, dtype=self._exact, device=hidden_CD.device)
        block_rows = min(_BLOCK_ROWS[hidden_CD.device.type], count)
        scratch = torch.empty(
            (5, block_rows, logits_CV.shape[1]), dtype=self._exact, device=hidden_CD.device
        )
        for start in range(0, count, block_rows):
            block = slice(start, min(start + block_rows, count))
            self._block(
                [half[block] for half in torch.split(logits_CV, count)],
                [half[block] for half in torch.split(gradient_CV, count)] if gradients else [],
                rows.part(block),
                scratch[:, : block.stop - block.start],
                per_row_4N[:, block],
            )
        if gradients is not None:
            hidden_gradient_CD = _product(gradient_CV, self._weight_VD, self._exact)
            for half, gradient_ND in zip(
                torch.split(hidden_gradient_CD, count), gradients.halves, strict=True
            ):
                torch.div(half, self._scale, out=gradient_ND[part])
            gradients.add_weight(gradient_CV, hidden_CD, self._scale)
        return per_row_4N.sum(dim=1, dtype=torch.float64)

    def _block(
        self,
        logits: list[Tensor],
        gradients: list[Tensor],
        rows: Rows,
        scratch: Tensor,
        per_row_4R: Tensor,
    ) -> None:
        """Fill in losses and gradients of a block; `gradients` may be the same memory as `logits`."""
        lp, p, lq, q, work = scratch
        targets_R1 = rows.targets_N[:, None]
        n_R1 = rows.nll_weights_N[:, None].to(self._exact)
        log_total_R1 = self._log_softmax(logits[0], lp, p)
        log_p_target_R1 = lp.gather(1, targets_R1)
        per_row_4R[0] = -(n_R1 * log_p_target_R1).squeeze(1)
        smoothed_R1 = (1.0 - self._share_target) * log_p_target_R1
        if self._share_all:
            smoothed_R1 -= self._share_all * lp.sum(1, keepdim=True)
        per_row_4R[1] = (n_R1 * smoothed_R1).squeeze(1)
        per_row_4R[3] = (n_R1 * (log_p_target_R1 == -log_total_R1)).squeeze(1)  # max - max is 0
        onehot_R1 = n_R1 * (-self._share_target * self._scale)
        if len(logits) == 1:
            if gradients:
                p.sub_(self._share_all).mul_(n_R1 * self._scale)
                gradients[0].copy_(p.scatter_add_(1, targets_R1, onehot_R1))
            return
        self._log_softmax(logits[1], lq, q)
        difference = lp.sub_(lq)
        a_R1 = torch.mul(p, difference, out=work).sum(1, keepdim=True)
        b_R1 = -torch.mul(q, difference, out=work).sum(1, keepdim=True)
        per_row_4R[2] = self._kl_weight * (a_R1 + b_R1).squeeze(1)
        if not gradients:
            return
        k = self._kl_weight * self._kl_lambda * self._scale
        n_R1 = n_R1 * self._scale
        torch.mul(difference, k, out=work)
        torch.sub(k * (1.0 - b_R1), work, out=lq).mul_(q).sub_(p, alpha=k)
        gradients[1].copy_(lq)
        work.add_(n_R1 + k * (1.0 - a_R1)).mul_(p).sub_(q, alpha=k)
        if self._share_all:
            work.sub_(n_R1 * self._share_all)
        gradients[0].copy_(work.scatter_add_(1, targets_R1, onehot_R1))

    def _log_softmax(self, logits: Tensor, log_p: Tensor, p: Tensor) -> Tensor:
        """Fill in log-probabilities and probabilities, one exponential an entry; return -log p of the top."""
        log_p.copy_(logits)
        if self._bias_V is not None:
            log_p.add_(self._bias_V)
        log_p.sub_(log_p.amax(1, keepdim=True))
        torch.exp(log_p, out=p)
        total_R1 = p.sum(1, keepdim=True)
        p.div_(total_R1)
        log_p.sub_(total_R1.log_())
        return total_R1


def _product(left: Tensor, right: Tensor, exact: torch.dtype) -> Tensor:
    """Multiply; 16-bit operands give float32 straight from the product where the device can (CUDA)."""
    if left.is_cuda and left.dtype != exact:
        return torch.mm(left, right, out_dtype=exact)
    return left @ right
