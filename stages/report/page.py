"""The page: one HTML file without scripts or anything to be loaded from elsewhere."""

from __future__ import annotations

from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stages.report.charts import Chart
from stages.report.facts import Facts, ShownExample
from stages.report.origin import launch_table, version_table
from stages.report.tables import rouge_table, row_table, settings_list
from stages.report.wording import (
    amount,
    dataset_words,
    is_r3f,
    model_words,
    percent,
    profile_words,
    survival_words,
    title,
    warm_start_updates,
)

DOCUMENT_CHARS = 1200
"""Characters of a document that the page shows."""
HOW_TO_DRAW = (
    "Curves are not drawn: matplotlib is not installed. "
    "Install it with pip install -e '.[report]', then run again with --restart-from report."
)


class Excerpt(NamedTuple):
    """An example as it is shown."""

    example: ShownExample
    document: str
    cut: str
    """What of the document is not shown, in words; empty if all is."""


def excerpt(example: ShownExample) -> Excerpt:
    """Cut an example's document at `DOCUMENT_CHARS`, at a blank if one is near, and say so."""
    document = example.document
    if len(document) <= DOCUMENT_CHARS:
        return Excerpt(example, document, "")
    head = document[:DOCUMENT_CHARS]
    at_blank = head.rsplit(maxsplit=1)[0] if " " in head[-80:] else head
    cut = f"cut here: the first {len(at_blank):,} of {len(document):,} characters"
    return Excerpt(example, at_blank, cut)


def render_page(facts: Facts, charts: list[Chart] | None) -> str:
    """Return the page's HTML.

    Args:
        facts: The run.
        charts: Loss curve and R3F curve; None to say how to get them.
    """
    environment = Environment(
        loader=PackageLoader("stages.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        title=title(facts),
        dataset=dataset_words(facts),
        model=model_words(facts),
        parameters=amount(facts.metric("export", "parameters")),
        split=facts.rouge["split"],
        rows=amount(facts.rouge["rows"]),
        exact_match=percent(facts.rouge["exact_match"]),
        profile=profile_words(facts.rouge["profile"]),
        rouge=rouge_table(facts),
        is_published=facts.expected is not None,
        charts=None if charts is None else [(Markup(svg), label) for svg, label in charts],
        how_to_draw=HOW_TO_DRAW,
        is_r3f=is_r3f(facts),
        r3f=facts.settings("finetune")["r3f"],
        survival=survival_words(facts),
        warm_start=warm_start_updates(facts),
        examples=[excerpt(example) for example in facts.examples],
        accounting=row_table(facts),
        settings=settings_list(facts),
        launches=launch_table(facts),
        versions=version_table(facts),
    )
