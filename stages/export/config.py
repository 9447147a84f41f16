"""Settings of export."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.config import Config, Number
from stages.decoding import DecodingRules


class ExportConfig(Config):
    """How the exported model is checked."""

    logit_tolerance: Annotated[Number, Field(gt=0)] = 1e-3
    """Largest difference from the trainer's logits, both in fp32, that is accepted."""


class ExportSettings(ExportConfig):
    """The same with what the exported model says of its use: the rules that `generate` states."""

    decoding: DecodingRules
