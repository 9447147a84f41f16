"""What a reader of a comparison has to know, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.compare.comparison import Pair, System
from stages.compare.lineage import settings_changed
from stages.compare.paired import Entrant
from stages.compare.scored import Scored
from stages.intervals import COVER_LESS, FEW_ROWS, few_rows


def row_notes(entrants: Sequence[Entrant]) -> list[str]:
    """Say that rows are few, and what is not known of a run."""
    rows = len(entrants[0].ids)
    if rows == 1:
        notes = ["One row: neither an interval nor a test is possible."]
    else:
        notes = [f"{told}." for told in few_rows(rows)]
    for one in entrants:
        if one.made is not None and one.made.gone:
            notes.append(
                f"{one.name}: the settings of {', '.join(one.made.gone)} are not known, as what was scored "
                "is not there."
            )
    return notes


def few_notes(systems: Sequence[System], compared: Sequence[Pair]) -> list[str]:
    """Name the metrics that have an interval of few rows, where rows as a whole are enough."""
    fewest: dict[str, int] = {}
    shown = [*(figures for one in systems for figures in one.figures.items())]
    shown += [(one.metric, one.change) for pair in compared for one in pair.differences]
    for metric, figure in shown:
        fewest[metric] = min(figure.rows, fewest.get(metric, figure.rows))
    if max(fewest.values()) < FEW_ROWS:
        return []
    few = [f"{metric} ({rows})" for metric, rows in fewest.items() if 1 < rows < FEW_ROWS]
    return [f"Few rows have a value of {', '.join(few)}: {COVER_LESS}."] if few else []


def left_out_notes(gone: Mapping[str, Sequence[str]]) -> list[str]:
    """Name the metrics that are not compared, and why."""
    return [
        f"{reason}, so {', '.join(metrics)} are left out; ROUGE does not read them."
        for reason, metrics in gone.items()
    ]


def version_notes(scored: Sequence[Scored], profile: str) -> list[str]:
    """Tell of libraries that may change last digits, or a stem, and are no reason not to compare."""
    nltk = {one.rouge["profiles"][profile]["settings"].get("nltk", "none"): one for one in scored}
    transformers = {
        one.rouge["bertscore"].get("transformers", "none"): one
        for one in scored
        if one.rouge.get("bertscore")
    }
    return [
        f"{what} several versions of {library}: "
        f"{', '.join(f'{version} ({one.name})' for version, one in versions.items())}."
        for what, library, versions in (
            ("Stems and sentences are of", "nltk", nltk),
            ("BERTScores are of", "transformers", transformers),
        )
        if len(versions) > 1
    ]


def score_notes(scored: Sequence[Scored]) -> list[str]:
    """Repeat what the scores themselves warn of, by folder; that rows are few, `row_notes` says of all."""
    return [
        f"{one.name}: {told}"
        for one in scored
        for told in one.rouge["warnings"]
        if told not in few_rows(one.rouge["rows"])
    ]


def pair_notes(compared: Sequence[Pair], entrants: Sequence[Entrant]) -> list[str]:
    """Name the metrics that a pair does not share, and say where texts are missing."""
    notes = []
    for pair, second in zip(compared, entrants[1:], strict=True):
        shown = {one.metric for one in pair.differences}
        metrics = dict.fromkeys([*entrants[0].columns, *second.columns])
        missing = [metric for metric in metrics if metric not in shown]
        if missing:
            notes.append(
                f"{', '.join(missing)}: not compared, as no row has a value in both {pair.first} and "
                f"{pair.second}."
            )
    if any(None in (row.first_text, row.second_text) for pair in compared for row in pair.moved):
        notes.append("Some texts are not shown: those of a run's model alone are kept.")
    return notes


def seed_notes(entrants: Sequence[Entrant], *, is_seeds: bool) -> list[str]:
    """Say what a spread over seeds means."""
    told = (
        "These runs differ in their seed only: their spread is shown, no tests (`sumpipe compare --pairs` "
        "gives those)."
        if is_seeds
        else "These runs are taken for seeds of one recipe, as asked for."
    )
    first, *others = entrants
    changed = dict.fromkeys(
        line for other in others for line in settings_changed(first.made, other.made)
    )
    return [
        told,
        *(f"But they differ in more: {line}." for line in changed),
        "max is chosen by the very scores that are shown, and grows with the number of runs; the median does "
        "neither. Papers report both, as best and median of n runs.",
    ]
