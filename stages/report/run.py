"""Write the report from the committed artifacts; nothing is computed anew."""

from __future__ import annotations

from pipeline.artifact import RunDir
from pipeline.files import write_atomic
from pipeline.stage import Metrics, StageContext
from stages.report.card import model_card
from stages.report.config import ReportConfig
from stages.report.console import console_text
from stages.report.facts import gather
from stages.report.page import render_page

_KEPT = "report keeps nothing of it and begins anew"


def run(config: ReportConfig, context: StageContext) -> Metrics:
    """Write index.html (for people), README.md (a model card) and console.txt (last words of a run)."""
    run_dir = RunDir(context.work.parent)
    facts = gather(context.recipe_name, context.seed, run_dir, context.inputs, config)
    context.stop.check(_KEPT)
    contents = {
        "index.html": render_page(facts),
        "README.md": model_card(facts),
        "console.txt": console_text(facts),
    }
    context.stop.check(_KEPT)
    context.guard()
    for number, (name, text) in enumerate(contents.items(), 1):
        write_atomic(context.work / name, text)
        context.progress.update(number, len(contents), "file")
    return {
        "examples": len(facts.examples),
        "page_bytes": len(contents["index.html"].encode("utf-8")),
    }
