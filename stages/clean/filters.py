"""Which rows are kept: pure rules of a cleaned row, by name."""

from __future__ import annotations

from typing import NamedTuple

from stages.clean.config import FilterConfig

KEPT = "kept"


class Judgement(NamedTuple):
    """What becomes of a row."""

    outcome: str
    """KEPT, or the name of the reason why not; a word for counting."""
    rule: str = ""
    """The setting that decided, with its value; of an empty text the rule that emptied it."""


def judge(
    document: str,
    summary: str,
    document_words: int,
    summary_words: int,
    filters: FilterConfig,
) -> Judgement:
    """Return what becomes of a row; the first rule that speaks against it counts."""
    if not document:
        return Judgement("empty_document")
    if not summary:
        return Judgement("empty_summary")
    for role, words in (("document", document_words), ("summary", summary_words)):
        least, most = (getattr(filters, f"{end}_{role}_words") for end in ("min", "max"))
        if least is not None and words < least:
            return Judgement(f"short_{role}", f"min_{role}_words {least}")
        if most is not None and words > most:
            return Judgement(f"long_{role}", f"max_{role}_words {most}")
    if filters.summary_is_shorter and summary_words >= document_words:
        return Judgement("long_summary", "summary_is_shorter")
    return Judgement(KEPT)
