"""The page: one HTML file without scripts or anything to be loaded from elsewhere."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from stages.report.charts import length_charts, rouge_charts, training_charts, training_words
from stages.report.copies import Piece, copied_pieces
from stages.report.cost import cost_list, stage_table, training_cost
from stages.report.examples import Example
from stages.report.facts import Facts
from stages.report.interruptions import Interruption
from stages.report.origin import launch_table, version_table
from stages.report.outcome import outcome, weights_in_short, weights_nll
from stages.report.story import advice, comparability, leak_words, missing, what_was_run
from stages.report.tables import (
    bertscore_words,
    flow_table,
    lengths_table,
    measures_table,
    parts_table,
    rouge_table,
    settings_list,
)
from stages.report.wording import (
    ROUGE_LABELS,
    interval,
    percent,
    perl_beside,
    profile_words,
    published,
    title,
)

DOCUMENT_CHARS = 4000
"""Characters of a document, a reference or a prediction that the page shows."""
_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    **{code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)},  # halves of a pair have no UTF-8
}
"""What control characters are shown as; raw ones are invisible, and no HTML."""
_GROUPS = {
    "best": "Best by ROUGE",
    "worst": "Worst by ROUGE",
    "random": "Drawn at random",
}
_STOPS = {"eos": "", "length": "ended by the length limit", "empty": "of an empty document"}
"""How a summary ended; one that failed says why itself."""
_GLIMPSE = 90


class Tile(NamedTuple):
    """A figure to be seen first."""

    label: str
    value: str
    beside: list[str]


class Shown(NamedTuple):
    """An example as it is shown: texts in pieces, those copied from the document marked."""

    id: str
    scores: str
    glimpse: str
    """The beginning of the prediction."""
    stop: str
    """How it ended, in words; empty for an end of its own."""
    prediction: list[Piece]
    reference: list[Piece]
    document: list[Piece]
    """Pieces that the prediction has are marked."""
    cuts: dict[str, str]
    """By the names of texts that are not shown to their end, what of them is, in words."""


def render_page(facts: Facts) -> str:
    """Return the page's HTML; sections without facts say so."""
    scored: dict[str, Any] = _scored(facts) if facts.rouge else {}
    return render(
        "page.html.j2",
        title=title(facts),
        story=what_was_run(facts),
        missing=missing(facts),
        gone=facts.gone,
        language=facts.card.language,
        tiles=_tiles(facts),
        split=facts.split,
        scored=scored,
        curves=training_charts(facts),
        measured=training_words(facts) if facts.curve else "",
        outcome=outcome(facts),
        stops=_stops(facts),
        data_words=_data_words(facts),
        flow=flow_table(facts) if "fetch" in facts.inputs else None,
        lengths=lengths_table(facts) if facts.lengths else None,
        length_charts=length_charts(facts),
        groups=_groups(facts),
        cost=cost_list(facts),
        stages=stage_table(facts),
        settings=settings_list(facts),
        launches=launch_table(facts),
        versions=version_table(facts),
    )


