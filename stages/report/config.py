"""Settings of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictBool, StrictInt

from pipeline.config import Config, Number, load_yaml, validate

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


class CardConfig(Config):
    """What only the publisher of a model knows; nothing of it is guessed."""

    licence: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None
    """Of the model, by the Hub's name, such as `apache-2.0` or `cc-by-nc-4.0`; None: unknown."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None = None
    """Of the texts, by its ISO 639 code, such as `en`; None: unknown."""


class ReportConfig(Config):
    """What the report shows."""

    examples: Annotated[StrictInt, Field(ge=0, le=50)] = 5
    """Summaries shown of each kind: the best, the worst, and some drawn at random."""
    expected: ExpectedConfig | None = None
    """A published result to show beside the run's; None for none."""
    card: CardConfig = CardConfig()


class _Dataset(Config, extra="ignore"):
    check_rows: StrictBool = True
    """What only lets fetch pass is not hashed, so that its artifact does not tell it."""


class _Fetch(Config, extra="ignore"):
    dataset: _Dataset = _Dataset()


class RecipeOfRun(Config, extra="ignore"):
    """What pages tell of a run by its recipe.yaml, which people may have edited."""

    name: str = "unnamed"
    seed: Annotated[StrictInt, Field(ge=0)] = 1
    fetch: _Fetch = _Fetch()
    report: ReportConfig = ReportConfig()


def read_recipe(path: Path) -> RecipeOfRun:
    """Read a run's recipe.

    Raises:
        ConfigError: If it cannot be read, or has a field of another kind; names all of them.
    """
    return validate(RecipeOfRun, load_yaml(path), str(path))
