"""Systems against each other, from their figures row by row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config import JSON
from stages.compare.comparison import ROUGE_TYPES, Difference, Figure, Moved, Pair
from stages.compare.lineage import Lineage, settings_changed
from stages.compare.significance import PERMUTATIONS, holm, sign_flip_p
from stages.intervals import CONFIDENCE, RESAMPLES, Interval, intervals

MOVED = 5

Texts = Callable[[Collection[str]], Mapping[str, str]]
"""Gives the texts of rows by id, of those rows whose text is kept."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A system that takes part."""

    name: str
    """For people; no two have the same."""
    ids: Sequence[str]
    columns: Mapping[str, NDArray[np.float64]]
    """By metric, row by row: the ROUGE types first, NaN where a row has no value."""
    made: Lineage | None = None
    """None for a bare folder of scores."""
    texts: Texts = lambda ids: {}


def figures(columns: Mapping[str, NDArray[np.float64]], seed: int) -> dict[str, Figure]:
    """Return the mean of each metric that has a value, with its interval."""
    found = intervals(columns, RESAMPLES, seed, CONFIDENCE)
    return {metric: _figure(one) for metric, one in found.items()}


def pairs(
    entrants: Sequence[Entrant], moved_by: str, seed: int, count: int = MOVED
) -> tuple[Pair, ...]:
    """Compare each entrant after the first with it.

    p values are corrected (Holm) over the ROUGE types of all pairs, and apart from those over the other
    measures, which describe summaries rather than judge them.

    Args:
        entrants: At least two, of the same ids.
        moved_by: The metric by which rows are said to have moved.
        seed: Of draws and permutations.
        count: Rows to show.
    """
    first, *others = entrants
    compared = [_pair(first, other, moved_by, seed, count) for other in others]
    corrected: dict[tuple[str, str], float] = {}
    for is_rouge in (True, False):
        p_values = {
            (pair.second, one.metric): one.p
            for pair in compared
            for one in pair.differences
            if one.p is not None and (one.metric in ROUGE_TYPES) is is_rouge
        }
        corrected |= zip(p_values, holm([*p_values.values()]), strict=True)
    return tuple(
        replace(
            pair,
            differences=tuple(
                replace(one, p_holm=corrected.get((pair.second, one.metric)))
                for one in pair.differences
            ),
        )
        for pair in compared
    )


def method(seed: int) -> JSON:
    """Return how intervals and p values are made."""
    return {
        "interval": "paired percentile bootstrap over rows",
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "test": "two-sided paired permutation of signs",
        "permutations": PERMUTATIONS,
        "correction": "Holm, over the ROUGE types of all pairs, and over the other measures of all pairs",
        "seed": seed,
    }


def _figure(one: Interval) -> Figure:
    is_single = one.rows == 1
    return Figure(
        one.mean, None if is_single else one.low, None if is_single else one.high, one.rows
    )


def _pair(first: Entrant, second: Entrant, moved_by: str, seed: int, count: int) -> Pair:
    place = {id_: number for number, id_ in enumerate(second.ids)}
    order = [place[id_] for id_ in first.ids]
    before = {metric: first.columns[metric] for metric in first.columns if metric in second.columns}
    after = {metric: second.columns[metric][order] for metric in before}
    change = {metric: after[metric] - before[metric] for metric in before}
    found = intervals(change, RESAMPLES, seed, CONFIDENCE)
    stacked = np.nan_to_num(np.stack([change[metric] for metric in found]))
    p_values = dict(zip(found, sign_flip_p(stacked, seed=seed), strict=True))
    differences = []
    for metric, one in found.items():
        has_both = ~np.isnan(change[metric])
        differences.append(
            Difference(
                metric,
                float(before[metric][has_both].mean()),
                float(after[metric][has_both].mean()),
                _figure(one),
                float(p_values[metric]) if one.rows > 1 else None,
                None,
            )
        )
    moved = _moved(first, second, before[moved_by], after[moved_by], count)
    changed = settings_changed(first.made, second.made)
    return Pair(first.name, second.name, changed, tuple(differences), moved)


def _moved(
    first: Entrant,
    second: Entrant,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    count: int,
) -> tuple[Moved, ...]:
    distance = np.nan_to_num(np.abs(after - before))
    far = [int(at) for at in np.argsort(-distance, kind="stable")[:count] if distance[at] > 0]
    ids = [first.ids[at] for at in far]
    texts, other_texts = first.texts(ids), second.texts(ids)
    return tuple(
        Moved(id_, float(before[at]), float(after[at]), texts.get(id_), other_texts.get(id_))
        for id_, at in zip(ids, far, strict=True)
    )
