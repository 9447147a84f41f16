"""Settings of encode."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from stages.tokens import TruncationRules


class EncodeConfig(TruncationRules):
    """How text becomes token ids.

    A source is `<s> x </s>`, a target `<s> y </s>`, and the decoder reads `</s> <s> y`: Hugging Face's
    convention, which a forced <s> at decoding agrees with. Deviation from fairseq (examples/bart): its
    training rows have no <s>, neither sources nor targets, and its decoder reads `</s> y`; only its decoding
    begins with <s>. One more token of a source fits there into as many positions.
    """

    max_source_tokens: Annotated[StrictInt, Field(ge=4)] = 1024
    """Longest source in tokens, <s> and </s> included; at most the model's positions."""
    max_target_tokens: Annotated[StrictInt, Field(ge=4)] = 142
    """Longest target in tokens, <s> and </s> included; at most the model's positions."""
