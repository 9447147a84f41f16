"""The entry point of one rank, whoever starts it: `deepspeed`, `torchrun`, `srun` or a plain shell."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.artifact import RunDir, require_run_dir
from pipeline.config import JSON, load_yaml, validate
from pipeline.distributed import collectives, presence
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import (
    World,
    quiet_libraries,
    show_gpus,
    task_cpus,
    thread_count,
    timeout_seconds,
    use_large_pages,
)
from pipeline.errors import (
    EXIT_DONE,
    ConfigError,
    LaunchError,
    PipelineError,
    Preempted,
    for_people,
)
from pipeline.files import write_atomic
from pipeline.launch import is_lost_peer, write_error
from pipeline.log import Progress, start_logging
from pipeline.planner import Action, Decision, plan, select
from pipeline.preemption import StopFlag
from pipeline.runner import (
    HashCache,
    Session,
    call_stage,
    commit,
    record_preemption,
    refuse_stale,
)
from pipeline.stage import Execution, Launch, Recipe, Stage
from pipeline.tasks import carry_out, held

_TIMED_OUT = re.compile("timed? ?out", re.I)
_SETTLE_SECONDS = 2.0
"""How long ranks that waited in vain need to say so once the first of them has given up."""

_logger = logging.getLogger(__name__)
_file_only = logging.getLogger("rank")


def main(
    stages: Sequence[Stage], recipe_type: type[Recipe], argv: Sequence[str], stop: StopFlag
) -> int:
    """Run one rank of a stage to its commit; returns the exit code.

    `stop` listens already: a scheduler's signal may come while torch is still being imported.
    """
    options = _parse(argv)
    if options.gpus is not None:
        show_gpus(options.gpus)
    quiet_libraries()
    use_large_pages()
    world = None
    log_dir = options.log_dir
    try:
        require_run_dir(options.run_dir)  # before anything is written there
        world = World.from_env()
        log_dir = log_dir or options.run_dir / "logs" / options.stage / f"port-{world.master_port}"
        start_logging(presence.rank_file(log_dir, world.rank, "log"), console=world.is_first)
        _announce(log_dir, world, is_supervised=options.supervisor is not None)
        pid_file = presence.rank_file(log_dir, world.rank, "pid")
        write_atomic(pid_file, str(os.getpid()))
        _run(stages, recipe_type, options, world, stop, log_dir)
    except Exception as error:  # noqa: BLE001 - the last frame of the process: report and exit
        return _report(error, log_dir, world, is_supervised=options.supervisor is not None)
    return EXIT_DONE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.rank", description=__doc__)
    parser.add_argument("stage", help="the stage to run, such as finetune")
    parser.add_argument(
        "--run-dir", type=Path, required=True, help="a run directory with recipe.yaml"
    )
    parser.add_argument("--ds-config", default="zero2", help="sharding profile: a name or a path")
    parser.add_argument("--lease", help="token of the supervising process's hold of the run")
    parser.add_argument("--supervisor", type=int, help="pid to stop with")
    parser.add_argument("--gpus", help="GPUs of this launch, by CUDA's names; '' for none")
    parser.add_argument("--log-dir", type=Path, help="where this launch logs")
    parser.add_argument("--local_rank", help="ignored; `deepspeed` passes it, LOCAL_RANK is used")
    return parser.parse_args(argv)


def _run(
    stages: Sequence[Stage],
    recipe_type: type[Recipe],
    options: argparse.Namespace,
    world: World,
    stop: StopFlag,
    log_dir: Path,
) -> None:
    run_dir = require_run_dir(options.run_dir)
    stage = select(stages, options.stage, options.stage)[0]
    threads = thread_count()
    profile = find_profile(options.ds_config)
    if stage.launch is not Launch.GROUP:
        presence.mark(f"the start of {stage.name}")
        # A task on a GPU has that alone; any other fills the CPUs it was given, as outputs do not tell.
        processes = 1 if stage.resource == "gpu" else max(1, task_cpus() // threads)
        execution = Execution(processes, threads, profile)
        look = functools.partial(_decision, stages, stage)
        carry_out(stage, recipe_type, run_dir, execution, world, stop, log_dir, look)
        return
    recipe = validate(recipe_type, load_yaml(run_dir.recipe), str(run_dir.recipe))
    if options.supervisor is not None:
        stop.watch_supervisor(options.supervisor)
    started = time.monotonic()
    execution = Execution(world.size, threads, profile)
    presence.mark("the rendezvous")
    with (
        collectives.joined(world, threads),
        _token(run_dir, options.lease, stage.name, world, stop) as token,
    ):
        presence.mark(f"the start of {stage.name}")
        session = Session(recipe, run_dir, execution, stop, token, __name__)
        payload = _payload(stages, stage, session, is_supervised=options.lease is not None)
        if payload is None:
            return
        _to_commit(stage, payload, session, world, started)


@contextlib.contextmanager
def _token(
    run_dir: RunDir, given: str | None, stage: str, world: World, stop: StopFlag
) -> Iterator[str]:
    """Give every rank the token of the hold: the supervisor's, or one that rank 0 takes here."""
    with contextlib.ExitStack() as stack:
        token = given
        if given is None and world.is_first:
            token = stack.enter_context(held(run_dir, stage, stop))
        yield collectives.broadcast(token or "")


