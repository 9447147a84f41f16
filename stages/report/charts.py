"""Which charts the page has, and what each of them says in words and in figures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from pipeline.config import JSON
from stages.report.curve import Curve, points, thinned
from stages.report.facts import Facts
from stages.report.lengths import Counts, edges_for, histogram
from stages.report.svg import (
    Line,
    Rule,
    Span,
    Steps,
    histogram_chart,
    line_chart,
    short,
    span_chart,
)
from stages.report.tables import Table
from stages.report.wording import (
    ROUGE_LABELS,
    dropout_words,
    is_r3f,
    kl_unit,
    noise_words,
    perl_beside,
    published,
    several,
    survival_words,
    system_label,
    warm_start_updates,
)

_TABLE_ROWS = 12
_STYLES = ("s1", "s2", "s3")


class Chart(NamedTuple):
    """A chart with its words."""

    title: str
    unit: str
    svg: Markup
    legend: list[tuple[str, str]]
    """Style and label of what is drawn; empty for one line."""
    note: str
    table: Table
    """The figures, as far as a table can show them."""


class _Curves(NamedTuple):
    """What is drawn together: names in metrics.jsonl with their labels."""

    title: str
    unit: str
    names: Mapping[str, str]
    from_zero: bool = True
    as_percent: bool = False
    dotted: tuple[str, ...] = ()
    """Measured now and then."""


_KL = "R3F symmetric KL"
_TRAINING = (
    _Curves(
        "Negative log-likelihood",
        "nats per target token",
        {"nll": "training", "valid/nll": "validation"},
        from_zero=False,
        dotted=("valid/nll",),
    ),
    _Curves(
        _KL,
        "before lambda",
        {"r3f/kl": "between both passes", "r3f/kl_same_dropout": "with equal dropout masks"},
        dotted=("r3f/kl_same_dropout",),
    ),
    _Curves(
        "Noise survival",
        "share of entries that the noise still changes",
        {
            "r3f/noise_survival_embedding": "at the embedding's LayerNorm",
            "r3f/noise_survival_residual": "at the first layer",
            "r3f/noise_survival_compute": "as its first matrix product sees them",
        },
        as_percent=True,
    ),
    _Curves("Learning rate", "of each update, as scheduled", {"lr": "learning rate"}),
    _Curves("Throughput", "source and target tokens a second", {"tokens_per_second": "throughput"}),
    _Curves("Gradient norm", "before clipping", {"gradient_norm": "gradient norm"}),
)


def training_charts(facts: Facts) -> list[Chart]:
    """Return the learning curves that have something to show."""
    rules = [
        *(Rule("stop", one.update) for one in facts.interruptions),
        *([Rule("warm", warm_start_updates(facts))] if warm_start_updates(facts) else []),
    ]
    marked = {"stop": "interruption", "warm": "end of the warm start"}
    legend = [(style, marked[style]) for style in dict.fromkeys(rule.style for rule in rules)]
    # Older trainings without R3F have recorded a KL of 0 that nobody measured.
    known = (
        [_with_unit(facts, one) for one in _TRAINING if one.title != _KL or is_r3f(facts)]
        if facts.curve
        else []
    )
    drawn = [one for one in known if any(points(facts.curve, name) for name in one.names)]
    return [
        _curves_chart(facts, one, rules, [] if number else legend)
        for number, one in enumerate(drawn)
    ]


def _with_unit(facts: Facts, curves: _Curves) -> _Curves:
    return curves._replace(unit=kl_unit(facts)) if curves.title == _KL else curves


def _curves_chart(
    facts: Facts, curves: _Curves, rules: Sequence[Rule], marked: list[tuple[str, str]]
) -> Chart:
    names = [name for name in curves.names if points(facts.curve, name)]
    styles = {name: _STYLES[list(curves.names).index(name)] for name in names}
    lines = [
        Line(styles[name], thinned(points(facts.curve, name)), name in curves.dotted)
        for name in names
    ]
    labels = {name: curves.names[name] for name in names}
    if "nll" in labels:
        labels["nll"] += f", {dropout_words(facts)}"
    svg = line_chart(
        f"{curves.title}, {curves.unit}: {', '.join(labels.values())} over updates",
        lines,
        rules=rules,
        from_zero=curves.from_zero,
        as_percent=curves.as_percent,
    )
    legend = [(styles[name], label) for name, label in labels.items()] if len(names) > 1 else []
    note = _kl_note(facts) if "r3f/kl" in names else ""
    lost = sum(name in record and record[name] is None for record in facts.curve for name in names)
    if lost:
        verb = "was not finite and is" if lost == 1 else "were not finite and are"
        note = f"{note} {several(lost, 'value')} {verb} left out.".strip()
    return Chart(
        curves.title, curves.unit, svg, [*legend, *marked], note, _table(facts.curve, labels)
    )


def training_words(facts: Facts) -> str:
    """Say of which pass the values of the training are."""
    clean = ""
    if is_r3f(facts):
        noise = facts.settings("finetune")["r3f"]["noise"]
        clean = (
            "of the first of both passes, " if noise == "none" else "of the pass without noise, "
        )
    return (
        f"Training nll is measured while training, {clean}{dropout_words(facts)}; validation has neither "
        "noise nor dropout."
    )


def _kl_note(facts: Facts) -> str:
    r3f = facts.settings("finetune")["r3f"]
    noise = noise_words(facts).capitalize()
    told = f"{noise}; lambda {r3f['lambda']:g}, reduction {r3f['reduction']}."
    return f"{told} {survival_words(facts)}".strip()


def _table(curve: Curve, labels: Mapping[str, str]) -> Table:
    """Return a few records of each curve, its first and last among them; most rows are of the sparsest one.

    A training has many records for each of its validation, which so has as many rows as there is room for.
    """
    found = {name: dict(points(curve, name)) for name in labels}
    shown: set[float] = set()
    for values in sorted(found.values(), key=len):
        shown.update(_spread(list(values), max(2, _TABLE_ROWS - len(shown))))
    rows = [
        (
            f"{update:,.0f}",
            *(_cell(found[name].get(update)) for name in labels),
        )
        for update in sorted(shown)
    ]
    return Table(("Update", *labels.values()), rows)


def _spread(updates: Sequence[float], most: int) -> Sequence[float]:
    """Return at most `most` of them, at least 2, evenly spaced, the first and the last among them."""
    step = max(1, -(-(len(updates) - 1) // (most - 1)))
    return [*updates[:-1:step], *updates[-1:]]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def rouge_charts(facts: Facts) -> list[tuple[str, Markup]]:
    """Return a chart a ROUGE type of the headline: every system with its interval, and what is published."""
    profile = facts.rouge["profiles"][facts.rouge["profile"]]
    found = []
    for name in facts.headline_types:
        spans = []
        for system, figures in profile["systems"].items():
            label, style = system_label(facts, system), "s1" if system == "model" else "s0"
            spans.append(_span(label, style, figures[name]["fmeasure"]))
            quoted = getattr(published(facts), name, None)
            if system == "model" and quoted is not None:
                if beside := perl_beside(facts):  # most papers have figures of ROUGE-1.5.5
                    figures = facts.rouge["profiles"][beside]["systems"]["model"]
                    spans.append(_span(f"{label}, {beside}", "s1", figures[name]["fmeasure"]))
                spans.append(Span("Published", "s2", quoted, quoted, quoted))
        beside = ", with intervals" if facts.rouge["rows"] > 1 else ""
        label = f"{ROUGE_LABELS[name]} F x 100 of each system{beside}; the table has the figures"
        found.append((ROUGE_LABELS[name], span_chart(label, spans)))
    return found


def _span(label: str, style: str, figure: JSON) -> Span:
    low, mean, high = (100 * figure[key] for key in ("low", "mean", "high"))
    return Span(label, style, low, mean, high)


def length_charts(facts: Facts) -> list[Chart]:
    """Return how long documents and summaries are, and how much is cut off where anything is."""
    if not facts.lengths:
        return []
    encode, split = facts.settings("encode"), facts.split
    sources = {
        f"{one} documents": facts.lengths[one]["source"].whole
        for one in dict.fromkeys(("train", split))
    }
    targets = {
        f"{one} references": facts.lengths[one]["target"].whole
        for one in dict.fromkeys(("train", split))
    }
    if facts.generated is not None:
        targets["generated summaries"] = facts.generated.tokens
    charts = [
        _lengths_chart("Length of documents", sources, encode["max_source_tokens"]),
        _lengths_chart("Length of summaries", targets, encode["max_target_tokens"], _ends(facts)),
    ]
    lost = {
        name: lengths.lost[lengths.lost > 0]
        for name, lengths in ((one, facts.lengths[one]["source"]) for one in ("train", split))
        if (lengths.lost > 0).any()
    }
    if lost:
        named = {f"{one} documents that were cut": counts for one, counts in lost.items()}
        charts.append(_lengths_chart("What was cut off", named, None))
    return charts


def _ends(facts: Facts) -> str:
    """Say where generated summaries end, as the limit of the references is not theirs."""
    if facts.generated is None or not (generate := facts.settings("generate")):
        return ""
    return (
        f"The limit is that of references; generated ones end at {generate['max_length']:,} tokens, the "
        "start token included (generate.max_length)."
    )


def _lengths_chart(
    title: str, sets: Mapping[str, Counts], limit: int | None, more: str = ""
) -> Chart:
    edges = edges_for(list(sets.values()))
    found = {name: histogram(lengths, edges) for name, lengths in sets.items()}
    steps = [
        Steps(style, one.edges, one.shares)
        for style, one in zip(_STYLES, found.values(), strict=False)
    ]
    is_limit_near = limit is not None and limit <= 1.3 * edges[-1]
    rules = [Rule("limit", float(limit))] if limit is not None and is_limit_near else []
    label = f"{title} in tokens: {', '.join(sets)}"
    legend = list(zip(_STYLES, sets, strict=False))
    if rules:
        legend.append(("limit", f"limit of {limit:,} tokens"))
    note = "The last bin has all longer ones too."
    if limit is not None and not rules:
        note += f" The limit, {limit:,} tokens, is further right."
    note = f"{note} {more}".strip()
    svg = histogram_chart(label, steps, "tokens", rules)
    bins = list(itertools.pairwise(edges))
    rows = [
        (
            f"{short(low)} to {short(high - 1)}"
            if (low, high) != bins[-1]
            else f"{short(low)} or more",
            *(f"{100 * one.shares[number]:.1f} %" for one in found.values()),
        )
        for number, (low, high) in enumerate(bins)
    ]
    return Chart(title, "share of texts", svg, legend, note, Table(("Tokens", *sets), rows))
