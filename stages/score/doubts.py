"""What makes a ROUGE figure mean less than it seems, told in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.intervals import COVER_LESS, FEW_ROWS, Interval, few_rows
from stages.score.config import Splitter
from stages.score.profiles import Reader
from stages.score.tally import LONG, Side, Tally
from stages.score.wording import several, verb

_SHARE = 0.05
"""Of letters or texts, from which it is told."""


def doubts(counts: Tally, readers: Sequence[Reader], *, is_l_lsum: bool) -> list[str]:
    """Say what a reader of the figures has to know.

    Args:
        counts: Of all rows.
        readers: The profiles in use, the headline first.
        is_l_lsum: Whether the model's rougeL and rougeLsum are equal in every row.
    """
    told = [*few_rows(counts.references.texts), *_unsplit(counts, readers[0].splitter)]
    for name, side in (("reference", counts.references), ("prediction", counts.predictions)):
        if side.empty:
            told.append(
                f"{side.empty:,} of {several(side.texts, name)} "
                f"{verb(side.empty, 'is empty and scores', 'are empty and score')} 0"
            )
        told += _dropped(name, side, readers)
        told += _run_on(name, side, readers, is_l_lsum=is_l_lsum)
    if counts.failed:
        told.append(
            f"{counts.failed:,} of the empty predictions {verb(counts.failed, 'is a row', 'are rows')} that "
            "generate could not summarise"
        )
    return told


def rows_left_out(split: str, brought: int, scored: int) -> list[str]:
    """Say that rows of the split that fetch brought are not in the figures."""
    if scored == brought:
        return []
    return [
        f"{scored:,} of {several(brought, 'row')} of the {split} split {verb(scored, 'is', 'are')} scored, "
        "as clean left the others out: figures of the whole set may differ; clean/ledger says why, row by row"
    ]


def few_values(measured: Mapping[str, Mapping[str, Interval]], rows: int) -> list[str]:
    """Name the measures that have an interval of few rows, where rows as a whole are enough.

    Args:
        measured: By system and measure.
        rows: That were scored.
    """
    if rows < FEW_ROWS:
        return []
    few = {
        name: one.rows
        for found in measured.values()
        for name, one in found.items()
        if 1 < one.rows < FEW_ROWS
    }
    listed = ", ".join(f"{name} ({rows})" for name, rows in few.items())
    return [f"few rows have a value of {listed}: {COVER_LESS}"] if few else []


def _unsplit(counts: Tally, splitter: Splitter) -> list[str]:
    unsplit, documents = counts.unsplit, counts.documents
    if unsplit <= _SHARE * documents:
        return []
    way_out = "" if splitter == "punkt" else "; split them by punkt (score.sentences, --sentences)"
    return [
        f"{unsplit:,} of {several(documents, 'document')} {verb(unsplit, 'has', 'have')} a sentence of more "
        f"than {LONG} words as {splitter} splits them, so that lead and oracle copy more than "
        f"sentences{way_out}"
    ]


def _dropped(name: str, side: Side, readers: Sequence[Reader]) -> list[str]:
    share = side.dropped / max(side.letters, 1)
    blind = [one.profile.name for one in readers if one.profile.tokenizer == "ascii"]
    if share <= _SHARE or not blind:
        return []
    is_read = any(one.profile.tokenizer == "unicode" for one in readers)
    way_out = "the profile unicode keeps them" if is_read else "score with the profile unicode too"
    return [
        f"{100 * share:.0f} % of the letters of the {name}s are not a-z, and the tokenizer of "
        f"{', '.join(blind)} drops them; {way_out}"
    ]


def _run_on(name: str, side: Side, readers: Sequence[Reader], *, is_l_lsum: bool) -> list[str]:
    if readers[0].splitter != "newline" or side.run_on <= _SHARE * side.texts:
        return []
    equal = ", so that rougeLsum equals rougeL" if is_l_lsum else ", which lowers rougeLsum"
    return [
        f"{side.run_on:,} of {several(side.texts, name)} {verb(side.run_on, 'has', 'have')} several "
        f"sentences in one line{equal}: sentences are split at line breaks only; split them by punkt "
        "(score.sentences, --sentences) if figures to compare with did"
    ]
