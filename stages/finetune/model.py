"""The module that DeepSpeed trains: both passes of R3F in one forward, ending in loss sums.

Shapes: B batch, S source positions, T target positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import BartForConditionalGeneration

from stages.finetune.config import LossConfig, R3FConfig
from stages.finetune.loss import reduce_kl, smoothed_nll, symmetric_kl


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded micro-batch on its device."""

    source_ids_BS: Tensor
    source_mask_BS: Tensor
    decoder_ids_BT: Tensor
    """Targets shifted right behind the start token."""
    target_ids_BT: Tensor
    target_mask_BT: Tensor
    """bool, False on padding."""


class LossSums(NamedTuple):
    """Sums over a micro-batch, in nats; divide by the update's target tokens."""

    total: Tensor
    """nll + smoothing + lambda * kl; carries the gradient."""
    nll: Tensor
    smoothing: Tensor
    kl: Tensor


class R3FModel(nn.Module):
    """BART with label-smoothed cross-entropy and the R3F term.

    The clean and the noised half are concatenated into one pass: independent dropout masks, gradients into
    both sides, one trace for ZeRO-3, one call of the engine.

    Source:
        arXiv 2008.03156, equations 3 and 4; fairseq examples/rxf (3d262bb). The noise enters at the encoder's
        token embeddings before positions and LayerNorm, as there. Deviation: it is drawn and added in
        float32 (there it is cast to the model's precision first).
    """

    def __init__(
        self, bart: BartForConditionalGeneration, loss: LossConfig, r3f: R3FConfig
    ) -> None:
        super().__init__()
        self.bart = bart
        self._loss = loss
        self._r3f = r3f

    def forward(self, batch: Batch) -> LossSums:
        """Return the loss sums of a micro-batch; in evaluation mode without noise and KL."""
        is_noised = self.training and self._r3f.is_on
        logits = self.logits(batch, is_noised=is_noised)
        clean_BTV, noised_BTV = logits.chunk(2) if is_noised else (logits, None)
        nll, smoothing = smoothed_nll(
            clean_BTV,
            batch.target_ids_BT,
            batch.target_mask_BT,
            self._loss.label_smoothing,
            self._loss.smoothing,
        )
        kl = torch.zeros_like(nll)
        if noised_BTV is not None:
            kl_BT = symmetric_kl(clean_BTV, noised_BTV)
            kl = reduce_kl(kl_BT, batch.target_mask_BT, self._r3f.reduction)
        return LossSums(nll + smoothing + self._r3f.lambda_ * kl, nll, smoothing, kl)

    def logits(self, batch: Batch, *, is_noised: bool) -> Tensor:
        """Return logits [B, T, V], or [2B, T, V] with the noised half after the clean one."""
        embeddings_BSD = self.bart.model.encoder.embed_tokens(batch.source_ids_BS).float()
        source_mask, decoder_ids = batch.source_mask_BS, batch.decoder_ids_BT
        if is_noised:
            noised_BSD = embeddings_BSD + self._noise(embeddings_BSD)
            embeddings_BSD = torch.cat([embeddings_BSD, noised_BSD])
            source_mask, decoder_ids = source_mask.repeat(2, 1), decoder_ids.repeat(2, 1)
        output = self.bart(
            inputs_embeds=embeddings_BSD,
            attention_mask=source_mask,
            decoder_input_ids=decoder_ids,
            use_cache=False,
        )
        logits: Tensor = output.logits
        return logits

    def _noise(self, like_BSD: Tensor) -> Tensor:
        """Draw float32 noise from the generator that the caller seeded for this micro-batch."""
        drawn = torch.empty_like(like_BSD)
        if self._r3f.noise == "none":
            return drawn.zero_()
        if self._r3f.noise == "uniform":
            return drawn.uniform_(-self._r3f.sigma, self._r3f.sigma)
        return drawn.normal_(0.0, self._r3f.sigma)
