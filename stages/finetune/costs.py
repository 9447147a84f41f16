"""What a padded micro-batch costs a BART model: its forward FLOPs, counted by hand from the sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Costs:
    """Sizes of a BART model, under their names in its config.json.

    A backward pass takes twice its forward pass and R3F's second pass once more of both, whatever the
    shape: shares and comparisons need the forward pass only.
    """

    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    vocab_size: int

    @classmethod
    def of_model(cls, config: Mapping[str, object]) -> Costs:
        """Pick the sizes from a model's configuration, such as a parsed config.json."""
        return cls(**{field.name: int(str(config[field.name])) for field in fields(cls)})

    def of(self, rows: Int64s, sources: Int64s, targets: Int64s) -> Int64s:
        """Return the forward FLOPs of `rows` rows padded to `sources` and `targets` tokens; int [...].

        Two FLOPs for each multiply-add of the matrix products, with widths d, f and V:
        - a source token in an encoder layer: 4 d^2 (queries, keys, values, output), 2 d f (feed-forward),
          2 d S (scores and their weighted sum over S keys);
        - a target token in a decoder layer: the same over T keys (the causal half is not taken off),
          and 2 d^2 (queries, output), 2 d S for cross-attention;
        - a source token in a decoder layer: 2 d^2 for its cross-attention key and value;
        - a target token in the output head: d V.
        Lookups, norms and elementwise work are left out.
        """
        d = self.d_model
        encoder = self.encoder_layers * (4 * d * d + 2 * d * self.encoder_ffn_dim + 2 * d * sources)
        decoder = self.decoder_layers * (
            6 * d * d + 2 * d * self.decoder_ffn_dim + 2 * d * (targets + sources)
        )
        cross = self.decoder_layers * 2 * d * d
        head = d * self.vocab_size
        return 2 * rows * (sources * (encoder + cross) + targets * (decoder + head))
