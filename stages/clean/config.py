"""Settings of clean, and what identifies them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from pipeline.config import JSON, Config, Number
from pipeline.stage import HashFile
from stages.text_rules import CleaningRules, rule_versions

Words = Annotated[StrictInt, Field(ge=1)]


class FilterConfig(Config):
    """Which rows are left out; each is counted, and its record in the ledger names the limit."""

    min_document_words: Words | None = None
    """Fewest words of a document."""
    max_document_words: Words | None = None
    """Most words of a document."""
    min_summary_words: Words | None = None
    """Fewest words of a summary."""
    max_summary_words: Words | None = None
    """Most words of a summary."""
    summary_is_shorter: StrictBool = False
    """Leave out rows whose summary has as many words as the document, or more."""

    @model_validator(mode="after")
    def _limits_leave_room(self) -> FilterConfig:
        for role in ("document", "summary"):
            least, most = (getattr(self, f"{end}_{role}_words") for end in ("min", "max"))
            if least is not None and most is not None and least > most:
                raise ValueError(
                    f"min_{role}_words {least} is more than max_{role}_words {most}, so that no row is left"
                )
        return self


class DuplicatesConfig(Config):
    """What is done about documents that come twice: in words, whatever their case, blanks and punctuation."""

    near: Annotated[Number, Field(gt=0.5, le=1)] | None = 0.8
    """Jaccard similarity of the sets of word 5-grams from which two documents are near duplicates; null for
    equal ones only."""
    within_split: Literal["report", "drop"] = "report"
    """About a document that is like an earlier one of its split."""
    on_leak: Literal["report", "drop", "fail"] = "report"
    """About a document that is like one of another split: the copy is training's, else validation's."""


class CleanConfig(CleaningRules):
    """How text is cleaned, and which rows are kept."""

    filters: FilterConfig = FilterConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()


def identity(config: CleanConfig, seed: int, hash_file: HashFile) -> JSON:
    """Return what is hashed for clean: the settings, and the versions of the rules they name."""
    return {**config.identity(), "rule_versions": rule_versions(config.rules)}
