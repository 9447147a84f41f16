"""A comparison as text: tables and sentences, without printing any."""

from __future__ import annotations

import json
from typing import NamedTuple

from stages.compare.comparison import Comparison, Figure, Moved, Pair
from stages.compare.wording import PARTS, amount, metric_of, p_text

_SHOWN_CHARACTERS = 150


class Table(NamedTuple):
    """A table of text; the first cell of a row names it."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def heading(comparison: Comparison) -> str:
    """Return what is compared, in one line."""
    split = f", {comparison.split} split" if comparison.split else ""
    rows = f"{comparison.rows:,} {'row' if comparison.rows == 1 else 'rows'}"
    intervals = f", {100 * comparison.method['confidence']:.0f} % intervals"
    return (
        f"{comparison.dataset}{split}, {rows}; profile {comparison.profile}, ROUGE {PARTS[comparison.part]} "
        f"x 100{intervals if comparison.rows > 1 else ''}"
    )


def pair_table(pair: Pair) -> Table:
    """Return the differences of a pair, a metric a row, on the rows where both have a value."""
    header = ("", "first", "second", "change", "interval", "p", "p (Holm)", "rows")
    rows: list[tuple[str, ...]] = [
        (
            metric_of(one.metric).label,
            amount(one.metric, one.first),
            amount(one.metric, one.second),
            amount(one.metric, one.change.mean, signed=True),
            _interval(one.metric, one.change, signed=True),
            p_text(one.p),
            p_text(one.p_holm),
            f"{one.change.rows:,}",
        )
        for one in pair.differences
    ]
    return Table(header, rows)


def spread_table(comparison: Comparison) -> Table:
    """Return the spread over runs, a metric a row."""
    header = ("", "n", "mean", "deviation", "min", "median", "max")
    rows: list[tuple[str, ...]] = [
        (
            metric_of(one.metric).label,
            str(one.runs),
            *(
                amount(one.metric, value)
                for value in (one.mean, one.deviation, one.low, one.median, one.high)
            ),
        )
        for one in comparison.spreads
    ]
    return Table(header, rows)


def system_table(comparison: Comparison) -> Table:
    """Return each system's means with their intervals, a metric a row."""
    header = (
        "",
        *(
            f"{one.name} (seed {one.seed})"
            if comparison.spreads and one.seed is not None
            else one.name
            for one in comparison.systems
        ),
    )
    metrics = dict.fromkeys(metric for one in comparison.systems for metric in one.figures)
    rows: list[tuple[str, ...]] = [
        (
            metric_of(metric).label,
            *(
                _with_interval(metric, one.figures.get(metric), comparison.rows)
                for one in comparison.systems
            ),
        )
        for metric in metrics
    ]
    return Table(header, rows)


def moved_lines(moved: Moved, metric: str) -> list[str]:
    """Return a row that moved, with the beginnings of both texts where they are known."""
    first, second = amount(metric, moved.first), amount(metric, moved.second)
    change = amount(metric, moved.second - moved.first, signed=True)
    lines = [f"{moved.id}: {first} -> {second} ({change})"]
    for name, text in (("first", moved.first_text), ("second", moved.second_text)):
        if text is not None:
            lines.append(f"  {name:6} {json.dumps(_beginning(text), ensure_ascii=False)}")
    return lines


def _beginning(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _interval(metric: str, figure: Figure, *, signed: bool = False) -> str:
    if figure.low is None:
        return "-"
    low, high = (amount(metric, bound, signed=signed) for bound in (figure.low, figure.high))
    return f"{low} to {high}"


def _with_interval(metric: str, figure: Figure | None, rows: int) -> str:
    """Return a mean with its interval, and the rows that it is of where they are not all."""
    if figure is None:
        return "-"
    counted = "" if figure.rows == rows else f"; {figure.rows:,} of {rows:,} rows"
    return f"{amount(metric, figure.mean)} ({_interval(metric, figure)}{counted})"
