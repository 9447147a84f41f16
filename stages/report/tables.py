"""Tables of the page: pure functions from the facts of a run to rows of text."""

from __future__ import annotations

import json
from typing import NamedTuple

from stages.report.facts import Facts
from stages.report.wording import ROUGE_LABELS, amount, percent, system_label
from stages.schema import SPLITS


class Table(NamedTuple):
    """A table of text; the first cell of a row names it."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Settings(NamedTuple):
    """The hashed configuration of one stage."""

    stage: str
    version: int
    seed: int | None
    config: str
    """As JSON."""


def rouge_table(facts: Facts) -> Table:
    """Return mean ROUGE F of each system, times 100; what is published comes right after the model."""
    rows: list[tuple[str, ...]] = [
        (
            system_label(system, facts.rouge["profile"]),
            *(percent(means[name]["fmeasure"]) for name in ROUGE_LABELS),
        )
        for system, means in facts.rouge["systems"].items()
    ]
    rows[1:1] = _published(facts)
    return Table(("System", *ROUGE_LABELS.values()), rows)


def _published(facts: Facts) -> list[tuple[str, ...]]:
    expected = facts.expected
    if expected is None:
        return []
    figures = (getattr(expected, name) for name in ROUGE_LABELS)
    cells = ("-" if figure is None else f"{figure:.2f}" for figure in figures)
    return [(f"Published: {expected.source}", *cells)]


def row_table(facts: Facts) -> Table:
    """Return where every row of each split went, from fetch to score."""
    dropped = _drop_outcomes(facts)
    header = (
        "Split", "Fetched", "Kept", "Dropped", *(outcome.replace("_", " ") for outcome in dropped),
        "Sources truncated", "Source tokens lost", "Targets truncated", "Target tokens lost",
        "Predictions", "Scored",
    )  # fmt: skip
    return Table(header, [_row_account(facts, split, dropped) for split in SPLITS])


def _drop_outcomes(facts: Facts) -> list[str]:
    """The outcomes of clean besides `kept`, from its metrics `rows_{outcome}_{split}`."""
    names = [name.removeprefix("rows_") for name in facts.inputs["clean"].manifest.metrics]
    return sorted({name.rpartition("_")[0] for name in names} - {"kept"})


def _row_account(facts: Facts, split: str, dropped: list[str]) -> tuple[str, ...]:
    is_scored = split == facts.rouge["split"]
    lost = [
        facts.metric("encode", f"{role}_{what}_{split}")
        for role in ("source", "target")
        for what in ("rows_truncated", "tokens_lost")
    ]
    kept, *gone = (
        facts.metric("clean", f"rows_{outcome}_{split}") or 0 for outcome in ("kept", *dropped)
    )
    counts = [
        facts.metric("fetch", f"rows_{split}"),
        *(kept, sum(gone), *gone),
        *lost,
        facts.metric("generate", "predictions") if is_scored else None,
        facts.rouge["rows"] if is_scored else None,
    ]
    return (split, *map(amount, counts))


def settings_list(facts: Facts) -> list[Settings]:
    """Return the hashed settings of each stage, in the order of the stages."""
    payloads = [artifact.manifest.payload for artifact in facts.inputs.values()]
    return [
        Settings(
            payload["stage"],
            payload["version"],
            payload.get("seed"),
            json.dumps(payload["config"], indent=2, ensure_ascii=False),
        )
        for payload in payloads
    ]
