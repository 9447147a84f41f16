"""Settings of the report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from pipeline.config import Config


class ReportConfig(Config):
    """What the report shows."""

    examples: Annotated[StrictInt, Field(ge=0)] = 5
    """Predictions shown beside their references."""
