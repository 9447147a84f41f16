"""Write the report from the committed artifacts; nothing is computed anew."""

from __future__ import annotations

import logging

from pipeline.files import write_atomic
from pipeline.stage import Metrics, StageContext
from stages.report.card import model_card
from stages.report.charts import draw_charts
from stages.report.config import ReportConfig
from stages.report.console import console_text
from stages.report.facts import gather
from stages.report.page import HOW_TO_DRAW, render_page
from stages.report.wording import warm_start_updates

_logger = logging.getLogger(__name__)


def run(config: ReportConfig, context: StageContext) -> Metrics:
    """Write index.html (for people), README.md (a model card) and console.txt (last words of a run)."""
    facts = gather(context, config)
    context.stop.check()
    charts = draw_charts(facts.curve, warm_start_updates(facts))
    if charts is None:
        _logger.warning("%s", HOW_TO_DRAW)
    contents = {
        "index.html": render_page(facts, charts),
        "README.md": model_card(facts),
        "console.txt": console_text(facts),
    }
    context.stop.check()
    context.guard()
    for number, (name, text) in enumerate(contents.items(), 1):
        write_atomic(context.work / name, text)
        context.progress.update(number, len(contents), "file")
    return {
        "charts_drawn": len(charts or []),
        "examples": len(facts.examples),
        "page_bytes": len(contents["index.html"].encode("utf-8")),
    }
