"""BART's decoder, one token of every beam at a time, over caches that are never reordered.

The beams of a source share one copy of its encoder's keys and values: they are the query axis. A beam's own
past lies where it was written, at place (position, beam), and a mask says which places are its ancestors:
when beams change, only the mask does.

Shapes: B slots (sources decoded together), K beams, H heads, D size of a head, M = H * D the model's width,
S source tokens, T positions, P = T * K places of the self-attention cache, L layers, V padded vocabulary.

Source: transformers 5.23, models/bart/modeling_bart.py, with which it agrees but for the order of sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BartForConditionalGeneration
from transformers.activations import ACT2FN
from transformers.models.bart.modeling_bart import BartDecoderLayer

from stages.generate.candidates import padded_width
from stages.generate.products import Product, joined


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of a decoder layer; queries, keys and values of self-attention are one product."""

    self_in: Product
    self_out: Product
    self_norm: nn.LayerNorm
    cross_in: Product
    cross_out: Product
    cross_norm: nn.LayerNorm
    up: Product
    down: Product
    norm: nn.LayerNorm


class Caches(NamedTuple):
    """What decoding remembers of each slot; the tensors stay where they are."""

    self_2LBHPD: Tensor
    """Keys and values of the beams' own past."""
    is_ancestor_BKP: Tensor
    """Which places of its slot each beam has come by."""
    cross_2LBHSD: Tensor
    """Keys and values of the source."""
    source_mask_BS: Tensor
    """0 where there is a source token, -inf beyond."""

    def of(self, slots_N: Tensor) -> Caches:
        """Copy some slots."""
        return Caches(
            self.self_2LBHPD[:, :, slots_N],
            self.is_ancestor_BKP[slots_N],
            self.cross_2LBHSD[:, :, slots_N],
            self.source_mask_BS[slots_N],
        )


