"""Settings of the report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from pipeline.config import EXECUTION_ONLY, Config, Number

Figure = Annotated[Number, Field(ge=0, le=100)]


class ExpectedConfig(Config):
    """A published result: mean ROUGE F x 100; None where it was not published."""

    rouge1: Figure | None = None
    """ROUGE-1, 0 to 100."""
    rouge2: Figure | None = None
    """ROUGE-2, 0 to 100."""
    rougeL: Figure | None = None
    """Sentence-level ROUGE-L, 0 to 100."""
    rougeLsum: Figure | None = None
    """Summary-level ROUGE-L, 0 to 100: what is published as ROUGE-L of CNN/DailyMail."""
    source: Annotated[str, Field(pattern=r"^[^|\r\n]+$")]
    """Where it was published, such as `arXiv 2008.03156, table 4`; one line without `|`."""


class ReportConfig(Config):
    """What the report shows."""

    examples: Annotated[StrictInt, Field(ge=0)] = 5
    """Predictions shown beside their references."""
    expected: Annotated[ExpectedConfig | None, EXECUTION_ONLY] = None
    """A published result to show beside the run's; None for none."""
