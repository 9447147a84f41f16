"""The command line: run, plan, status, config. Imports nothing heavy, so it answers at once."""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from pipeline import lease
from pipeline.artifact import RunDir, new_or_own, require_run_dir
from pipeline.config import JSON
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import (
    job_id,
    limit_threads,
    quiet_libraries,
    thread_count,
    use_large_pages,
    visible_gpus,
)
from pipeline.errors import (
    EXIT_DONE,
    ConfigError,
    PipelineError,
    StaleArtifact,
    for_people,
)
from pipeline.files import write_atomic
from pipeline.join import join
from pipeline.log import print_table, start_logging
from pipeline.planner import INPUT_STALE, Action, Decision, current_inputs, plan, select
from pipeline.preemption import StopFlag
from pipeline.provenance import utc_now
from pipeline.recipe import explain, packaged_names, resolve
from pipeline.runner import HashCache, Session, refuse_stale, run_stage
from pipeline.stage import Execution, Forecast, ForecastContext, Recipe, Stage, forecaster
from pipeline.status import run_state, show_state

_logger = logging.getLogger(__name__)
_file_only = logging.getLogger("run")

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A packaged name or a path.")]
RunPath = Annotated[Path, typer.Option("--run-dir", help="Where this run lives.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value; repeatable."),
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Processes; default the GPUs there are, else 1."),
]
Profile = Annotated[str, typer.Option("--ds-config", help="Sharding profile: a name or a path.")]
DEFAULT_PROFILE = "zero2"
_NOTHING_LEFT = "Everything is done; nothing was run."

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


AddCommand = Callable[[typer.Typer], None]
"""Adds a command of the project's own."""


def main(
    stages: Sequence[Stage],
    recipe_type: type[Recipe],
    *,
    rank_module: str,
    about: str,
    commands: Sequence[AddCommand] = (),
) -> int:
    """Run the command line and return the exit code: 0, 1, 2, 3 or 75 (see errors.py).

    Args:
        stages: The graph, in an order that respects inputs.
        recipe_type: The recipe with one section a stage.
        rank_module: The module that launchers start one rank with.
        about: What `--help` says first.
        commands: The project's own commands, after those on runs.
    """
    quiet_libraries()
    use_large_pages()
    app = build_app(stages, recipe_type, rank_module, about, commands)
    try:
        app()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_DONE
    except (PipelineError, OSError) as error:
        shown = for_people(error)
        if shown is None:
            raise
        return _fail(shown)
    return EXIT_DONE


def _fail(error: PipelineError) -> int:
    _file_only.info("failed: %s", error)
    sys.stderr.write(f"sumpipe: {error}\n")
    return error.exit_code