def render(template: str, **values: object) -> str:
    """Fill in a template of this folder; what is put in is escaped unless it is Markup.

    Control characters of the texts become visible ones; the templates have none but line breaks.
    """
    environment = Environment(
        loader=PackageLoader("stages.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values).translate(_VISIBLE)


def _scored(facts: Facts) -> dict[str, Any]:
    rouge, headline = facts.rouge, facts.rouge["profile"]
    names = [headline, *(name for name in rouge["profiles"] if name != headline)]
    return {
        "rows": rouge["rows"],
        "exact_match": percent(rouge["exact_match"]),
        "interval": rouge["profiles"][headline]["settings"]["interval"],
        "headline": headline,
        "charts": rouge_charts(facts),
        "profiles": [
            {
                "name": name,
                "glimpse": _glimpse(facts, name),
                "words": profile_words(rouge["profiles"][name]["settings"]),
                "table": rouge_table(facts, name, with_intervals=True),
                "parts": parts_table(facts, name),
            }
            for name in names
        ],
        "measures": measures_table(facts) if rouge.get("measures") else None,
        "bertscore": bertscore_words(facts),
        "warnings": [*rouge["warnings"], *leak_words(facts)],
        "notes": [*comparability(facts), *advice(facts)],
    }


def _glimpse(facts: Facts, name: str) -> str:
    """Return what a profile gives the model, in a line."""
    model = facts.rouge["profiles"][name]["systems"]["model"]
    return _in_a_line({kind: model[kind]["fmeasure"]["mean"] for kind in facts.headline_types})


def _in_a_line(scores: Mapping[str, float]) -> str:
    return "  ".join(
        f"{ROUGE_LABELS[kind].replace('ROUGE-', 'R-')}\N{NO-BREAK SPACE}{percent(f)}"
        for kind, f in scores.items()
    )


def _tiles(facts: Facts) -> list[Tile]:
    tiles = []
    if facts.rouge:
        model = facts.rouge["profiles"][facts.rouge["profile"]]["systems"]["model"]
        for kind in facts.headline_types:
            figure = model[kind]["fmeasure"]
            quoted = getattr(published(facts), kind, None)
            beside = [interval(figure, 100)] if facts.rouge["rows"] > 1 else []
            if quoted is not None:
                beside += _as_papers(facts, kind)
                beside.append(f"published: {quoted:.2f}")
            tiles.append(Tile(ROUGE_LABELS[kind], percent(figure["mean"]), beside))
    tiles += _nll_tile(facts)
    if facts.curve and training_cost(facts).device_hours is not None:
        tiles.append(Tile(*cost_list(facts)[0], ["of training"]))
    return tiles


def _as_papers(facts: Facts, kind: str) -> list[str]:
    """Return the figure that compares with a paper's, where it is there and is not the headline's."""
    if not (beside := perl_beside(facts)):
        return []
    model = facts.rouge["profiles"][beside]["systems"]["model"]
    return [f"{beside}: {percent(model[kind]['fmeasure']['mean'])}"]


def _nll_tile(facts: Facts) -> list[Tile]:
    """Return the nll of the weights that were scored, or of the last ones where only theirs is known."""
    last, chosen = facts.metric("finetune", "valid_nll_nats_per_token"), weights_nll(facts)
    if chosen is not None and facts.metric("export", "updates") is not None:
        beside = ["nats per token,", weights_in_short(facts)]
        return [Tile("Validation nll", f"{chosen:.3f}", beside)]
    if last is None:
        return []
    return [Tile("Validation nll", f"{last:.3f}", ["nats per token,", "after the last update"])]


def _data_words(facts: Facts) -> list[tuple[str, str]]:
    """Return what is known of the right to use the data."""
    if "fetch" not in facts.inputs:
        return []
    return [
        ("Licence of the data", str(facts.metric("fetch", "licence") or "not known")),
        ("To be cited as", str(facts.metric("fetch", "citation") or "not known")),
    ]


def _stops(facts: Facts) -> list[str]:
    """Tell each interruption of the training."""
    return [
        f"Update {one.update:,}: training "
        + ("went on from here" if one.update else "started over, without a checkpoint,")
        + f" at {_clock(one.resumed)}, after {_end(one)}"
        + (f". The log had last been written at {_clock(one.last_seen)}." if one.last_seen else ".")
        for one in facts.interruptions
    ]


def _end(one: Interruption) -> str:
    """Say how the launch before an interruption ended."""
    if one.reason:
        return f"a stop by {one.reason}"
    return f"an error ({one.error})" if one.error else "an end without a word, as of a kill"


def _clock(stamp: str) -> str:
    """Return the time of a log for people, with its distance from UTC."""
    offset = stamp[19:]
    return f"{stamp[:19].replace('T', ' ')} {'UTC' if offset == '+0000' else offset}".strip()


def _groups(facts: Facts) -> list[tuple[str, list[Shown]]]:
    groups = itertools.groupby(facts.examples, key=operator.attrgetter("kind"))
    return [(_GROUPS[kind], [shown(one) for one in found]) for kind, found in groups]


def shown(example: Example) -> Shown:
    """Cut an example into pieces; texts end at `DOCUMENT_CHARS`."""
    texts = {name: head(getattr(example, name)) for name in ("prediction", "reference", "document")}
    glimpse = " ".join(texts["prediction"][0].split())
    return Shown(
        example.id,
        _in_a_line(example.scores),
        glimpse if len(glimpse) <= _GLIMPSE else f"{glimpse[:_GLIMPSE].rsplit(' ', 1)[0]} …",
        _STOPS.get(example.stop, example.stop),
        copied_pieces(texts["prediction"][0], example.document),
        copied_pieces(texts["reference"][0], example.document),
        copied_pieces(texts["document"][0], example.prediction),
        {name: cut for name, (_, cut) in texts.items() if cut},
    )


def head(text: str) -> tuple[str, str]:
    """Return a text to at most `DOCUMENT_CHARS`, at a blank if one is near, and how much that is in words."""
    if len(text) <= DOCUMENT_CHARS:
        return text, ""
    found = text[:DOCUMENT_CHARS]
    found = found.rpartition(" ")[0] if " " in found[-80:] else found
    return found, f"the first {len(found):,} of {len(text):,} characters"
