"""`sumpipe compare`: its options, and the comparison printed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli import AsJson
from pipeline.log import print_table

if TYPE_CHECKING:
    from stages.compare.comparison import Comparison

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="DIR...",
        help="Scored runs, or folders that `sumpipe score --out` wrote; the first is compared with.",
    ),
]
Systems = Annotated[
    list[str] | None,
    typer.Option(
        "--system",
        help="Which system; default model. Given twice, two systems of one run are compared.",
    ),
]
Profile = Annotated[
    str | None, typer.Option("--profile", help="Of ROUGE; default the first run's headline.")
]
PartOf = Annotated[
    Literal["precision", "recall", "fmeasure"], typer.Option("--part", help="Of ROUGE.")
]
By = Annotated[str, typer.Option("--by", help="Metric by which rows are said to have moved.")]
Seeds = Annotated[
    bool | None,
    typer.Option(
        "--seeds/--pairs",
        help="Spread over runs, or tests of pairs; default the spread if only the seed differs.",
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Of the draws of differences and permutations.")
]


def add_compare(app: typer.Typer) -> None:
    """Add the command to the project's command line."""

    @app.command("compare")
    def compare_command(
        runs: Runs,
        system: Systems = None,
        profile: Profile = None,
        part: PartOf = "fmeasure",
        by: By = "rouge1",
        seeds: Seeds = None,
        seed: Seed = 1,
        as_json: AsJson = False,
    ) -> None:
        """Compare scores: differences with intervals and p values, and the rows that moved most."""
        from stages.compare.folders import compare_folders

        found = compare_folders(
            runs,
            systems=system or (),
            profile=profile,
            part=part,
            moved_by=by,
            as_seeds=seeds,
            seed=seed,
        )
        if as_json:
            print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        else:
            show(found)


def show(found: Comparison) -> None:
    """Print a comparison for people."""
    from stages.compare.tables import (
        heading,
        moved_lines,
        pair_table,
        spread_table,
        system_table,
    )
    from stages.compare.wording import metric_of

    print(heading(found))
    print()
    print_table(*system_table(found))
    for pair in found.pairs:
        print()
        print(f"{pair.first} -> {pair.second}")
        for line in pair.settings:
            print(f"  {line}")
        print_table(*pair_table(pair))
        if pair.moved:
            print()
            print(f"Rows that moved most in {metric_of(found.moved_by).label}:")
        for moved in pair.moved:
            print("\n".join(moved_lines(moved, found.moved_by)))
    if found.spreads:
        print()
        print_table(*spread_table(found))
    if found.pairs and found.rows > 1:
        print()
        print(
            f"interval: {found.method['interval']}, {found.method['resamples']:,} draws; p: "
            f"{found.method['test']}, {found.method['permutations']:,} permutations; "
            f"{found.method['correction']}"
        )
    if found.notes:
        print()
        print("\n".join(found.notes))
