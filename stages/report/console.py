"""What the command line says at the end of a run."""

from __future__ import annotations

from stages.report.facts import Facts
from stages.report.tables import rouge_table
from stages.report.wording import ROUGE_LABELS, percent, several


def console_text(facts: Facts) -> str:
    """Return the results as plain aligned text, where they lie, and what can be done next.

    {run_dir} stands for the run directory, which may be moved: the command line fills it in.
    """
    table = rouge_table(facts)
    cells = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.header))]
    lines = [
        *(_aligned(row, widths) for row in cells),
        f"mean F x 100 over {several(facts.rouge['rows'], 'row')} of the {facts.split} split, "
        f"profile {facts.rouge['profile']}",
        *([f"95 % intervals: {_intervals(facts)}"] if facts.rouge["rows"] > 1 else []),
        f"exact match {percent(facts.rouge['exact_match'])} %",
        *(f"warning: {told}" for told in facts.rouge["warnings"]),
        "",
        "Report: {run_dir}/report/index.html",
        "Model:  {run_dir}/export/model",
        "Next:",
        "  sumpipe status {run_dir}",
        "  open the report in a browser; it is one file and needs no network",
        "  sumpipe summarize {run_dir} FILE",
    ]
    return "\n".join(lines) + "\n"


def _intervals(facts: Facts) -> str:
    model = facts.rouge["profiles"][facts.rouge["profile"]]["systems"]["model"]
    figures = ((ROUGE_LABELS[kind], model[kind]["fmeasure"]) for kind in facts.headline_types)
    return ", ".join(f"{label} {percent(f['low'])} to {percent(f['high'])}" for label, f in figures)


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    first, *rest = (
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