def _payload(
    stages: Sequence[Stage], stage: Stage, session: Session, *, is_supervised: bool
) -> JSON | None:
    """Agree on what is to be made; None if it is there already."""
    payload = None
    if collectives.is_first():
        payload = session.run_dir.partial_payload(stage.name) if is_supervised else None
        if payload is None:
            decision = _decision(stages, stage, session)
            if decision.action is not Action.SKIP:
                payload = decision.payload
                session.run_dir.preempted.unlink(missing_ok=True)
                session.run_dir.progress(stage.name).unlink(missing_ok=True)
                session.run_dir.open_partial(stage.name, payload)
    agreed = collectives.broadcast(payload)
    if agreed is None:
        _logger.info("%s is done already", stage.name)
    return agreed


def _decision(stages: Sequence[Stage], stage: Stage, session: Session) -> Decision:
    """Plan one stage.

    Raises:
        StaleArtifact: If it was made with other settings.
        ConfigError: If what it reads is not there.
    """
    cache = HashCache(session.run_dir.hash_cache)
    decisions = plan(stages, session.recipe, session.run_dir, cache, [stage])
    refuse_stale(decisions, session.run_dir)
    (decision,) = decisions  # a stale one of another stage would have been refused
    if decision.action is Action.BLOCKED:
        raise ConfigError(f"{stage.name}: {decision.reason}")
    return decision


def _to_commit(stage: Stage, payload: JSON, session: Session, world: World, started: float) -> None:
    state = session.run_dir.progress(stage.name) if world.is_first else None
    progress = Progress(stage.name, state, console=world.is_first)
    try:
        _refuse_late_start(session.stop, world)
        metrics = call_stage(stage, payload, session, world, progress)
    except Preempted as stopped:
        if world.is_first:
            record_preemption(session.run_dir, stage.name, str(stopped), progress.latest)
        # Leave together: the first early exit makes a launcher kill the others.
        collectives.barrier()
        raise
    finally:
        progress.close()
    presence.mark("the commit")
    collectives.barrier()
    if world.is_first:
        commit(stage, payload, session, world, metrics, started)
    collectives.barrier()


def _refuse_late_start(stop: StopFlag, world: World) -> None:
    """Raise Preempted on all ranks if any of them was asked to stop before the work began."""
    if collectives.all_max(stop.reason is not None, collectives.device(world)):
        raise Preempted(f"stopped by {stop.reason or 'a request to another rank'} before it began")


def _announce(log_dir: Path, world: World, *, is_supervised: bool) -> None:
    """Say where this rank is from now on; if it waits in vain and nothing ends that, do it with a report."""
    limit = timeout_seconds()

    def end() -> None:
        error = TimeoutError(f"Timed out waiting {limit} s for other ranks")
        os._exit(_report(error, log_dir, world, is_supervised=is_supervised))

    presence.announce(log_dir, world.rank, limit, end)


def _report(
    error: Exception, log_dir: Path | None, world: World | None, *, is_supervised: bool
) -> int:
    """Leave word of a failure: traceback to the log file, message to whoever watches."""
    shown = for_people(error) or error
    rank = world.rank if world else 0
    _file_only.error("rank %d ends: %s", rank, "".join(traceback.format_exception(error)))
    if world is not None and log_dir is not None and is_lost_peer(error):
        place = presence.give_up(log_dir, rank)
        if _TIMED_OUT.search(str(error)):
            shown = _absence(log_dir, world, place) or error
    if not is_supervised:
        sys.stderr.write(f"rank {rank}: {shown}\n")
    if log_dir is not None and log_dir.is_dir() and not isinstance(shown, Preempted):
        try:
            write_error(log_dir, rank, shown)
        except OSError as refusal:  # a full disk must not hide the error itself
            sys.stderr.write(f"rank {rank}: {shown} (not recorded: {refusal.strerror})\n")
    return shown.exit_code if isinstance(shown, PipelineError) else 1


def _absence(log_dir: Path, world: World, place: str) -> LaunchError | None:
    """Say for whom this rank waited in vain at `place`; None if everybody says to have waited."""
    time.sleep(_SETTLE_SECONDS)
    limit = timeout_seconds()
    absent = presence.absent(log_dir, world.size, limit)
    if not absent:
        return None
    whereabouts = "; ".join(f"rank {rank}: {where}" for rank, where in absent.items())
    return LaunchError(
        f"waited {limit} s at {place} in vain for rank {', '.join(map(str, absent))} ({whereabouts}). If it "
        "was only slow, set SUMPIPE_TIMEOUT_SECONDS higher, else see to its host. Run the same command "
        "again to continue from the last checkpoint"
    )