def build_app(
    stages: Sequence[Stage],
    recipe_type: type[Recipe],
    rank_module: str,
    about: str,
    commands: Sequence[AddCommand] = (),
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
        processes: Processes = None,
        ds_config: Profile = DEFAULT_PROFILE,
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
        execution = _execution(processes, ds_config)
        place = new_or_own(run_dir)
        hash_file = HashCache(place.hash_cache)
        look = functools.partial(plan, stages, resolved, place, hash_file, selected, redo)
        if dry_run:
            _show_plan(*_foreseen(look(), resolved, place, execution))
            return
        _do(look, redo, place, hash_file, Request(resolved, text, execution, rank_module))

    @app.command("join")
    def join_command(
        run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
        stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage that has shards.")],
        processes: Processes = None,
    ) -> None:
        """Help a run, from any host that sees it, with the shards of a stage until that is done."""
        helped, place = select(stages, stage, stage)[0], require_run_dir(run_dir)
        execution = _execution(processes, DEFAULT_PROFILE)
        limit_threads(execution.threads)
        stop = StopFlag()
        stop.listen()
        log_name = f"join-{socket.gethostname()}-{os.getpid()}.log"
        start_logging(place.logs(stage) / log_name, console=True)
        join(helped, recipe_type, place, execution, stop)
        print(f"{stage} is done.")

    join_command.__doc__ = (
        f"{join_command.__doc__} Stages that have shards: {', '.join(_sharded(stages))}."
    )

    @app.command("plan")
    def plan_command(
        recipe: RecipeName,
        run_dir: RunPath,
        overrides: Overrides = None,
        processes: Processes = None,
        ds_config: Profile = DEFAULT_PROFILE,
        probe: Annotated[
            bool,
            typer.Option("--probe", help="Try the largest micro-batch on a GPU of this machine."),
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Say what would run, why, and what it would take."""
        resolved, _ = resolve(recipe_type, recipe, overrides or [])
        place = RunDir(run_dir.resolve())
        execution = _execution(processes, ds_config)
        decisions = plan(stages, resolved, place, HashCache(place.hash_cache))
        decisions, forecasts = _foreseen(decisions, resolved, place, execution)
        probes = _probed(decisions, resolved, place, execution) if probe else {}
        if as_json:
            rows = [_as_json(decision, forecasts, probes) for decision in decisions]
            print(json.dumps(rows, indent=2))
        else:
            _show_plan(decisions, forecasts, probes)

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
        print(explain(resolve(recipe_type, recipe, overrides or [])[0]), end="")

    config_command.__doc__ = f"{config_command.__doc__} Packaged: {', '.join(packaged_names())}."
    for add_command in commands:
        add_command(app)
    return app


def _sharded(stages: Sequence[Stage]) -> list[str]:
    return [stage.name for stage in stages if stage.shards is not None] or ["none"]


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
            decision.stage.check(decision.stage.config(asked.recipe), asked.execution)
    for stage in redo:
        place.require_removable(stage)
    place.root.mkdir(parents=True, exist_ok=True)
    limit_threads(asked.execution.threads)
    stop = StopFlag()
    stop.listen()
    with lease.hold(place, job_id(), stop.check) as token:
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


def _execution(processes: int | None, ds_config: str) -> Execution:
    count = processes or len(visible_gpus()) or 1
    return Execution(count, thread_count(), find_profile(ds_config))


Forecasts = dict[str, Forecast]
"""By the name of the stage."""


def _foreseen(
    decisions: list[Decision], recipe: Recipe, run_dir: RunDir, execution: Execution
) -> tuple[list[Decision], Forecasts]:
    """Add what the stages that are to be done will take, as far as they can tell."""
    forecasts = {
        stage.name: forecaster(stage.forecast)(stage.config(recipe), context)
        for stage, context in _to_do(decisions, recipe, run_dir, execution)
        if stage.forecast is not None
    }
    return decisions, forecasts


def _probed(
    decisions: list[Decision], recipe: Recipe, run_dir: RunDir, execution: Execution
) -> Forecasts:
    """Try out the stages that are to be done and can be tried.

    Raises:
        ConfigError: If there is none.
    """
    found = {
        stage.name: forecaster(stage.probe)(stage.config(recipe), context)
        for stage, context in _to_do(decisions, recipe, run_dir, execution)
        if stage.probe is not None
    }
    if not found:
        raise ConfigError("--probe: nothing that is left to do can be tried; plan without it")
    return found


def _to_do(
    decisions: list[Decision], recipe: Recipe, run_dir: RunDir, execution: Execution
) -> Iterator[tuple[Stage, ForecastContext]]:
    settings = recipe.model_dump(mode="json", by_alias=True)
    for decision in decisions:
        if decision.is_to_do:
            inputs = current_inputs(decision.stage, decisions, run_dir)
            yield decision.stage, ForecastContext(inputs, settings, recipe.seed, execution)


def _show_plan(decisions: Sequence[Decision], *forecasts: Forecasts) -> None:
    rows = [(item.stage.name, item.action.value, item.reason) for item in decisions]
    print_table(("stage", "action", "why"), rows)
    for name, told in (item for by_stage in forecasts for item in by_stage.items()):
        print()
        lines = [(figure.label, figure.certainty, figure.text) for figure in told.figures]
        print_table((name, "", ""), lines)


def _as_json(decision: Decision, forecasts: Forecasts, probes: Forecasts) -> JSON:
    name = decision.stage.name
    told = {
        key: by_stage[name].details
        for key, by_stage in (("forecast", forecasts), ("probe", probes))
        if name in by_stage
    }
    return {
        "stage": name,
        "action": decision.action.value,
        "why": decision.reason,
        "fingerprint": decision.fingerprint,
        **told,
    }


def _show_end(decisions: Sequence[Decision], run_dir: RunDir) -> None:
    """Print the last stage's console.txt, if it left one; {run_dir} stands for where the run is now."""
    artifact = run_dir.artifact(decisions[-1].stage.name)
    if artifact is not None and "console.txt" in artifact.manifest.files:
        text = artifact.file("console.txt").read_text(encoding="utf-8")
        print(text.replace("{run_dir}", str(run_dir.root)), end="")
