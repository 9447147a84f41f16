"""What a comparison of scored systems holds; plain data, for the command line and for pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config import JSON

Part = Literal["precision", "recall", "fmeasure"]
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its bootstrap interval, as a fraction; the bounds are None for a single row."""

    mean: float
    low: float | None
    high: float | None
    rows: int
    """Rows that have a value."""


@dataclass(frozen=True, slots=True)
class System:
    """A system and its means."""

    name: str
    seed: int | None
    figures: dict[str, Figure]
    """By metric."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How two systems differ in a metric, on the rows where both have a value."""

    metric: str
    first: float
    second: float
    change: Figure
    """Second minus first, with the paired bootstrap interval."""
    p: float | None
    """Of the paired permutation test; None for a single row."""
    p_holm: float | None
    """The same, corrected for all ROUGE types, or all other measures, of all pairs."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A row whose figure differs."""

    id: str
    first: float
    second: float
    first_text: str | None
    """None where texts are not kept."""
    second_text: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A system against the first one."""

    first: str
    second: str
    settings: tuple[str, ...]
    """How their recipes differ, as far as that is known: `finetune.r3f.lambda 0 -> 1`."""
    differences: tuple[Difference, ...]
    moved: tuple[Moved, ...]
    """The rows that differ most in `Comparison.moved_by`, the farthest first."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over several runs of one recipe, one figure (the mean over rows) a run."""

    metric: str
    runs: int
    mean: float
    deviation: float
    """Of the sample: divided by runs - 1."""
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result; fractions throughout."""

    profile: str
    settings: JSON
    """Of the profile."""
    dataset: str
    """In words."""
    split: str | None
    rows: int
    part: Part
    """Which part of ROUGE the figures are."""
    systems: tuple[System, ...]
    pairs: tuple[Pair, ...]
    """Each system after the first against it; empty where `spreads` are shown."""
    moved_by: str
    """The metric of `Pair.moved`."""
    spreads: tuple[Spread, ...]
    """Of runs that differ in their seed."""
    method: JSON
    """Draws, permutations, seed and confidence."""
    notes: tuple[str, ...]
    """What a reader has to know, in sentences."""
