"""Settings of scoring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from pipeline.config import Config


class LeadConfig(Config):
    """The baseline that copies the beginning of the document."""

    unit: Literal["sentences", "words"] = "sentences"
    """What is counted."""
    count: Annotated[StrictInt, Field(ge=1)] = 3
    """How many of them are copied."""


class ScoreConfig(Config):
    """How predictions are compared with references."""

    stemmer: StrictBool = True
    """Porter-stem words of more than three letters, as published figures do."""
    sentences: Literal["newline", "simple", "punkt"] = "newline"
    """How text is split for ROUGE-Lsum: at newlines, after `.!?` before a capital, or by nltk's
    punkt_tab. The lead baseline splits documents without newlines by `simple` if this is `newline`."""
    lead: LeadConfig = LeadConfig()
