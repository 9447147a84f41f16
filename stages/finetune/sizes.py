"""The sizes of a BART model, and what follows from them alone: its parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.errors import DataError

POSITION_OFFSET = 2
"""Rows that BART's position tables have beyond `max_position_embeddings`."""


@dataclass(frozen=True, slots=True)
class BartSizes:
    """Sizes of a BART model, under their names in its config.json."""

    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    vocab_size: int
    max_position_embeddings: int

    @property
    def embedding_parameters(self) -> int:
        """Elements of the token embedding, which encoder, decoder and output head share."""
        return self.vocab_size * self.d_model

    @property
    def product_parameters(self) -> int:
        """Elements of the weights that matrix products take, the output head's left out."""
        d = self.d_model
        encoder = self.encoder_layers * (4 * d * d + 2 * d * self.encoder_ffn_dim)
        decoder = self.decoder_layers * (8 * d * d + 2 * d * self.decoder_ffn_dim)
        return encoder + decoder

    @property
    def parameters(self) -> int:
        """Trained elements, each tied one once; exact for BartForConditionalGeneration with tied words.

        Beside the matrices: a bias for each of an attention's four products (d) and of the feed-forward's
        two (f, d), LayerNorms of 2 d (two in an encoder layer, three in a decoder layer, one behind each
        embedding), and a table of positions on each side. The logits' bias is a buffer.
        """
        d = self.d_model
        encoder = self.encoder_layers * (4 * d + self.encoder_ffn_dim + d + 2 * 2 * d)
        decoder = self.decoder_layers * (8 * d + self.decoder_ffn_dim + d + 3 * 2 * d)
        sides = 2 * ((self.max_position_embeddings + POSITION_OFFSET) * d + 2 * d)
        return self.embedding_parameters + self.product_parameters + encoder + decoder + sides


_BASE = BartSizes(768, 6, 6, 12, 12, 3072, 3072, 50265, 1024)
_LARGE = BartSizes(1024, 12, 12, 16, 16, 4096, 4096, 50265, 1024)
KNOWN = {"facebook/bart-base": _BASE, "facebook/bart-large": _LARGE}
"""Models of the Hub whose sizes are told before `fetch` has brought their config.json."""


def sizes_of_config(config: Mapping[str, object], source: str) -> BartSizes:
    """Pick the sizes from a parsed config.json.

    Raises:
        DataError: If it is not BART's, a size is missing or not a positive whole number.
    """
    kind = config.get("model_type")
    if kind != "bart":
        raise DataError(f"{source}: model_type is {kind!r}; only 'bart' is supported")
    if config.get("tie_word_embeddings", True) is False:
        raise DataError(f"{source}: tie_word_embeddings is false; only tied ones are supported")
    found = {}
    for field in fields(BartSizes):
        value = config.get(field.name)
        if not isinstance(value, int) or value < 1:
            raise DataError(
                f"{source}: {field.name} is {value!r}; expected a whole number, 1 or more"
            )
        found[field.name] = value
    return BartSizes(**found)


def read_sizes(path: Path) -> BartSizes:
    """Read the sizes from a config.json.

    Raises:
        DataError: If it cannot be read or does not describe a BART model.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a model's configuration ({error})") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return sizes_of_config(config, str(path))
