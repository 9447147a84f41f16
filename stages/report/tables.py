"""Tables of the page: pure functions from the facts of a run to rows of text."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

from pipeline.config import JSON
from stages.metrics import amount as metric_amount
from stages.metrics import metric_of
from stages.report.facts import Facts
from stages.report.lengths import ROLES, Counts
from stages.report.wording import (
    ROUGE_LABELS,
    amount,
    interval,
    percent,
    published,
    system_label,
)
from stages.schema import SPLITS

NO_CELL = "-"
_STEPS = frozenset({"Fetched", "Kept", "Summarised", "Scored"})


class Table(NamedTuple):
    """A table of text; the first cell of a row names it. What a cell says besides is on its second line."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    steps: frozenset[str] = frozenset()
    """Names of rows that stand out; the rows below one tell of it."""


class Settings(NamedTuple):
    """The hashed configuration of one stage."""

    stage: str
    version: int
    seed: int | None
    fingerprint: str
    config: str
    """As JSON."""


def rouge_table(facts: Facts, name: str | None = None, *, with_intervals: bool = False) -> Table:
    """Return ROUGE F of each system, times 100; what is published comes right after the model.

    Args:
        facts: A run that is scored.
        name: The profile; None for the headline's.
        with_intervals: Give each mean its interval, after a line break.
    """
    name = name or facts.rouge["profile"]
    rows: list[tuple[str, ...]] = []
    for system, figures in facts.rouge["profiles"][name]["systems"].items():
        found = (figures[kind]["fmeasure"] for kind in ROUGE_LABELS)
        shows = with_intervals and facts.rouge["rows"] > 1  # one row has none
        cells = (_figure(one, with_intervals=shows) for one in found)
        rows.append((system_label(facts, system), *cells))
    rows[1:1] = _published(facts, name)
    return Table(("System", *ROUGE_LABELS.values()), rows)


def _figure(one: JSON, *, with_intervals: bool) -> str:
    told = percent(one["mean"])
    return f"{told}\n{interval(one, 100)}" if with_intervals else told


def _published(facts: Facts, profile: str) -> list[tuple[str, ...]]:
    expected = published(facts, profile)
    if expected is None:
        return []
    figures = (getattr(expected, name) for name in ROUGE_LABELS)
    cells = (NO_CELL if figure is None else f"{figure:.2f}" for figure in figures)
    return [(f"Published: {expected.source}", *cells)]


def parts_table(facts: Facts, name: str) -> Table:
    """Return precision and recall of the model beside F, under one profile."""
    model = facts.rouge["profiles"][name]["systems"]["model"]
    rows = [
        (
            label,
            *(
                _figure(model[kind][part], with_intervals=facts.rouge["rows"] > 1)
                for part in ("precision", "recall", "fmeasure")
            ),
        )
        for kind, label in ROUGE_LABELS.items()
    ]
    return Table(("The model", "Precision", "Recall", "F"), rows)


def measures_table(facts: Facts) -> Table:
    """Return what is measured beside ROUGE, a column a system; with interval for the model."""
    found = facts.rouge.get("measures", {})
    names = list(dict.fromkeys(name for measures in found.values() for name in measures))
    rows = []
    for name in names:
        label = metric_of(name).label
        label = f"{label[0].upper()}{label[1:]}"
        counts = {one[name]["rows"] for one in found.values() if "rows" in one.get(name, {})}
        if counts - {facts.rouge["rows"]}:
            label += f" ({' or '.join(f'{count:,}' for count in sorted(counts))} rows)"
        cells = (
            _measure(facts, name, measures.get(name), with_interval=system == "model")
            for system, measures in found.items()
        )
        rows.append((label, *cells))
    return Table(("Measure", *(system_label(facts, system) for system in found)), rows)


def bertscore_words(facts: Facts) -> str:
    """Return what BERTScore's figures depend on, in one sentence; empty if it was not measured."""
    settings = facts.rouge.get("bertscore")
    if not settings:
        return ""
    rescaled = "rescaled" if settings["rescaled_with_baseline"] else "not rescaled"
    weighted = "with" if settings["idf"] else "without"
    return (
        f"BERTScore: {settings['scorer']}, layer {settings['layer']} of {settings['model']}, {rescaled} with "
        f"a baseline, {weighted} idf weights, the first {settings['tokens_seen']:,} tokens of each text."
    )


def _measure(facts: Facts, name: str, one: JSON | None, *, with_interval: bool) -> str:
    if one is None:
        return NO_CELL
    mean, low, high = (metric_amount(name, one[bound]) for bound in ("mean", "low", "high"))
    rows = int(one.get("rows") or facts.rouge["rows"])
    return f"{mean}\n{low} to {high}" if with_interval and rows > 1 else mean


