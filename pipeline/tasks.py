"""A stage that needs no process group, as one of several tasks: the first holds the run, the others help."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import lease
from pipeline.artifact import RunDir
from pipeline.cache import Cache
from pipeline.claim import LEASE_SECONDS
from pipeline.config import load_yaml, validate
from pipeline.distributed.presence import rank_file
from pipeline.distributed.world import (
    World,
    cache_dir,
    job_id,
    job_restarts,
    limit_threads,
    use_one_gpu,
)
from pipeline.errors import Preempted
from pipeline.files import write_atomic
from pipeline.join import join
from pipeline.lease import Silence
from pipeline.planner import Action, Decision
from pipeline.preemption import StopFlag
from pipeline.runner import Session, is_preempted, record_preemption, run_stage
from pipeline.stage import Execution, Recipe, Stage
from pipeline.workers import POLL_SECONDS

_logger = logging.getLogger(__name__)


def carry_out(
    stage: Stage,
    recipe_type: type[Recipe],
    run_dir: RunDir,
    execution: Execution,
    world: World,
    stop: StopFlag,
    log_dir: Path,
    look: Callable[[Session], Decision],
) -> None:
    """Do this task's part of a stage.

    Args:
        stage: A stage without a group.
        recipe_type: The recipe with one section a stage.
        run_dir: The run, with its recipe.
        execution: What this task computes with.
        world: Which task this is.
        stop: Polled between shards.
        log_dir: Where the tasks of this launch leave word for each other.
        look: Plans the stage.

    Raises:
        ConfigError: If there are several tasks and nothing to share.
        Preempted: By the first task, if a stop was asked for; the others have left then.
    """
    use_one_gpu(world.local_rank)
    limit_threads(execution.threads)
    if not world.is_first:
        left, stops, error = (
            rank_file(log_dir, world.rank, kind) for kind in ("left", "stops", "error")
        )
        for mark in (left, stops, error):  # of an earlier launch
            mark.unlink(missing_ok=True)
        write_atomic(rank_file(log_dir, world.rank, "helps"), "")
        threading.Thread(target=heed, args=(run_dir, stage.name, stop, stops), daemon=True).start()
        # Stopped, a helper leaves as if all were done: a launcher takes another exit code for a failure and
        # kills the first task, which has yet to finish its shard and to say that it was preempted.
        with contextlib.suppress(Preempted):
            join(stage, recipe_type, run_dir, execution, stop)
        write_atomic(left, "")
        return
    if world.size > 1:
        stage.sharder()
    try:
        with held(run_dir, stage.name, stop) as token:
            recipe = validate(recipe_type, load_yaml(run_dir.recipe), str(run_dir.recipe))
            root = cache_dir()
            cache = None if root is None else Cache(root)
            session = Session(recipe, run_dir, execution, stop, token, __name__, cache)
            decision = look(session)
            if decision.action is Action.SKIP:
                _logger.info("%s is done already", stage.name)
            else:
                run_stage(decision, session)
    except Preempted:
        wait_for_helpers(log_dir, world.size)
        raise


def heed(run_dir: RunDir, stage: str, stop: StopFlag, stops: Path) -> None:
    """Leave the mark `stops` once this helper is to stop, as it is too when the first task was preempted.

    A signal that came before Python listened was lost on it, and the first task waits for it. The mark says
    that a helper which is killed before it has left, at the end of a grace period, has not failed.
    """
    while stop.reason is None:
        with contextlib.suppress(OSError):
            if is_preempted(run_dir, stage):
                stop.request("the first task")
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(OSError):  # on a full disk the task's own work says so
        write_atomic(stops, "")


def wait_for_helpers(log_dir: Path, size: int) -> None:
    """Let the others finish the shard in hand: this task's exit code makes the launcher kill them.

    However long that takes: only one that has shown no sign of life for LEASE_SECONDS is not waited for.
    """
    others = {rank: Silence(rank_file(log_dir, rank, "where")) for rank in range(1, size)}
    if others:
        _logger.info("waits for the other tasks to finish the shards they have in hand")

    def is_at_work(rank: int) -> bool:
        is_over = any(rank_file(log_dir, rank, kind).exists() for kind in ("left", "error"))
        return not is_over and others[rank].seconds() < LEASE_SECONDS

    while [rank for rank in others if is_at_work(rank)]:
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def held(run_dir: RunDir, stage: str, stop: StopFlag) -> Iterator[str]:
    """Hold the run directory for a stage; yields the token.

    Raises:
        RunDirInUse: If a living process holds it.
        Preempted: If a stop was asked for while waiting for a dead holder; leaves word of it.
    """
    with contextlib.ExitStack() as stack:
        try:
            token = stack.enter_context(lease.hold(run_dir, job_id(), stop.check, job_restarts()))
        except Preempted as stopped:
            record_preemption(run_dir, stage, str(stopped), None)
            raise
        yield token
