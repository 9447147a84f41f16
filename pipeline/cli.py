"""The command line: run, plan, status, config. Imports nothing heavy, so it answers at once."""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.artifact import RunDir, new_or_own, require_run_dir
from pipeline.cache import Cache
from pipeline.carry_out import Request, carry_out
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import (
    cache_dir,
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
    for_people,
)
from pipeline.foresight import as_json, foreseen, probed, show_plan
from pipeline.join import join
from pipeline.log import start_logging
from pipeline.planner import plan, select
from pipeline.preemption import StopFlag
from pipeline.recipe import explain, packaged_names, resolve
from pipeline.runner import HashCache
from pipeline.stage import Execution, Recipe, Stage
from pipeline.status import run_state, show_state

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
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir", help="Folder that runs share finished data in; default $SUMPIPE_CACHE_DIR."
    ),
]
RestartFrom = Annotated[
    str | None, typer.Option("--restart-from", help="Delete this stage and all after it first.")
]
DEFAULT_PROFILE = "zero2"

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
        restart_from: RestartFrom = None,
        processes: Processes = None,
        ds_config: Profile = DEFAULT_PROFILE,
        cache: CacheDir = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only say what would be done.")
        ] = False,
    ) -> None:
        """Do what is left of a run, and resume what was interrupted."""
        resolved, text = resolve(recipe_type, recipe, overrides or [])
        if only and (first or last):
            raise ConfigError("--only goes without --from and --to")
        selected = select(stages, only or first, only or last)
        redo = stages_from(stages, restart_from)
        execution = _execution(processes, ds_config)
        place = new_or_own(run_dir)
        hash_file = HashCache(place.hash_cache)
        shared = _cache(cache)
        look = functools.partial(plan, stages, resolved, place, hash_file, selected, redo, shared)
        if dry_run:
            show_plan(*foreseen(look(), resolved, place, execution))
            return
        asked = Request(resolved, text, execution, rank_module, shared)
        carry_out(look, redo, place, hash_file, asked)

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
        cache: CacheDir = None,
        in_json: AsJson = False,
    ) -> None:
        """Say what would run, why, and what it would take."""
        resolved, _ = resolve(recipe_type, recipe, overrides or [])
        place = RunDir(run_dir.resolve())
        execution = _execution(processes, ds_config)
        decisions = plan(stages, resolved, place, HashCache(place.hash_cache), cache=_cache(cache))
        decisions, forecasts = foreseen(decisions, resolved, place, execution)
        probes = probed(decisions, resolved, place, execution) if probe else {}
        if in_json:
            rows = [as_json(decision, forecasts, probes) for decision in decisions]
            print(json.dumps(rows, indent=2))
        else:
            show_plan(decisions, forecasts, probes)

    @app.command("status")
    def status_command(
        run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
        in_json: AsJson = False,
        deep: Annotated[bool, typer.Option("--deep", help="Verify every checksum.")] = False,
    ) -> None:
        """Show state, progress and metrics of each stage, and its Slurm job with why it ended."""
        state = run_state([stage.name for stage in stages], run_dir, deep=deep)
        if in_json:
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


def stages_from(stages: Sequence[Stage], first: str | None) -> list[str]:
    """Name a stage, as `--restart-from` gives it, and all after it; none if it was not given."""
    return [stage.name for stage in select(stages, first, None)] if first else []


def _sharded(stages: Sequence[Stage]) -> list[str]:
    return [stage.name for stage in stages if stage.shards is not None] or ["none"]


def _cache(asked: Path | None) -> Cache | None:
    root = asked or cache_dir()
    return None if root is None else Cache(root.absolute())


def _execution(processes: int | None, ds_config: str) -> Execution:
    count = processes or len(visible_gpus()) or 1
    return Execution(count, thread_count(), find_profile(ds_config))
