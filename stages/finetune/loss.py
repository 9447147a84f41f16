"""Label-smoothed cross-entropy and the R3F term, as sums; the plain form that others are checked against.

Shapes: B batch, T target positions, V vocabulary.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

Reduction = Literal["token", "fairseq"]


class Smoothing(NamedTuple):
    """Label smoothing: which mass is taken from the target, and how it is spread."""

    epsilon: float
    """Mass taken from the target, 0 to below 1."""
    form: Literal["torch", "fairseq"]

    def shares(self, vocabulary: int) -> tuple[float, float]:
        """Return s and e of loss = s (-log p_y) + e sum_v(-log p_v); s + V e = 1."""
        if self.form == "torch":
            return 1.0 - self.epsilon, self.epsilon / vocabulary
        each = self.epsilon / (vocabulary - 1)
        return 1.0 - self.epsilon - each, each


class LossSums(NamedTuple):
    """Sums over a micro-batch, nats unless said otherwise; divide by the update's target tokens."""

    total: Tensor
    """nll + smoothing + lambda * kl; carries the gradient."""
    nll: Tensor
    smoothing: Tensor
    kl: Tensor
    correct: Tensor
    """Target tokens that the clean pass gives the highest probability; a count, not nats."""


class SmoothedNll(NamedTuple):
    """Both parts of label-smoothed cross-entropy; nats, summed over valid target tokens."""

    nll: Tensor
    """-log p(target)."""
    smoothing: Tensor
    """What smoothing adds to the loss: loss = nll + smoothing."""


def smoothed_nll(
    logits_BTV: Tensor,
    targets_BT: Tensor,
    valid_BT: Tensor,
    epsilon: float,
    smoothing: Literal["torch", "fairseq"],
) -> SmoothedNll:
    """Label-smoothed cross-entropy, split into its two parts.

    torch:    (1 - eps) * -log p_y + eps / V * sum_v -log p_v
    fairseq:  (1 - eps - e) * -log p_y + e * sum_v -log p_v     with e = eps / (V - 1)

    Args:
        logits_BTV: Any float dtype; computed in at least float32.
        targets_BT: Token ids, int64; any id where not valid.
        valid_BT: bool, False where the target is padding.
        epsilon: Mass taken from the target, 0 to below 1.
        smoothing: Which of the two definitions.

    Returns:
        Scalars in nats, summed over valid target tokens.

    Source:
        torch.nn.functional.cross_entropy(label_smoothing=eps); fairseq
        criterions/label_smoothed_cross_entropy.py (3d262bb). No deviation.
    """
    log_p_BTV = _log_softmax(logits_BTV)
    nll_BT = -log_p_BTV.gather(-1, targets_BT.unsqueeze(-1)).squeeze(-1)
    all_BT = -log_p_BTV.sum(-1)
    share_target, share_all = Smoothing(epsilon, smoothing).shares(log_p_BTV.shape[-1])
    added_BT = share_all * all_BT - (1.0 - share_target) * nll_BT
    return SmoothedNll(
        nll_BT.masked_fill(~valid_BT, 0.0).sum(), added_BT.masked_fill(~valid_BT, 0.0).sum()
    )


def symmetric_kl(p_logits_BTV: Tensor, q_logits_BTV: Tensor) -> Tensor:
    """Symmetric KL divergence at each position: KL(p||q) + KL(q||p) = sum_v (p - q)(log p - log q).

    Args:
        p_logits_BTV: Logits of the clean pass; computed in at least float32.
        q_logits_BTV: Logits of the noised pass.

    Returns:
        [B, T], nats, never negative up to rounding; gradients flow into both arguments.

    Raises:
        ValueError: If the shapes disagree.

    Source:
        arXiv 2008.03156, section 3 (KL_S); equals the two kl_div calls of fairseq
        examples/rxf/rxf_src/label_smoothed_cross_entropy_r3f.py (3d262bb) before their sum.
    """
    if p_logits_BTV.shape != q_logits_BTV.shape:
        raise ValueError(f"logits of {p_logits_BTV.shape} against {q_logits_BTV.shape}")
    log_p, log_q = _log_softmax(p_logits_BTV), _log_softmax(q_logits_BTV)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def reduce_kl(kl_BT: Tensor, valid_BT: Tensor, reduction: Reduction) -> Tensor:
    """Sum the KL of a micro-batch so that dividing by the update's target tokens gives its term.

    token:    sum over valid positions
    fairseq:  (sum over all positions, pads included) / sentences * valid tokens

    Args:
        kl_BT: KL at each position, nats.
        valid_BT: bool, False where the target is padding.
        reduction: Which of the two.

    Returns:
        Scalar in nats. In `fairseq` mode it depends on padding and on how rows are grouped, and its quotient
        by target tokens is the mean over micro-batches of the KL of a sentence, not of a token.

    Source:
        `fairseq` is the released criterion (3d262bb): its `/ size(0)` and `* sample_size`. `token` is ours:
        the released normaliser makes lambda depend on target length. Deviation of `fairseq`: what stands at
        padded positions differs, fairseq's decoder masks padding and gives it a position of its own.
    """
    if reduction == "token":
        return kl_BT.masked_fill(~valid_BT, 0.0).sum()
    sentences = kl_BT.shape[0]
    return kl_BT.sum() / sentences * valid_BT.sum()


def plain_loss(
    clean_BTV: Tensor,
    noised_BTV: Tensor | None,
    targets_BT: Tensor,
    valid_BT: Tensor,
    *,
    smoothing: Smoothing,
    reduction: Reduction,
    kl_lambda: float,
) -> LossSums:
    """Return the loss sums from whole logits: what `fused_loss` computes without ever having them.

    Args:
        clean_BTV: Logits of the clean pass.
        noised_BTV: Those of the noised pass, or None without one; the KL is 0 then.
        targets_BT: Token ids.
        valid_BT: bool, False on padding.
        smoothing: Label smoothing.
        reduction: How the KL is summed.
        kl_lambda: Weight of the KL in the total.
    """
    nll, added = smoothed_nll(clean_BTV, targets_BT, valid_BT, smoothing.epsilon, smoothing.form)
    correct = ((clean_BTV.argmax(-1) == targets_BT) & valid_BT).sum().to(nll.dtype)
    if noised_BTV is None:
        return LossSums(nll + added, nll, added, nll.new_zeros(()), correct)
    kl = reduce_kl(symmetric_kl(clean_BTV, noised_BTV), valid_BT, reduction)
    return LossSums(nll + added + kl_lambda * kl, nll, added, kl, correct)


def _log_softmax(logits: Tensor) -> Tensor:
    exact = logits if logits.dtype.itemsize >= 4 else logits.float()
    return exact.log_softmax(-1)
