"""`sumpipe report`: the page of a run, also of one that is not finished, or of several runs side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.artifact import RunDir, require_run_dir
from pipeline.errors import ConfigError
from pipeline.files import write_atomic
from stages.names import require_text
from stages.report.config import read_recipe

if TYPE_CHECKING:
    from markupsafe import Markup

    from stages.compare.comparison import Comparison, Figure
    from stages.compare.tables import Table
    from stages.report.copies import Piece


def add_report(app: typer.Typer) -> None:
    """Add the command to the project's command line."""

    @app.command("report")
    def report_command(
        runs: Annotated[
            list[Path],
            typer.Argument(metavar="DIR...", help="A run directory; several are compared."),
        ],
        out: Annotated[
            Path, typer.Option("--out", "-o", help="The page; a file that is there is replaced.")
        ] = Path("report.html"),
    ) -> None:
        """Write one HTML page that tells of a run as far as it is, or compares several."""
        folder = Path(os.path.realpath(out)).parent
        require_text(out)
        if out.exists() and not out.is_file():  # a device, a pipe: never to be renamed over
            found = "is a folder" if out.is_dir() else "is no regular file"
            raise ConfigError(f"--out {out}: {found}; give the name of a file to write")
        if not folder.is_dir():
            raise ConfigError(f"--out {out}: there is no folder {folder}; make it first")
        if stage := next((above for above in (folder, *folder.parents) if _is_stage(above)), None):
            raise ConfigError(
                f"--out {out}: is in {stage}, which a stage of a run has written and which stays as it is; "
                "give another place"
            )
        page = run_page(runs[0]) if len(runs) == 1 else _compared(runs)
        write_atomic(Path(os.path.realpath(out)), page)  # a link stays, what it leads to is written
        print(f"{out}: {len(page.encode('utf-8')) / 1e3:,.0f} kB; open it in a browser")


def _is_stage(folder: Path) -> bool:
    """Whether a folder is a stage of a run, finished or in work."""
    return (folder / "payload.json").is_file() and (folder.parent / "recipe.yaml").is_file()


def run_page(root: Path) -> str:
    """Return the page of what a run directory has so far.

    Raises:
        PipelineError: If it is no run directory, its name is not UTF-8, or what is committed cannot be read.
    """
    from stages.report.facts import STAGES, gather
    from stages.report.page import render_page

    require_text(root)
    run_dir = require_run_dir(root)
    recipe = read_recipe(run_dir.recipe)
    found = {stage: run_dir.artifact(stage) for stage in STAGES}
    inputs = {stage: artifact for stage, artifact in found.items() if artifact is not None}
    return render_page(gather(recipe.name, recipe.seed, run_dir, inputs, recipe.report))


def _compared(roots: Sequence[Path]) -> str:
    from stages.compare.folders import compare_folders

    return comparison_page(compare_folders(roots), _published_l(roots), language=_language(roots))


def _published_l(roots: Sequence[Path]) -> str | None:
    """Return which ROUGE-L is published of the runs' set: by report.expected, else by the catalogue."""
    from stages.report.facts import published_l

    runs = [one for one in map(RunDir, roots) if one.recipe.is_file()]
    asked = [published_l(read_recipe(run_dir.recipe).report.expected) for run_dir in runs]
    found = (run_dir.artifact("fetch") for run_dir in runs)
    known = [one.manifest.metrics.get("rouge_l") for one in found if one is not None]
    return next((str(one) for one in [*asked, *known] if one), None)


def _with_corner(table: Table) -> Table:
    """Give the first column, empty on a console, its name."""
    return table._replace(header=("Metric", *table.header[1:]))


def _named(table: Table, first: str, second: str) -> Table:
    """Give the columns of a pair the names of its systems."""
    return table._replace(header=("Metric", first, second, *table.header[3:]))


def _marked(text: str | None, other: str | None) -> tuple[list[Piece], str]:
    """Return a text in pieces, those that the other has too marked, and how it is cut in words."""
    from stages.report.copies import copied_pieces
    from stages.report.page import head

    shown, cut = head(text or "")
    return copied_pieces(shown, other or ""), cut


def _charts(found: Comparison, headline_l: str | None) -> list[tuple[str, Markup]]:
    """Return a chart a ROUGE type: each system's mean with its interval."""
    from stages.compare.wording import metric_of
    from stages.report.svg import Span, span_chart

    charts = []
    shown_l = headline_l or found.settings.get("headline_l", "rougeLsum")
    beside = ", with intervals" if found.rows > 1 else ""
    for metric in ("rouge1", "rouge2", shown_l):
        figures = [(one.name, one.figures[metric]) for one in found.systems]
        spans = [
            Span(name, "s0" if number == 0 else "s1", *(100 * x for x in _bounds(figure)))
            for number, (name, figure) in enumerate(figures)
        ]
        label = f"{metric_of(metric).label} x 100 of each system{beside}"
        charts.append((metric_of(metric).label, span_chart(label, spans)))
    return charts


def _bounds(figure: Figure) -> tuple[float, float, float]:
    """Return low, mean and high; a single row has the mean only."""
    if figure.low is None or figure.high is None:
        return figure.mean, figure.mean, figure.mean
    return figure.low, figure.mean, figure.high


def _language(roots: Sequence[Path]) -> str | None:
    """Return the language that the recipes of all runs name (report.card.language), if it is one."""
    runs = [one for one in map(RunDir, roots) if one.recipe.is_file()]
    named = {read_recipe(run_dir.recipe).report.card.language for run_dir in runs}
    return next(iter(named)) if len(named) == 1 else None


def comparison_page(
    found: Comparison, headline_l: str | None = None, *, language: str | None = None
) -> str:
    """Return the page of a comparison.

    Args:
        found: The comparison.
        headline_l: Which ROUGE-L has a chart; None for the profile's.
        language: Of the texts, by its ISO 639 code; None: unknown.
    """
    from stages.compare import tables
    from stages.compare.wording import amount, metric_of
    from stages.report.page import render
    from stages.report.story import profile_notes

    systems = tables.system_table(found)
    # The interval comes below its mean, as on the page of a run.
    means = [tuple(cell.replace(" (", "\n").rstrip(")") for cell in row) for row in systems.rows]
    return render(
        "comparison.html.j2",
        heading=tables.heading(found),
        rows=found.rows,
        charts=_charts(found, headline_l),
        systems=_with_corner(systems._replace(rows=means)),
        compares=profile_notes(found.profile, found.settings),
        pairs=[
            (pair, _named(tables.pair_table(pair), pair.first, pair.second)) for pair in found.pairs
        ],
        spread=_with_corner(tables.spread_table(found)) if found.spreads else None,
        method=found.method,
        notes=found.notes,
        marked=_marked,
        language=language,
        moved_by=metric_of(found.moved_by).label,
        figure=lambda value, **kind: amount(found.moved_by, value, **kind),
    )
