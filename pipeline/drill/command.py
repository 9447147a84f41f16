"""`sumpipe drill`: its options, what it prints, and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import DEFAULT_PROFILE, AddCommand, AsJson, Profile
from pipeline.config import validate
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import require_launch_settings, thread_count, visible_gpus
from pipeline.drill.cluster import Cluster
from pipeline.drill.folder import emptied
from pipeline.drill.launcher import Launcher
from pipeline.drill.local import Local
from pipeline.drill.rehearsal import Rehearsal
from pipeline.drill.rehearse import Drill, rehearse, run_reference
from pipeline.drill.report import Report
from pipeline.drill.watch import Watch
from pipeline.errors import EXIT_FAILED, ConfigError, LaunchError, Preempted, StorageError
from pipeline.files import write_json
from pipeline.preemption import StopFlag
from pipeline.recipe import resolve
from pipeline.slurm.command import (
    Account,
    Constraint,
    Cpus,
    Extra,
    Gpus,
    GpuType,
    Memory,
    Nodes,
    Partition,
    Python,
    Qos,
    Site,
    Tasks,
    Time,
    asked_of,
    interpreter,
)
from pipeline.slurm.options import Options, need_of, read_site
from pipeline.stage import Execution, Launch, Recipe, Stage

DEFAULT_RANKS = 2
"""Where there are no GPUs; one alone could not be made fewer."""

Ranks = Annotated[
    int | None,
    typer.Option(
        "--processes", min=1, help=f"Processes; default the GPUs there are, else {DEFAULT_RANKS}."
    ),
]


def drill_command(
    stages: Sequence[Stage], recipe_type: type[Recipe], rehearsal: Rehearsal
) -> AddCommand:
    """Return what adds the command for a graph of stages and its rehearsal."""

    def add(app: typer.Typer) -> None:
        @app.command("drill")
        def drill(
            recipe: Annotated[
                str, typer.Argument(metavar="RECIPE", help="A packaged name or a path; made small.")
            ] = rehearsal.recipe,
            folder: Annotated[
                Path,
                typer.Option("--dir", help="Folder for the runs; an earlier drill's is emptied."),
            ] = Path("runs/drill"),
            processes: Ranks = None,
            ds_config: Profile = DEFAULT_PROFILE,
            limit: Annotated[
                float,
                typer.Option(
                    "--limit", min=1, help="Longest wait for one moment, queue included, s."
                ),
            ] = 600,
            as_json: AsJson = False,
            slurm: Annotated[
                bool, typer.Option("--slurm", help="On the cluster, with the options below.")
            ] = False,
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
        ) -> None:
            """Rehearse preemptions with a tiny model: stop and kill stages, and compare what comes out."""
            asked = asked_of(locals())
            root = folder.resolve()
            if slurm:
                if processes is not None:
                    raise ConfigError(
                        "--processes is not for --slurm: give --nodes and tasks or GPUs"
                    )
                flags = validate(Options, asked, "command line")
                launcher: Launcher = _cluster(stages, flags, site, ds_config, interpreter(python))
            else:
                others = {"site": site, "python": python}
                given = [*asked, *(name for name, value in others.items() if value)]
                if given:
                    flag = given[0].replace("_", "-")
                    raise ConfigError(f"--{flag}: is for a cluster; add --slurm, or leave it out")
                count = processes or len(visible_gpus()) or DEFAULT_RANKS
                launcher = Local(rehearsal.program, root / "output", count, ds_config)
            resolved, text = resolve(recipe_type, recipe, rehearsal.overrides(launcher.ranks))
            execution = Execution(launcher.ranks, thread_count(), find_profile(ds_config))
            for stage in stages:
                if stage.check is not None:
                    stage.check(stage.config(resolved), execution)
            with emptied(root):
                (root / "output").mkdir()
                names = [stage.name for stage in stages]
                stop = StopFlag()
                watch = Watch(limit, launcher.poll_s, stop)
                report = _carry_out(
                    Drill(root, text, names, rehearsal, launcher, watch), as_json=as_json
                )
                print(json.dumps(report.to_json(), indent=2) if as_json else report.summary())
                _write(report, root / "drill.json")
            if not report.passed:
                raise typer.Exit(EXIT_FAILED)

    return add


def _carry_out(drill: Drill, *, as_json: bool) -> Report:
    """Do it all, and leave nothing running.

    Raises:
        LaunchError: If it was interrupted, or the undisturbed run fails.
    """
    launcher, stop = drill.launcher, drill.watch.stop
    out = sys.stderr if as_json else sys.stdout

    def say(line: object) -> None:
        print(line, file=out, flush=True)

    count = sum(len(exercise.disturbances) for exercise in drill.rehearsal.exercises)
    stop.listen()
    try:
        say(f"{count} disturbances, {launcher.ranks} rank(s), runs in {drill.root}")
        seconds = run_reference(drill)
        say(f"undisturbed, it takes {seconds:.0f} s")
        outcomes = []
        for found in rehearse(drill):
            outcomes += found
            for outcome in found:
                say(outcome)
    except Preempted as stopped:
        raise LaunchError(
            f"the drill was {stopped}; its processes and jobs are ended, its runs lie in {drill.root}"
        ) from None
    needed = drill.rehearsal.needed
    return Report(str(drill.root), launcher.ranks, launcher.fewer, seconds, outcomes, needed)


def _write(report: Report, path: Path) -> None:
    try:
        write_json(path, report.to_json())
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}; the report is only what was printed"
        ) from error


def _cluster(
    stages: Sequence[Stage], flags: Options, site: Path | None, ds_config: str, python: str
) -> Cluster:
    require_launch_settings()
    site_options = read_site(site)
    needs = {stage.name: need_of(stage, site_options, flags) for stage in stages}
    group = next(stage for stage in stages if stage.launch is Launch.GROUP)
    need = needs[group.name]
    fewer = _halved(need.nodes, need.gpus_per_node, need.tasks_per_node)
    fewer_needs = None
    if fewer:
        fewer_flags = flags.model_copy(update=fewer)
        fewer_needs = {stage.name: need_of(stage, site_options, fewer_flags) for stage in stages}
    return Cluster(python, find_profile(ds_config), needs, fewer_needs, group.name)


def _halved(nodes: int, gpus: int, tasks: int) -> dict[str, int]:
    """Return the options that make a job about half as large: nodes first, then what a node has."""
    if nodes > 1:
        return {"nodes": nodes // 2}
    if gpus > 1:
        return {"gpus_per_node": gpus // 2, "tasks_per_node": gpus // 2}
    return {"tasks_per_node": tasks // 2} if tasks > 1 else {}
