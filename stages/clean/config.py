"""Settings of clean."""

from __future__ import annotations

from typing import Literal

from pipeline.config import Config


class CleanConfig(Config):
    """How text is normalised."""

    unicode_form: Literal["NFC", "NFKC"] = "NFC"
    """Unicode normalisation form."""
