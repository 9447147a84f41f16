"""What `sumpipe run` does once its recipe is read: refuse, do what is left, say how it ended."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline import lease
from pipeline.artifact import RunDir
from pipeline.cache import Cache
from pipeline.distributed.world import job_id, job_restarts, limit_threads
from pipeline.errors import ConfigError, LaunchError, StaleArtifact
from pipeline.files import write_atomic
from pipeline.log import start_logging
from pipeline.planner import INPUT_STALE, UNCOMPARED, Action, Decision
from pipeline.preemption import StopFlag
from pipeline.provenance import utc_now
from pipeline.runner import HashCache, Session, refuse_stale, run_stage
from pipeline.slurm import ledger
from pipeline.slurm.queue import jobs_of
from pipeline.slurm.submit import OTHER_RECIPE, refuse_beside_jobs
from pipeline.stage import Execution, Recipe

_logger = logging.getLogger(__name__)
_NOTHING_LEFT = "Everything is done; nothing was run."


class Request(NamedTuple):
    """What a `run` was asked for."""

    recipe: Recipe
    text: str
    """The resolved recipe as YAML."""
    execution: Execution
    rank_module: str
    cache: Cache | None


def carry_out(
    look: Callable[[], list[Decision]],
    redo: Sequence[str],
    place: RunDir,
    hash_file: HashCache,
    asked: Request,
) -> None:
    """Refuse what cannot be done before anything is touched, then do what is left."""
    decisions = _checked(look(), place)
    todo = [decision for decision in decisions if decision.action is not Action.SKIP]
    is_recorded = place.has_recipe(asked.text)
    if not todo and not redo and is_recorded:
        for item in decisions:
            if item.reason.startswith(UNCOMPARED):
                sys.stderr.write(f"sumpipe: {item.stage.name}: {item.reason}\n")
        _show_end(decisions, place)
        print(_NOTHING_LEFT)
        return
    for decision in todo:
        if decision.stage.check is not None:
            decision.stage.check(decision.stage.config(asked.recipe), asked.execution)
    for stage in redo:
        place.require_removable(stage)
    _spare_jobs(place, is_recorded=is_recorded)
    place.root.mkdir(parents=True, exist_ok=True)
    limit_threads(asked.execution.threads)
    stop = StopFlag()
    stop.listen()
    with lease.hold(place, job_id(), stop.check, job_restarts()) as token:
        log_name = f"{utc_now().replace(':', '')}-{os.getpid()}.log"
        start_logging(place.logs("run") / log_name, console=True)
        place.sweep()
        for stage in reversed(redo):
            _logger.info("%-8s is removed, as --restart-from asks", stage)
            place.remove(stage)
        decisions = _checked(look(), place)  # looked at again: nobody else can change it now
        write_atomic(place.recipe, asked.text)
        hash_file.save()
        session = Session(
            asked.recipe, place, asked.execution, stop, token, asked.rank_module, asked.cache
        )
        _run(decisions, session)
    _show_end(decisions, place)
    if not todo and not redo:
        print(_NOTHING_LEFT)


def _spare_jobs(run_dir: RunDir, *, is_recorded: bool) -> None:
    """Refuse to work beside jobs that wait or run; without an answer of Slurm, only warn.

    They read the recipe when they start, and fail where somebody else holds the run.

    Raises:
        ConfigError: If there are such jobs.
    """
    submitted = list(ledger.jobs(run_dir))
    if not submitted:
        return
    try:
        jobs = jobs_of(ledger.places(run_dir), submitted)
    except LaunchError as error:
        sys.stderr.write(
            f"sumpipe: {error}; jobs of this run that wait or run would read the changed recipe.yaml, "
            "or find the run in use and fail\n"
        )
    else:
        why = "which would find it in use and fail" if is_recorded else OTHER_RECIPE
        refuse_beside_jobs(run_dir, jobs, why)


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


def _show_end(decisions: Sequence[Decision], run_dir: RunDir) -> None:
    """Print the last stage's console.txt, if it left one; {run_dir} stands for where the run is now."""
    artifact = run_dir.artifact(decisions[-1].stage.name)
    if artifact is not None and "console.txt" in artifact.manifest.files:
        text = artifact.file("console.txt").read_text(encoding="utf-8")
        print(text.replace("{run_dir}", str(run_dir.root)), end="")
