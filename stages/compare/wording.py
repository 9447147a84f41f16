"""Figures and metrics as people read them."""

from __future__ import annotations

from stages.metrics import amount, metric_of

__all__ = ["PARTS", "amount", "metric_of", "p_text"]

PARTS = {"precision": "precision", "recall": "recall", "fmeasure": "F"}


def p_text(p: float | None) -> str:
    """Return a p value for people; `-` for none."""
    return "-" if p is None else f"{p:.4f}"
