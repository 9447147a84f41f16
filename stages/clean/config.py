"""Settings of clean."""

from __future__ import annotations

from pipeline.config import Config
from stages.normalize import UnicodeForm


class CleanConfig(Config):
    """How text is normalised."""

    unicode_form: UnicodeForm = "NFC"
    """Unicode normalisation form."""