def flow_table(facts: Facts) -> Table:
    """Return how many rows each step of the pipeline had, and what became of the others.

    A cell's second line is its share: of fetched rows, below `Summarised` of summarised ones, or of kept
    tokens and those cut off together.
    """
    rows: list[tuple[str, ...]] = []
    if left_out := facts.metric("fetch", "rows_left_out"):
        name = f"left out by the set's definition: {_count(left_out)}, of no split"
        rows.append((name, *[NO_CELL] * len(SPLITS)))
    rows.append(("Fetched", *(_count(facts.metric("fetch", f"rows_{split}")) for split in SPLITS)))
    rows += [
        (f"left out: {cause.replace('_', ' ')}", *_shares(facts, "clean", f"rows_{cause}_{{}}"))
        for cause in _causes(facts)
    ]
    if "clean" in facts.inputs:
        rows.append(("Kept", *_shares(facts, "clean", "rows_kept_{}")))
        duplicates = facts.settings("clean").get("duplicates", {})  # of older runs: none
        if duplicates.get("within_split") == "report":
            alike = _shares(facts, "clean", "duplicates_{}")
            rows.append(("like another row of the split, kept", *alike))
    if "encode" in facts.inputs:
        for role, noun in (("source", "documents"), ("target", "summaries")):
            cut, lost = f"{role}_rows_truncated_{{}}", f"{role}_tokens_lost_{{}}"
            rows.append((f"{noun} cut to fit", *_shares(facts, "encode", cut)))
            rows.append((f"tokens of {noun} lost", *_lost_tokens(facts, lost, role)))
    if (generated := facts.generated) is not None:
        count = generated.tokens.size
        stops = generated.stops
        rows += [
            ("Summarised", *_only(facts, _count(count))),
            ("ended by the length limit", *_only(facts, _share(stops["length"], count))),
            ("without text", *_only(facts, _share(generated.empty, count))),
            ("failed", *_only(facts, _share(stops["failed"], count))),
        ]
    if facts.rouge:
        rows.append(("Scored", *_only(facts, _count(facts.rouge["rows"]))))
    return Table(("Step", *SPLITS), rows, _STEPS)


def _causes(facts: Facts) -> list[str]:
    """The outcomes of clean besides `kept`, from its metrics `rows_{outcome}_{split}`."""
    artifact = facts.inputs.get("clean")
    names = [] if artifact is None else artifact.manifest.metrics
    outcomes = {n.removeprefix("rows_").rpartition("_")[0] for n in names if n.startswith("rows_")}
    return sorted(outcomes - {"kept"})


def _shares(facts: Facts, stage: str, name: str) -> list[str]:
    return [
        _share(facts.metric(stage, name.format(split)) or 0, facts.metric("fetch", f"rows_{split}"))
        for split in SPLITS
    ]


def _lost_tokens(facts: Facts, name: str, role: str) -> list[str]:
    cells = []
    for split in SPLITS:
        lost = facts.metric("encode", name.format(split)) or 0
        kept = facts.metric("encode", f"{role}_tokens_{split}") or 0
        cells.append(_share(lost, lost + kept))
    return cells


def _only(facts: Facts, cell: str) -> list[str]:
    """Return a cell for the split that is summarised, and none for the others."""
    return [cell if split == facts.split else NO_CELL for split in SPLITS]


def _count(value: object) -> str:
    return amount(value) if value is None or isinstance(value, int) else f"{value:,.0f}"


def _share(part: int, whole: int | None) -> str:
    return f"{_count(part)}\n{100 * part / whole:.2f} %" if part and whole else _count(part)


def lengths_table(facts: Facts) -> Table:
    """Return quantiles of the lengths of all texts, in tokens; those of the rows before they were cut."""
    rows = []
    for role, noun in zip(ROLES, ("Documents", "References"), strict=True):
        for split, found in facts.lengths.items():
            rows.append((f"{noun}, {split}", *_quantiles(found[role].whole)))
    if facts.generated is not None:
        rows.append((f"Generated, {facts.split}", *_quantiles(facts.generated.tokens)))
    return Table(("Tokens", "Shortest", "Median", "90 %", "99 %", "Longest"), rows)


def _quantiles(lengths: Counts) -> tuple[str, ...]:
    if not lengths.size:
        return (NO_CELL,) * 5
    return tuple(f"{value:,.0f}" for value in np.quantile(lengths, (0, 0.5, 0.9, 0.99, 1)))


def settings_list(facts: Facts) -> list[Settings]:
    """Return the hashed settings of each committed stage, in the order of the stages."""
    return [
        Settings(
            artifact.manifest.payload["stage"],
            artifact.manifest.payload["version"],
            artifact.manifest.payload.get("seed"),
            artifact.manifest.fingerprint,
            json.dumps(artifact.manifest.payload["config"], indent=2, ensure_ascii=False),
        )
        for artifact in facts.inputs.values()
    ]