class BartDecoder:
    """The decoder half of a BART model, and its head."""

    def __init__(self, bart: BartForConditionalGeneration) -> None:
        decoder, config = bart.model.decoder, bart.config
        self.heads: int = config.decoder_attention_heads
        self.width: int = config.d_model
        self.dtype, self.device = bart.dtype, bart.device
        self._scale = math.sqrt(self.width) if config.scale_embedding else 1.0
        self._positions = decoder.embed_positions
        self._embedding_norm = decoder.layernorm_embedding
        self._activation = ACT2FN[config.activation_function]
        self._layers = [_layer(layer) for layer in decoder.layers]
        attentions = [layer.encoder_attn for layer in decoder.layers]
        self._cross = joined([p for a in attentions for p in (a.k_proj, a.v_proj)])
        weight_VM, bias_V = _padded_head(bart)
        self._head = Product(weight_VM, bias_V)
        own_VM = decoder.embed_tokens.weight.detach()
        is_tied = own_VM.data_ptr() == bart.lm_head.weight.data_ptr()
        self.embedding_VM = weight_VM if is_tied else own_VM

    def new_caches(self, slots: int, beams: int, positions: int, source_tokens: int) -> Caches:
        """Return empty caches for as many slots, target positions and source tokens."""
        L, H, D = len(self._layers), self.heads, self.width // self.heads
        P = positions * beams
        like = {"dtype": self.dtype, "device": self.device}
        return Caches(
            torch.zeros(2, L, slots, H, P, D, **like),
            torch.zeros(slots, beams, P, dtype=torch.bool, device=self.device),
            torch.zeros(2, L, slots, H, source_tokens, D, **like),
            torch.zeros(slots, source_tokens, **like),  # a slot without a source attends to zeros
        )

    def remember(
        self, caches: Caches, slots_N: Tensor, encoded_NSM: Tensor, lengths_N: Tensor
    ) -> None:
        """Give slots new sources: the encoder's output, of which the first `lengths_N` tokens count."""
        N, S, _ = encoded_NSM.shape
        L, H, D = len(self._layers), self.heads, self.width // self.heads
        both_NSL2HD = self._cross(encoded_NSM).view(N, S, L, 2, H, D)
        caches.cross_2LBHSD[:, :, slots_N, :, :S] = both_NSL2HD.permute(3, 2, 0, 4, 1, 5)
        at_S = torch.arange(caches.source_mask_BS.shape[1], device=self.device)
        mask_NS = torch.zeros_like(caches.source_mask_BS[slots_N])
        caches.source_mask_BS[slots_N] = mask_NS.masked_fill_(
            at_S >= lengths_N[:, None], -torch.inf
        )
        caches.is_ancestor_BKP[slots_N] = False

    def forget(self, caches: Caches, slots_N: Tensor) -> None:
        """Empty slots, so that what is not finite in them reaches nobody: a mask leaves 0 * nan = nan."""
        for cache in (caches.self_2LBHPD, caches.cross_2LBHSD):
            cache[:, :, slots_N] = 0.0
        caches.source_mask_BS[slots_N] = 0.0

    def logits(
        self,
        caches: Caches,
        tokens_BK: Tensor,
        length_B: Tensor,
        positions: int,
        source_tokens: int,
    ) -> Tensor:
        """Return the logits [B, K, V] of what follows `tokens_BK`; padding columns are -inf.

        Args:
            tokens_BK: The last token of each beam.
            length_B: Tokens of each slot's beams, this one included.
            positions: No slot's length is larger.
            source_tokens: No slot's source is longer.
        """
        B, K = tokens_BK.shape
        H, D, places = self.heads, self.width // self.heads, positions * K
        rows_B1 = torch.arange(B, device=self.device)[:, None]
        place_BK = (length_B - 1)[:, None] * K + torch.arange(K, device=self.device)
        caches.is_ancestor_BKP.scatter_(2, place_BK.unsqueeze(2), True)
        is_past_BKP = caches.is_ancestor_BKP[:, :, :places]
        own_mask_B1KP = torch.zeros_like(is_past_BKP, dtype=self.dtype)
        own_mask_B1KP = own_mask_B1KP.masked_fill_(~is_past_BKP, -torch.inf).unsqueeze(1)
        source_mask_B1KS = caches.source_mask_BS[:, None, None, :source_tokens].expand(
            -1, -1, K, -1
        )

        x_BKM = F.embedding(tokens_BK, self.embedding_VM) * self._scale
        x_BKM = x_BKM + F.embedding(length_B - 1 + 2, self._positions.weight)[:, None]
        x_BKM = self._embedding_norm(x_BKM)
        for number, layer in enumerate(self._layers):
            keys_BHPD, values_BHPD = caches.self_2LBHPD[:, number]
            qkv_BK3HD = layer.self_in(x_BKM).view(B, K, 3, H, D)
            keys_BHPD[rows_B1, :, place_BK] = qkv_BK3HD[:, :, 1]
            values_BHPD[rows_B1, :, place_BK] = qkv_BK3HD[:, :, 2]
            past_BHKD = F.scaled_dot_product_attention(
                qkv_BK3HD[:, :, 0].transpose(1, 2),
                keys_BHPD[:, :, :places],
                values_BHPD[:, :, :places],
                own_mask_B1KP,
            )
            x_BKM = layer.self_norm(x_BKM + layer.self_out(past_BHKD.transpose(1, 2).flatten(2)))
            source_BHKD = F.scaled_dot_product_attention(
                layer.cross_in(x_BKM).view(B, K, H, D).transpose(1, 2),
                caches.cross_2LBHSD[0, number, :, :, :source_tokens],
                caches.cross_2LBHSD[1, number, :, :, :source_tokens],
                source_mask_B1KS,
            )
            x_BKM = layer.cross_norm(
                x_BKM + layer.cross_out(source_BHKD.transpose(1, 2).flatten(2))
            )
            x_BKM = layer.norm(x_BKM + layer.down(self._activation(layer.up(x_BKM))))
        logits_BKV: Tensor = self._head(x_BKM)
        return logits_BKV


def _layer(layer: BartDecoderLayer) -> Layer:
    own, cross = layer.self_attn, layer.encoder_attn
    return Layer(
        self_in=joined([own.q_proj, own.k_proj, own.v_proj]),
        self_out=joined([own.out_proj]),
        self_norm=layer.self_attn_layer_norm,
        cross_in=joined([cross.q_proj]),
        cross_out=joined([cross.out_proj]),
        cross_norm=layer.encoder_attn_layer_norm,
        up=joined([layer.fc1]),
        down=joined([layer.fc2]),
        norm=layer.final_layer_norm,
    )


def _padded_head(bart: BartForConditionalGeneration) -> tuple[Tensor, Tensor]:
    """Return the head's weight and bias with padding columns, whose logits are -inf."""
    weight_VM, bias_V = bart.lm_head.weight.detach(), bart.final_logits_bias[0]
    vocabulary = weight_VM.shape[0]
    extra = padded_width(vocabulary) - vocabulary
    return F.pad(weight_VM, (0, 0, 0, extra)), F.pad(bias_V, (0, extra), value=-torch.inf)
