"""Settings of encode."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from pipeline.config import Config


class EncodeConfig(Config):
    """How text becomes token ids."""

    max_source_tokens: Annotated[StrictInt, Field(ge=4)] = 1024
    """Longest source in tokens, <s> and </s> included; at most the model's positions."""
    max_target_tokens: Annotated[StrictInt, Field(ge=4)] = 142
    """Longest target in tokens, <s> and </s> included; at most the model's positions."""
    truncation: Literal["head", "fail"] = "head"
    """What to do with longer text: keep its head (counted, and recorded for each row), or fail."""
