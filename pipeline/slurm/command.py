"""`sumpipe submit` and `sumpipe cancel`: their options."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.artifact import new_or_own, require_run_dir
from pipeline.cli import (
    DEFAULT_PROFILE,
    AddCommand,
    Overrides,
    Profile,
    RecipeName,
    RestartFrom,
    RunPath,
    stages_from,
)
from pipeline.config import JSON, validate
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import require_launch_settings, thread_count
from pipeline.errors import ConfigError
from pipeline.planner import plan
from pipeline.provenance import CHECKOUT
from pipeline.recipe import resolve
from pipeline.runner import HashCache, refuse_stale
from pipeline.slurm.options import Options, need_of, read_site
from pipeline.slurm.sbatch import Place
from pipeline.slurm.submit import Order, cancel, dry_run, submit
from pipeline.stage import Execution, Recipe, Stage

_SHARED = "finetune and generate: "
_ALL = "All jobs: "

Site = Annotated[
    Path | None, typer.Option("--site", metavar="FILE", help="YAML with a `slurm:` section.")
]
Nodes = Annotated[int | None, typer.Option("--nodes", help=f"{_SHARED}nodes; default 1.")]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus-per-node", help=f"{_SHARED}GPUs of a node, a task each; default 1; 0 for CPUs."
    ),
]
GpuType = Annotated[
    str | None, typer.Option("--gpu-type", help=f"{_SHARED}type of the GPUs, as Slurm names it.")
]
Tasks = Annotated[
    int | None,
    typer.Option("--tasks-per-node", help=f"{_SHARED}tasks of a node without GPUs; default 1."),
]
Cpus = Annotated[
    int | None, typer.Option("--cpus-per-task", help=f"{_SHARED}CPUs of a task; default 4.")
]
Memory = Annotated[str | None, typer.Option("--mem-per-cpu", help=f"{_ALL}memory; default 4G.")]
Time = Annotated[
    str | None,
    typer.Option(
        "--time", help=f"{_ALL}limit as MINUTES, H:MM:SS or D-HH:MM:SS; default the partition's."
    ),
]
Partition = Annotated[str | None, typer.Option("--partition", help=f"{_ALL}partition.")]
Account = Annotated[str | None, typer.Option("--account", help=f"{_ALL}account.")]
Qos = Annotated[str | None, typer.Option("--qos", help=f"{_ALL}quality of service.")]
Constraint = Annotated[str | None, typer.Option("--constraint", help=f"{_ALL}node features.")]
Extra = Annotated[
    list[str] | None,
    typer.Option(
        "--sbatch", metavar="OPTIONS", help=f"{_ALL}more for sbatch, as --name=value; repeatable."
    ),
]
Python = Annotated[
    Path | None,
    typer.Option(
        "--python",
        help=f"{_ALL}the interpreter, such as a wrapper that enters a container; default this one.",
    ),
]


def asked_of(parameters: Mapping[str, Any]) -> JSON:
    """Return which options of a job were given among a command's parameters, which have their names."""
    return {name: parameters[name] for name in Options.model_fields if parameters[name] is not None}


def slurm_commands(stages: Sequence[Stage], recipe_type: type[Recipe]) -> AddCommand:
    """Return what adds `submit` and `cancel` for a graph of stages."""

    def add(app: typer.Typer) -> None:
        @app.command("submit")
        def submit_command(
            recipe: RecipeName,
            run_dir: RunPath,
            overrides: Overrides = None,
            ds_config: Profile = DEFAULT_PROFILE,
            site: Site = None,
            nodes: Nodes = None,
            gpus_per_node: Gpus = None,
            gpu_type: GpuType = None,
            tasks_per_node: Tasks = None,
            cpus_per_task: Cpus = None,
            mem_per_cpu: Memory = None,
            time: Time = None,
            partition: Partition = None,
            account: Account = None,
            qos: Qos = None,
            constraint: Constraint = None,
            sbatch: Extra = None,
            python: Python = None,
            restart_from: RestartFrom = None,
            dry: Annotated[
                bool, typer.Option("--dry-run", help="Only print the commands.")
            ] = False,
        ) -> None:
            """Queue what is left of a run on a Slurm cluster, a job a stage."""
            asked = asked_of(locals())
            flags = validate(Options, asked, "command line")
            site_options = read_site(site)
            resolved, text = resolve(recipe_type, recipe, overrides or [])
            own = new_or_own(run_dir)
            if run_dir.absolute() != own.root:
                sys.stderr.write(
                    f"sumpipe: {run_dir} leads to {own.root}: jobs get that name, under which all nodes "
                    "have to see it\n"
                )
            profile = find_profile(ds_config)
            needs = {stage.name: need_of(stage, site_options, flags) for stage in stages}
            hash_file = HashCache(own.hash_cache)
            redo = stages_from(stages, restart_from)
            look = functools.partial(plan, stages, resolved, own, hash_file, None, redo)
            decisions = look()
            refuse_stale(decisions, own)
            for name in redo:
                own.require_removable(name)
            require_launch_settings()
            for stage in (item.stage for item in decisions if item.is_to_do):
                if stage.check is not None:
                    execution = Execution(needs[stage.name].tasks, thread_count(), profile)
                    stage.check(stage.config(resolved), execution)
            place = Place(CHECKOUT, interpreter(python), own.root, profile)
            order = Order(text, place, needs, [stage.name for stage in stages], redo)
            if dry:
                dry_run(decisions, order)
            else:
                submit(look, own, order)
                hash_file.save()

        @app.command("cancel")
        def cancel_command(
            run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
        ) -> None:
            """Take back what waits or runs for a run on a Slurm cluster."""
            cancel(require_run_dir(run_dir), [stage.name for stage in stages])

    return add


def interpreter(path: Path | None) -> str:
    """Return where jobs find Python: this one, or what --python names; a link, as a venv has, stays one.

    Raises:
        ConfigError: If it cannot be run.
    """
    if path is None:
        return sys.executable
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ConfigError(f"--python {path}: is no program; give the path of an interpreter")
    return str(path.absolute())
