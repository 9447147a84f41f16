"""What ROUGE and the measures beside it are called, and how their figures are shown: everywhere the same."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric is shown."""

    label: str
    scale: int
    """Times which it is shown."""
    decimals: int


_SHARE = (100, 2)
_RATIO = (1, 3)
METRICS = {
    "rouge1": Metric("ROUGE-1", *_SHARE),
    "rouge2": Metric("ROUGE-2", *_SHARE),
    "rougeL": Metric("ROUGE-L", *_SHARE),
    "rougeLsum": Metric("ROUGE-Lsum", *_SHARE),
    "length_ratio": Metric("length ratio", *_RATIO),
    "novel_1gram": Metric("novel words, %", *_SHARE),
    "novel_2gram": Metric("novel bigrams, %", *_SHARE),
    "novel_3gram": Metric("novel trigrams, %", *_SHARE),
    "novel_4gram": Metric("novel 4-grams, %", *_SHARE),
    "coverage": Metric("coverage, %", *_SHARE),
    "density": Metric("density, words", *_RATIO),
    "compression": Metric("compression", *_RATIO),
    "repetition": Metric("repeated trigrams, %", *_SHARE),
    "stopped_by_length": Metric("stopped by length, %", *_SHARE),
    "bertscore_precision": Metric("BERTScore precision", *_SHARE),
    "bertscore_recall": Metric("BERTScore recall", *_SHARE),
    "bertscore_f": Metric("BERTScore F", *_SHARE),
}


def metric_of(name: str) -> Metric:
    """Return how a metric is shown; one that is not known is shown as it is."""
    return METRICS.get(name, Metric(name, *_RATIO))


def amount(name: str, value: float | None, *, signed: bool = False) -> str:
    """Return a value of a metric for people; `-` for none."""
    if value is None:
        return "-"
    metric = metric_of(name)
    return f"{metric.scale * value:{'+' if signed else ''}.{metric.decimals}f}"
