"""Curves of the fine-tuning as SVG to be put inside a page; matplotlib is optional."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Curve = Sequence[dict[str, float | None]]

_INK = "#010203"
"""Stands for the text colour of the page, which matplotlib cannot know."""
_TRAIN, _PLAIN, _VALID = "#3b82c4", "#8fa3b8", "#d9822b"
_STYLE = {
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


class Chart(NamedTuple):
    """A chart with the words that stand for it where it cannot be seen."""

    svg: str
    label: str


def draw_charts(curve: Curve, warm_start_updates: int) -> list[Chart] | None:
    """Draw the loss curve and the R3F curve; None if matplotlib is not installed.

    Args:
        curve: Records of metrics.jsonl.
        warm_start_updates: Updates on another task before the real one; marked where it ends.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    return [_loss_chart(curve, warm_start_updates), _kl_chart(curve, warm_start_updates)]


def _loss_chart(curve: Curve, warm_start: int) -> Chart:
    def paint(axes: Any) -> None:
        _line(axes, curve, "loss", "training loss", _TRAIN)
        _line(axes, curve, "nll", "training nll", _PLAIN)
        _line(axes, curve, "valid/nll", "validation nll", _VALID, marker="o")
        axes.set_ylabel("nats per target token")
        _finish(axes, warm_start)

    label = "Training loss, training nll and validation nll over updates"
    return Chart(_svg("loss", paint, 3.4, label), label)


def _kl_chart(curve: Curve, warm_start: int) -> Chart:
    def paint(axes: Any) -> None:
        _line(axes, curve, "r3f/kl", "R3F symmetric KL", _TRAIN)
        axes.set_ylabel("nats")
        axes.set_ylim(bottom=0)
        _finish(axes, warm_start)

    label = "R3F symmetric KL over updates"
    return Chart(_svg("kl", paint, 2.2, label), label)


def points(curve: Curve, name: str) -> tuple[list[float], list[float]]:
    """Return updates and values of the records that have a value by this name."""
    pairs = [(record["update"], record[name]) for record in curve if record.get(name) is not None]
    return [float(x or 0) for x, _ in pairs], [float(y or 0) for _, y in pairs]


def _line(axes: Any, curve: Curve, name: str, label: str, color: str, marker: str = "") -> None:
    updates, values = points(curve, name)
    is_dot = len(updates) < 2  # no line goes through one point
    axes.plot(
        updates,
        values,
        color=color,
        label=label,
        linewidth=1.3,
        marker=marker or ("." if is_dot else None),
        markersize=4,
    )


def _finish(axes: Any, warm_start: int) -> None:
    if warm_start:
        axes.axvline(warm_start, color=_INK, linestyle=":", linewidth=1, label="warm start ends")
    axes.set_xlabel("update")
    axes.figure.legend(loc="outside upper left", ncols=4)


def _svg(name: str, paint: Callable[[Any], None], height: float, label: str) -> str:
    """Draw one figure of 7 by `height` inches; the same curve gives the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"sumpipe-{name}"}):
        figure = Figure(figsize=(7, height), layout="constrained")
        paint(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline(file.getvalue(), name, label)


def _inline(svg: str, name: str, label: str) -> str:
    """Turn an SVG file into an element of a page: no namespaces, own ids, the page's text colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(_INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
