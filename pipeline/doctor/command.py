"""`sumpipe doctor`: its options, what it prints, and its exit code."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pipeline.artifact import RunDir
from pipeline.cli import AddCommand, AsJson, Overrides, Profile
from pipeline.distributed.profile import find_profile
from pipeline.distributed.rendezvous import launch_world
from pipeline.distributed.world import thread_count, visible_gpus
from pipeline.doctor.examination import OwnChecks, Report, Subject, examine
from pipeline.doctor.finding import Level
from pipeline.errors import EXIT_FAILED
from pipeline.recipe import resolve
from pipeline.stage import Execution, Recipe


def doctor_command(recipe_type: type[Recipe], own: OwnChecks) -> AddCommand:
    """Return what adds the command for a project's recipes and checks."""

    def add(app: typer.Typer) -> None:
        @app.command("doctor")
        def doctor(
            recipe: Annotated[
                str | None,
                typer.Argument(
                    metavar="RECIPE", help="A packaged name or a path; default the run's."
                ),
            ] = None,
            run_dir: Annotated[
                Path | None, typer.Option("--run-dir", help="Where the run lives, or will.")
            ] = None,
            overrides: Overrides = None,
            ds_config: Profile = "zero2",
            as_json: AsJson = False,
        ) -> None:
            """Check this machine, or all tasks of an allocation: `srun sumpipe doctor --run-dir DIR`."""
            world = launch_world()
            processes = world.size if world.size > 1 else len(visible_gpus()) or 1
            execution = Execution(processes, thread_count(), find_profile(ds_config))
            place = None if run_dir is None else RunDir(run_dir.resolve())
            source = recipe
            if source is None and place is not None and place.recipe.is_file():
                source = str(place.recipe)
            found = None if source is None else resolve(recipe_type, source, overrides or [])[0]
            subject = Subject(found, None if place is None else place.root, execution)
            report = examine(subject, own, world)
            if report is None:
                return
            _show(report, subject, as_json=as_json)
            if report.has_failure:
                raise typer.Exit(EXIT_FAILED)

    return add


def _show(report: Report, subject: Subject, *, as_json: bool) -> None:
    if as_json:
        findings = [finding._asdict() for finding in report.findings]
        print(json.dumps({"findings": findings, "tasks": report.tasks}, indent=2))
        return
    for finding in report.findings:
        print(finding)
    counts = Counter(finding.level for finding in report.findings)
    print(", ".join(f"{counts[level]} {level}" for level in Level))
    missing = [
        *([] if subject.run_dir else ["shared files and room (give --run-dir)"]),
        *([] if subject.recipe else ["what a recipe needs (give RECIPE)"]),
    ]
    if missing:
        print(f"Not checked: {'; '.join(missing)}.")
