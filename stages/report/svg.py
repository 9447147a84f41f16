"""Charts as SVG for inside a page: classes for its style sheet to colour, nothing to be loaded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from stages.report.curve import Points

_WIDTH, _HEIGHT = 400, 216
"""About the size on the page, in its pixels, so that text is neither large nor small."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 12, 38
_ROW = 40
_LABEL = 46
"""Characters that fit; of a longer name the middle is left out."""


class Line(NamedTuple):
    """A line of a chart; `style` is its class in the style sheet."""

    style: str
    points: Points
    has_dots: bool = False


class Rule(NamedTuple):
    """A line across a chart."""

    style: str
    x: float


class Steps(NamedTuple):
    """The outline of a histogram."""

    style: str
    edges: Sequence[float]
    heights: Sequence[float]


class Span(NamedTuple):
    """A value with its interval, on a row of its own."""

    label: str
    style: str
    low: float
    mean: float
    high: float


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values from `low` or below to `high` or above: 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1, 2, 5, 10, 20) if power * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def short(value: float) -> str:
    """Return a value in a few characters: 0.5, 25, 1.5k, 3e-05."""
    if value and abs(value) < 0.001:
        return f"{value:.2g}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


class _Frame(NamedTuple):
    """The plotting area: where values are, and what is drawn behind them."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    drawn: str


def _frame(
    x_low: float, x_high: float, y_ticks: list[float], x_label: str, y_text: Callable[[float], str]
) -> _Frame:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def x(value: float) -> float:
        return _LEFT + width * (value - x_low) / ((x_high - x_low) or 1.0)

    def y(value: float) -> float:
        return _TOP + height * (1 - (value - y_low) / ((y_high - y_low) or 1.0))

    drawn = [
        f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y(value) + 4.5:.1f}" text-anchor="end">{y_text(value)}</text>'
        for value in y_ticks
    ]
    drawn += [
        f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{short(value)}</text>'
        for value in ticks(x_low, x_high)
        if x_low <= value <= x_high
    ]
    middle = _LEFT + width / 2
    drawn.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{Markup.escape(x_label)}</text>'
    )
    return _Frame(x, y, "".join(drawn))


def line_chart(
    label: str,
    lines: Sequence[Line],
    *,
    rules: Sequence[Rule] = (),
    from_zero: bool = False,
    as_percent: bool = False,
) -> Markup:
    """Draw values over updates; `label` stands for the chart where it cannot be seen.

    Args:
        label: What is seen, in words.
        lines: At least one of them with a point.
        rules: Updates to mark.
        from_zero: Let the scale begin at 0.
        as_percent: Values are fractions, the scale goes from 0 to 100 %.
    """
    every = [point for line in lines for point in line.points]
    last = max([x for x, _ in every] + [rule.x for rule in rules])
    values = [y for _, y in every]
    if as_percent:
        scale = [0.0, 0.25, 0.5, 0.75, 1.0]
    else:
        scale = ticks(0.0 if from_zero else min(values), max(values))
    frame = _frame(0.0, last, scale, "update", _percent if as_percent else short)
    drawn = [_rule(frame, rule) for rule in rules]
    for line in lines:
        spots = [f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in line.points]
        if len(spots) > 1:
            drawn.append(f'<path class="line {line.style}" d="M{"L".join(spots)}"/>')
        if line.has_dots or len(spots) == 1:
            places = (spot.split() for spot in spots)
            drawn += [
                f'<circle class="dot {line.style}" cx="{x}" cy="{y}" r="3"/>' for x, y in places
            ]
    return _svg(label, _HEIGHT, frame.drawn + "".join(drawn))


def _rule(frame: _Frame, rule: Rule) -> str:
    x, bottom = frame.x(rule.x), _HEIGHT - _BOTTOM
    flag = (
        f"M{x:.1f} {_TOP}l7 4l-7 4z" if rule.style == "stop" else ""
    )  # told apart without colours too
    return f'<path class="rule {rule.style}" d="M{x:.1f} {_TOP}V{bottom}{flag}"/>'


def histogram_chart(
    label: str, steps: Sequence[Steps], x_label: str, rules: Sequence[Rule] = ()
) -> Markup:
    """Draw outlines of histograms over one another; heights are shares of their texts."""
    highest = max(height for one in steps for height in one.heights)
    first = min(one.edges[0] for one in steps)
    last = max([one.edges[-1] for one in steps] + [rule.x for rule in rules])
    frame = _frame(first, last, ticks(0.0, highest or 1.0), x_label, _percent)
    drawn = []
    for one in steps:
        path = f"M{frame.x(one.edges[0]):.1f} {frame.y(0):.1f}"
        for (left, right), height in zip(itertools.pairwise(one.edges), one.heights, strict=True):
            path += f"L{frame.x(left):.1f} {frame.y(height):.1f}H{frame.x(right):.1f}"
        drawn.append(f'<path class="area {one.style}" d="{path}V{frame.y(0):.1f}"/>')
    drawn += [_rule(frame, rule) for rule in rules]
    return _svg(label, _HEIGHT, frame.drawn + "".join(drawn))


def span_chart(label: str, spans: Sequence[Span]) -> Markup:
    """Draw each value as a dot on its interval, from 0 on; the value is written beside it."""
    scale = ticks(0.0, max(max(one.high, one.mean) for one in spans))
    left, right = 4, _WIDTH - 56
    height = _ROW * len(spans) + 22

    def x(value: float) -> float:
        return left + (right - left) * value / scale[-1]

    drawn = [
        f'<path class="grid" d="M{x(value):.1f} 4V{height - 18}"/>'
        f'<text x="{x(value):.1f}" y="{height - 4}" text-anchor="middle">{short(value)}</text>'
        for value in scale
    ]
    for number, one in enumerate(spans):
        top = _ROW * number
        y = top + 28
        name = one.label
        if len(name) > _LABEL:
            half = (_LABEL - len(" … ")) // 2
            name = f"{name[:half]} … {name[-half:]}"
        drawn.append(
            f'<text class="name" x="{left + 2}" y="{top + 16}">{Markup.escape(name)}</text>'
            f'<path class="bar {one.style}" d="M{left} {y}H{x(one.mean):.1f}"/>'
            f'<path class="whisker {one.style}" d="M{x(one.low):.1f} {y}H{x(one.high):.1f}"/>'
            f'<circle class="dot {one.style}" cx="{x(one.mean):.1f}" cy="{y}" r="4"/>'
            f'<text class="value" x="{_WIDTH}" y="{y + 4}" text-anchor="end">{one.mean:.2f}</text>'
        )
    return _svg(label, height, "".join(drawn))


def _percent(value: float) -> str:
    return f"{short(round(100 * value, 6))} %"


def _svg(label: str, height: int, drawn: str) -> Markup:
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        label, _WIDTH, height, Markup(drawn)
    )
