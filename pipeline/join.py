"""Help with the shards of a stage that another process carries out, from any host that sees the run.

The helper holds nothing but the shards it has claimed, and publishes only whole ones: it may come, go and
be killed at any moment. What it makes depends on the recipe, the device, the versions and the threads, which
it compares with the run's first.
"""

from __future__ import annotations

import dataclasses
import logging
import time

from pipeline.artifact import RunDir
from pipeline.config import JSON, diff, load_yaml, validate
from pipeline.distributed.world import World, timeout_seconds
from pipeline.errors import LaunchError, StaleArtifact, WorkIsGone
from pipeline.files import read_json
from pipeline.lease import Silence
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.provenance import conditions
from pipeline.runner import HashCache, Session, changed_conditions, conditions_file, stage_context
from pipeline.shards import work_through
from pipeline.stage import Execution, Recipe, Stage

_POLL_SECONDS = 1.0

_logger = logging.getLogger(__name__)


def join(
    stage: Stage,
    recipe_type: type[Recipe],
    run_dir: RunDir,
    execution: Execution,
    stop: StopFlag,
) -> None:
    """Do shards of a stage as long as there are any; returns when the stage is committed.

    Args:
        stage: A stage that has shards.
        recipe_type: The recipe with one section a stage.
        run_dir: The run.
        execution: Processes and threads to help with.
        stop: Polled between shards.

    Raises:
        ConfigError: If the stage has no shards.
        Preempted: If a stop was asked for.
        LaunchError: If nobody has held the run for SUMPIPE_TIMEOUT_SECONDS, or it makes something else.
    """
    stage.sharder()
    silence, limit = Silence(run_dir.lease), timeout_seconds()
    told = ""
    while not run_dir.committed(stage.name).is_dir():
        stop.check()
        if silence.seconds() > limit:
            raise LaunchError(
                f"{run_dir.root}: nobody has worked here for {limit} s, so {stage.name} will not end{told}; "
                "start `sumpipe run` there, or raise SUMPIPE_TIMEOUT_SECONDS if it is only slow to start"
            )
        payload = run_dir.partial_payload(stage.name)
        if payload is not None:
            try:
                if _help(stage, recipe_type, run_dir, payload, execution, stop):
                    silence, told = Silence(run_dir.lease), ", though all its shards are done"
            except WorkIsGone as gone:
                _logger.info("%-8s %s", stage.name, gone)
            except (StaleArtifact, FileNotFoundError):
                if run_dir.partial_payload(stage.name) == payload:
                    raise
        time.sleep(_POLL_SECONDS)


def _help(
    stage: Stage,
    recipe_type: type[Recipe],
    run_dir: RunDir,
    payload: JSON,
    execution: Execution,
    stop: StopFlag,
) -> bool:
    """Do what is left of the steps whose shards are wanted now; returns whether anything was.

    Raises:
        WorkIsGone: If the work was finished or removed meanwhile.
        LaunchError: If what this process would make is not what the run is made of.
    """
    recipe = validate(recipe_type, load_yaml(run_dir.recipe), str(run_dir.recipe))
    ours = stage.payload(recipe, payload["inputs"], HashCache(run_dir.hash_cache))
    if changes := diff(payload, ours):
        raise LaunchError(
            f"{run_dir.partial(stage.name)}: this process would make something else ({changes[0]}): "
            f"{run_dir.recipe}, or the version of sumpipe, is not what the work was begun with"
        )

    def guard() -> None:
        if run_dir.partial_payload(stage.name) != payload:
            raise WorkIsGone(f"{run_dir.partial(stage.name)}: is gone")

    has_helped = False
    session = Session(recipe, run_dir, execution, stop, token="", rank_module="")
    progress = Progress(stage.name, None, console=False)
    context = stage_context(stage, payload, session, World(), progress)
    context = dataclasses.replace(context, guard=guard)
    for shards in stage.sharder()(stage.config(recipe), context):
        if not shards.folder.is_dir():
            break
        if not shards.missing():
            continue  # a step that is done; the next one may be wanted
        _require_conditions(run_dir, stage, execution.threads)
        for done in work_through(shards, execution.processes, execution.threads, stop):
            _logger.info("%-8s %d/%d shards are done", stage.name, done, shards.count)
        has_helped = True
    return has_helped


def _require_conditions(run_dir: RunDir, stage: Stage, threads: int) -> None:
    """Raise LaunchError unless shards come out here as they do where the run is held.

    Raises:
        WorkIsGone: If the one who holds the run has not said how it makes them.
    """
    file = conditions_file(run_dir, stage.name)
    try:
        theirs = read_json(file)
    except FileNotFoundError:
        raise WorkIsGone(f"{file}: is not there, so nobody can help yet") from None
    if changes := changed_conditions(stage, theirs, conditions(threads)):
        raise LaunchError(
            f"{run_dir.partial(stage.name)}: shards made here would differ ({'; '.join(changes[:3])}); help "
            "with the same device, versions and SUMPIPE_THREADS as the process that holds the run"
        )
