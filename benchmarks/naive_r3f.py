"""R3F as it is written by hand: two forward passes, whole logits, F.kl_div. The peer of our fused form.

Follows the released criterion (fairseq examples/rxf/rxf_src/label_smoothed_cross_entropy_r3f.py, 3d262bb):
five float32 softmaxes of [tokens, vocabulary], both kl_div calls with reduction sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def naive_loss(
    clean: Tensor, noised: Tensor, targets: Tensor, valid: Tensor, epsilon: float, kl_lambda: float
) -> Tensor:
    """Return label-smoothed cross-entropy over valid targets plus lambda times the KL over all, summed.

    Args:
        clean: Logits of the clean pass [..., V].
        noised: Those of the noised pass.
        targets: Token ids [...].
        valid: bool [...]; where False a target counts for nothing, but its KL does, as released.
        epsilon: Label smoothing, eps / V to each token.
        kl_lambda: Weight of the KL.
    """
    log_p = F.log_softmax(clean, dim=-1, dtype=torch.float32)
    nll = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)[valid].sum()
    spread = -log_p.sum(-1)[valid].sum() / clean.shape[-1]
    p_to_q = F.kl_div(
        F.log_softmax(noised, dim=-1, dtype=torch.float32),
        F.softmax(clean, dim=-1, dtype=torch.float32),
        reduction="sum",
    )
    q_to_p = F.kl_div(
        F.log_softmax(clean, dim=-1, dtype=torch.float32),
        F.softmax(noised, dim=-1, dtype=torch.float32),
        reduction="sum",
    )
    return (1 - epsilon) * nll + epsilon * spread + kl_lambda * (p_to_q + q_to_p)


class NaiveR3F(nn.Module):
    """BART with R3F by two forward passes."""

    def __init__(self, bart: nn.Module, epsilon: float, sigma: float, kl_lambda: float) -> None:
        super().__init__()
        self.bart = bart
        self._epsilon, self._sigma, self._lambda = epsilon, sigma, kl_lambda

    def forward(
        self,
        source_ids: Tensor,
        source_mask: Tensor,
        decoder_ids: Tensor,
        targets: Tensor,
        valid: Tensor,
    ) -> Tensor:
        """Return the loss, summed over valid targets."""
        embedded = self.bart.model.encoder.embed_tokens(source_ids)
        noised = embedded + torch.randn_like(embedded) * self._sigma
        halves = [
            self.bart(
                inputs_embeds=inputs,
                attention_mask=source_mask,
                decoder_input_ids=decoder_ids,
                use_cache=False,
            ).logits
            for inputs in (embedded, noised)
        ]
        return naive_loss(*halves, targets, valid, self._epsilon, self._lambda)
