"""`sumpipe doctor`: its options, what it prints, and its exit code."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from pipeline.artifact import RunDir
from pipeline.cli import AddCommand, AsJson, Overrides, Profile
from pipeline.distributed.profile import find_profile
from pipeline.distributed.rendezvous import launch_world
from pipeline.distributed.world import World, thread_count, visible_gpus
from pipeline.doctor.examination import OwnChecks, Report, Subject, examine
from pipeline.doctor.finding import Level, within
from pipeline.errors import EXIT_FAILED, PipelineError, for_people
from pipeline.recipe import resolve
from pipeline.stage import Execution, Recipe

_ANSWER_SECONDS = 30.0


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
            world, report = launch_world(), None
            with _ended_in_order(), _heard_by_first(world):
                processes = world.size if world.size > 1 else len(visible_gpus()) or 1
                execution = Execution(processes, thread_count(), find_profile(ds_config))
                root = None if run_dir is None else run_dir.absolute()
                source = recipe or (_recipe_in(root) if root else None)
                found = None if source is None else resolve(recipe_type, source, overrides or [])[0]
                subject = Subject(found, root, execution)
                report = examine(subject, own, world)
            if report is None:
                return
            _show(report, subject, as_json=as_json)
            if report.has_failure:
                raise typer.Exit(EXIT_FAILED)

    return add


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let TERM, which Slurm sends, and HUP of a lost terminal undo what was begun: folders, processes."""

    def leave(number: int, _: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    wanted = (signal.SIGTERM, signal.SIGHUP)
    before = {n: h for n in wanted if (h := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _heard_by_first(world: World) -> Iterator[None]:
    """Let a task that cannot take part say why, and leave as if all were well; rank 0 misses it and reports.

    With another exit code srun would end rank 0 before that (KillOnBadExit).
    """
    try:
        yield
    except (PipelineError, OSError) as error:
        shown = for_people(error)
        if world.is_first or shown is None:
            raise
        text = str(shown)
        who = "" if text.startswith("rank ") else f"rank {world.rank} on {socket.gethostname()}: "
        sys.stderr.write(f"sumpipe: {who}{text}\n")


def _recipe_in(root: Path) -> str | None:
    """Return the run's recipe; None if there is none, or no answer, which the check of the files tells."""
    recipe = RunDir(root).recipe
    try:
        return str(recipe) if within(_ANSWER_SECONDS, recipe.is_file) else None
    except TimeoutError:
        return None


def _show(report: Report, subject: Subject, *, as_json: bool) -> None:
    missing = [
        *([] if subject.run_dir else ["shared files and room (give --run-dir)"]),
        *([] if subject.recipe else ["what a recipe needs (give RECIPE)"]),
    ]
    if as_json:
        told = {
            "passed": not report.has_failure,
            "not_checked": missing,
            "findings": [finding._asdict() for finding in report.findings],
            "tasks": report.tasks,
        }
        print(json.dumps(told, indent=2))
        return
    for finding in report.findings:
        print(finding)
    counts = Counter(finding.level for finding in report.findings)
    print(", ".join(f"{counts[level]} {level}" for level in Level))
    if missing:
        print(f"Not checked: {'; '.join(missing)}.")
