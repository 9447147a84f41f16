"""The command line: run, plan, status, config. Imports nothing heavy, so it answers at once."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from pipeline import lease
from pipeline.artifact import RunDir, new_or_own
from pipeline.config import JSON
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import (
    job_id,
    limit_threads,
    quiet_libraries,
    thread_count,
    visible_gpus,
)
from pipeline.errors import (
    EXIT_DONE,
    ConfigError,
    PipelineError,
    StaleArtifact,
    storage_error,
)
from pipeline.files import write_atomic
from pipeline.log import print_table, start_logging
from pipeline.planner import INPUT_STALE, Action, Decision, plan, select
from pipeline.preemption import StopFlag
from pipeline.provenance import utc_now
from pipeline.recipe import packaged_names, resolve
from pipeline.runner import HashCache, Session, refuse_stale, run_stage
from pipeline.stage import Execution, Recipe, Stage
from pipeline.status import run_state, show_state

_logger = logging.getLogger(__name__)
_file_only = logging.getLogger("run")

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A packaged name or a path.")]
RunPath = Annotated[Path, typer.Option("--run-dir", help="Where this run lives.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value; repeatable."),
]
_NOTHING_LEFT = "Everything is done; nothing was run."

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main(
    stages: Sequence[Stage], recipe_type: type[Recipe], *, rank_module: str, about: str
) -> int:
    """Run the command line and return the exit code: 0, 1, 2, 3 or 75 (see errors.py).

    Args:
        stages: The graph, in an order that respects inputs.
        recipe_type: The recipe with one section a stage.
        rank_module: The module that launchers start one rank with.
        about: What `--help` says first.
    """
    quiet_libraries()
    app = build_app(stages, recipe_type, rank_module, about)
    try:
        app()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_DONE
    except PipelineError as error:
        return _fail(error)
    except OSError as error:
        shown = storage_error(error)
        if shown is None:
            raise
        return _fail(shown)
    return EXIT_DONE


def _fail(error: PipelineError) -> int:
    _file_only.info("failed: %s", error)
    sys.stderr.write(f"sumpipe: {error}\n")
    return error.exit_code


def build_app(
    stages: Sequence[Stage], recipe_type: type[Recipe], rank_module: str, about: str
) -> typer.Typer:
    """Return the command line for a graph of stages and its recipe type."""
    app = typer.Typer(
        help=f"{about}: " + " -> ".join(stage.name for stage in stages),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.command("run")
    def run_command(
        recipe: RecipeName,
        run_dir: RunPath,
        overrides: Overrides = None,
        first: Annotated[str | None, typer.Option("--from", help="First stage to do.")] = None,
        last: Annotated[str | None, typer.Option("--to", help="Last stage to do.")] = None,
        only: Annotated[str | None, typer.Option("--only", help="The one stage to do.")] = None,
        restart_from: Annotated[
            str | None,
            typer.Option("--restart-from", help="Delete this stage and all after it, then run."),
        ] = None,
        processes: Annotated[
            int | None,
            typer.Option(
                "--processes", min=1, help="Processes; default the GPUs there are, else 1."
            ),
        ] = None,
        ds_config: Annotated[
            str, typer.Option("--ds-config", help="Sharding profile: a name or a path.")
        ] = "zero2",
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only say what would be done.")
        ] = False,
    ) -> None:
        """Do what is left of a run, and resume what was interrupted."""
        resolved, text = resolve(recipe_type, recipe, overrides or [])
        if only and (first or last):
            raise ConfigError("--only goes without --from and --to")
        selected = select(stages, only or first, only or last)
        redo = [stage.name for stage in select(stages, restart_from, None)] if restart_from else []
        execution = Execution(
            processes or len(visible_gpus()) or 1, thread_count(), find_profile(ds_config)
        )
        place = new_or_own(run_dir)
        hash_file = HashCache(place.hash_cache)
        look = functools.partial(plan, stages, resolved, place, hash_file, selected, redo)
        if dry_run:
            _show_plan(look())
            return
        _do(look, redo, place, hash_file, Request(resolved, text, execution, rank_module))

    @app.command("plan")
    def plan_command(
        recipe: RecipeName, run_dir: RunPath, overrides: Overrides = None, as_json: AsJson = False
    ) -> None:
        """Say what would run, and why."""
        resolved, _ = resolve(recipe_type, recipe, overrides or [])
        place = RunDir(run_dir.resolve())
        decisions = plan(stages, resolved, place, HashCache(place.hash_cache))
        if as_json:
            print(json.dumps([_as_json(decision) for decision in decisions], indent=2))
        else:
            _show_plan(decisions)

    @app.command("status")
    def status_command(
        run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
        as_json: AsJson = False,
        deep: Annotated[bool, typer.Option("--deep", help="Verify every checksum.")] = False,
    ) -> None:
        """Show state, progress and metrics of each stage."""
        state = run_state([stage.name for stage in stages], run_dir, deep=deep)
        if as_json:
            print(json.dumps(state, indent=2))
        else:
            show_state(state)
        if state["faults"]:
            raise typer.Exit(1)

    @app.command("config")
    def config_command(recipe: RecipeName, overrides: Overrides = None) -> None:
        """Print the resolved recipe: every default explicit, each value with its source."""
        print(resolve(recipe_type, recipe, overrides or [])[1], end="")

    config_command.__doc__ = f"{config_command.__doc__} Packaged: {', '.join(packaged_names())}."
    return app


class Request(NamedTuple):
    """What a `run` was asked for."""

    recipe: Recipe
    text: str
    """The resolved recipe as YAML."""
    execution: Execution
    rank_module: str


def _do(
    look: Callable[[], list[Decision]],
    redo: Sequence[str],
    place: RunDir,
    hash_file: HashCache,
    asked: Request,
) -> None:
    """Refuse what cannot be done before anything is touched, then do what is left."""
    decisions = _checked(look(), place)
    todo = [decision for decision in decisions if decision.action is not Action.SKIP]
    is_recorded = place.recipe.is_file() and place.recipe.read_text(encoding="utf-8") == asked.text
    if not todo and not redo and is_recorded:
        _show_end(decisions, place)
        print(_NOTHING_LEFT)
        return
    for decision in todo:
        if decision.stage.check is not None:
            decision.stage.check(getattr(asked.recipe, decision.stage.name), asked.execution)
    for stage in redo:
        place.require_removable(stage)
    place.root.mkdir(parents=True, exist_ok=True)
    limit_threads(asked.execution.threads)
    stop = StopFlag()
    stop.listen()
    with lease.hold(place, job_id()) as token:
        log_name = f"{utc_now().replace(':', '')}-{os.getpid()}.log"
        start_logging(place.logs("run") / log_name, console=True)
        place.sweep()
        for stage in reversed(redo):
            _logger.info("%-8s is removed, as --restart-from asks", stage)
            place.remove(stage)
        write_atomic(place.recipe, asked.text)
        hash_file.save()
        session = Session(asked.recipe, place, asked.execution, stop, token, asked.rank_module)
        _run(_checked(look(), place), session)  # looked at again: nobody else can change it now
    _show_end(decisions, place)
    if not todo and not redo:
        print(_NOTHING_LEFT)


def _checked(decisions: list[Decision], run_dir: RunDir) -> list[Decision]:
    """Return a plan that can be carried out, or raise what stands in its way."""
    refuse_stale(decisions, run_dir)
    for decision in decisions:
        if decision.action is Action.BLOCKED:
            name, reason = decision.stage.name, decision.reason
            if reason.startswith(INPUT_STALE):
                source = reason.removeprefix(INPUT_STALE).split(":")[0]
                raise StaleArtifact(f"{name}: {reason}; redo it with --restart-from {source}")
            raise ConfigError(f"{name}: {reason}; run without --from and --only")
    return decisions


def _run(decisions: Sequence[Decision], session: Session) -> None:
    for decision in decisions:
        if decision.action is Action.SKIP:
            _logger.info("%-8s skips: %s", decision.stage.name, decision.reason)
        else:
            run_stage(decision, session)


def _show_plan(decisions: Sequence[Decision]) -> None:
    rows = [(item.stage.name, item.action.value, item.reason) for item in decisions]
    print_table(("stage", "action", "why"), rows)


def _as_json(decision: Decision) -> JSON:
    return {
        "stage": decision.stage.name,
        "action": decision.action.value,
        "why": decision.reason,
        "fingerprint": decision.fingerprint,
    }


def _show_end(decisions: Sequence[Decision], run_dir: RunDir) -> None:
    """Print the last stage's console.txt, if it left one; {run_dir} stands for where the run is now."""
    artifact = run_dir.artifact(decisions[-1].stage.name)
    if artifact is not None and "console.txt" in artifact.manifest.files:
        text = artifact.file("console.txt").read_text(encoding="utf-8")
        print(text.replace("{run_dir}", str(run_dir.root)), end="")
