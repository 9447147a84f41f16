"""The module that DeepSpeed trains: both passes of R3F in one forward, ending in loss sums.

Shapes: B batch, M = B or 2B, S source positions, T target positions, N target rows, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from transformers import BartForConditionalGeneration

from stages.finetune.config import LossConfig, R3FConfig
from stages.finetune.fused_head import Rows, fused_loss
from stages.finetune.loss import LossSums, Smoothing
from stages.finetune.noise_survival import NoiseProbe


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded micro-batch."""

    source_ids_BS: Tensor
    source_mask_BS: Tensor
    """int64, 0 on padding."""
    decoder_ids_BT: Tensor
    """Targets shifted right behind the start token."""
    target_ids_BT: Tensor
    target_mask_BT: Tensor
    """bool, False on padding."""
    valid_N: Tensor
    """Where `target_mask_BT` holds, in the flattened [B * T], int64."""

    @classmethod
    def of(
        cls,
        source_ids_BS: Tensor,
        source_mask_BS: Tensor,
        decoder_ids_BT: Tensor,
        target_ids_BT: Tensor,
        target_mask_BT: Tensor,
    ) -> Batch:
        """Return a batch of tensors on the host, where looking for the valid targets costs no wait."""
        valid_N = target_mask_BT.flatten().nonzero().squeeze(1)
        return cls(
            source_ids_BS, source_mask_BS, decoder_ids_BT, target_ids_BT, target_mask_BT, valid_N
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device; a GPU gets it without the host waiting."""
        is_gpu = device.type == "cuda"
        return Batch(
            **{
                name: (tensor.pin_memory() if is_gpu else tensor).to(device, non_blocking=is_gpu)
                for name, tensor in self.tensors().items()
            }
        )

    def without_targets(self) -> Batch:
        """Return the batch with every target masked: the same work, no loss and no gradient."""
        return replace(
            self, target_mask_BT=torch.zeros_like(self.target_mask_BT), valid_N=self.valid_N[:0]
        )


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
        self._has_bias: bool | None = None

    def forward(
        self, batch: Batch, probe: NoiseProbe | None = None, same_dropout_seed: int | None = None
    ) -> LossSums:
        """Return the loss sums of a micro-batch; in evaluation mode without noise and KL.

        Args:
            batch: The micro-batch.
            probe: Listens where the noise may be rounded away; only to a noised pass.
            same_dropout_seed: If given, both halves get the dropout masks of this seed, in two passes:
                their KL is what the noise alone does. To look at, not to train with.
        """
        is_noised = self.training and self._r3f.is_on
        if same_dropout_seed is not None:
            hidden_MTD = self._hidden_of_equal_dropout(batch, same_dropout_seed)
        else:
            hidden_MTD = self.hidden(batch, is_noised=is_noised, probe=probe)
        return self._loss_sums(batch, at_least_float32(hidden_MTD), is_noised=is_noised)

    def _loss_sums(self, batch: Batch, hidden_MTD: Tensor, *, is_noised: bool) -> LossSums:
        clean_ND, noised_ND, rows = self._rows(batch, hidden_MTD, is_noised=is_noised)
        return fused_loss(
            clean_ND,
            noised_ND,
            self.bart.lm_head.weight,
            self._bias(),
            rows,
            smoothing=Smoothing(self._loss.label_smoothing, self._loss.smoothing),
            kl_lambda=self._r3f.lambda_,
            dtype=product_dtype(hidden_MTD),
        )

    def _rows(
        self, batch: Batch, hidden_MTD: Tensor, *, is_noised: bool
    ) -> tuple[Tensor, Tensor | None, Rows]:
        """Choose the positions that count; in `fairseq` reduction padding counts too, for the KL."""
        hidden = hidden_MTD.flatten(0, 1)
        valid_count, positions = batch.valid_N.numel(), batch.target_mask_BT.numel()
        needs_padding = is_noised and self._r3f.reduction == "fairseq" and valid_count > 0
        if needs_padding:
            nll_weights_N = batch.target_mask_BT.flatten().to(hidden.dtype)
            kl_weight = valid_count / batch.target_ids_BT.shape[0]
            rows = Rows(batch.target_ids_BT.flatten(), nll_weights_N, kl_weight)
            return hidden[:positions], hidden[positions:], rows
        clean_ND = hidden.index_select(0, batch.valid_N)
        noised_ND = hidden.index_select(0, batch.valid_N + positions) if is_noised else None
        ones_N = clean_ND.new_ones(valid_count)
        return clean_ND, noised_ND, Rows(batch.target_ids_BT.take(batch.valid_N), ones_N)

    def _bias(self) -> Tensor | None:
        """Return the logits' bias, a buffer that training never changes; None where it is zero."""
        if self._has_bias is None:
            self._has_bias = bool(self.bart.final_logits_bias.any())
        return self.bart.final_logits_bias if self._has_bias else None

    def hidden(self, batch: Batch, *, is_noised: bool, probe: NoiseProbe | None = None) -> Tensor:
        """Return decoder outputs [B, T, D], or [2B, T, D] with the noised half after the clean one."""
        embeddings_BSD = self._embeddings(batch)
        if not is_noised:
            return self._decode(embeddings_BSD, batch)
        noised_BSD = embeddings_BSD + self._noise(embeddings_BSD)
        return self._decode(torch.cat([embeddings_BSD, noised_BSD]), batch, probe)

    def _hidden_of_equal_dropout(self, batch: Batch, seed: int) -> Tensor:
        embeddings_BSD = self._embeddings(batch)
        halves = []
        for embedded_BSD in (embeddings_BSD, embeddings_BSD + self._noise(embeddings_BSD)):
            torch.manual_seed(seed)
            halves.append(self._decode(embedded_BSD, batch))
        return torch.cat(halves)

    def _embeddings(self, batch: Batch) -> Tensor:
        return at_least_float32(self.bart.model.encoder.embed_tokens(batch.source_ids_BS))

    def _decode(
        self, embeddings_MSD: Tensor, batch: Batch, probe: NoiseProbe | None = None
    ) -> Tensor:
        """Run BART on embedded sources, which may be the batch's rows twice."""
        copies = len(embeddings_MSD) // len(batch.source_ids_BS)
        mask_MS = batch.source_mask_BS.repeat(copies, 1)
        listening = (
            probe.listening(self.bart.model.encoder, mask_MS, product_dtype(embeddings_MSD))
            if probe is not None
            else contextlib.nullcontext()
        )
        with listening:
            output = self.bart.model(
                inputs_embeds=embeddings_MSD,
                attention_mask=mask_MS,
                decoder_input_ids=batch.decoder_ids_BT.repeat(copies, 1),
                use_cache=False,
            )
        hidden_MTD: Tensor = output.last_hidden_state
        return hidden_MTD

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits [B, T, V] of the clean pass, all of them."""
        hidden_BTD = self.hidden(batch, is_noised=False)
        logits_BTV: Tensor = self.bart.lm_head(hidden_BTD) + self.bart.final_logits_bias
        return logits_BTV

    def _noise(self, like_BSD: Tensor) -> Tensor:
        """Draw float32 noise from the generator that the caller seeded for this micro-batch."""
        drawn = torch.empty_like(like_BSD)
        if self._r3f.noise == "none":
            return drawn.zero_()
        if self._r3f.noise == "uniform":
            return drawn.uniform_(-self._r3f.sigma, self._r3f.sigma)
        return drawn.normal_(0.0, self._r3f.sigma)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 unless it is as exact already."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()


def product_dtype(like: Tensor) -> torch.dtype:
    """Return what matrix products are taken in here: autocast's dtype, else the tensor's own."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
