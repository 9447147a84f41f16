"""Carry a plan out: one stage after another, each ending in a commit or in a clear failure."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import lease, provenance
from pipeline.artifact import Artifact, RunDir
from pipeline.cache import Cache, content_of, lineage_of
from pipeline.config import JSON, diff, fingerprint
from pipeline.distributed.world import World, job_id, job_restarts, job_step
from pipeline.errors import CorruptArtifact, DataError, PipelineError, Preempted, StaleArtifact
from pipeline.files import probe_storage, read_json, sha256_file, write_json
from pipeline.launch import launch_group
from pipeline.log import Progress
from pipeline.planner import Action, Decision
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, Launch, Metrics, Recipe, Stage, StageContext

_logger = logging.getLogger(__name__)


class HashCache:
    """Checksums of files outside the run directory, remembered by path, size and times of change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = read_json(path) if path.is_file() else {}
        self._is_changed = False

    def __call__(self, file: Path) -> str:
        """Return the sha256 of `file`."""
        state = file.stat()
        # a name need not be UTF-8
        name = os.fsencode(file.resolve()).decode("utf-8", "backslashreplace")
        # st_mtime may be set at will (touch -r, rsync -t), st_ctime may not
        key = f"{name}\t{state.st_size}\t{state.st_mtime_ns}\t{state.st_ctime_ns}"
        if key not in self._known:
            self._known[key] = sha256_file(file)
            self._is_changed = True
        return self._known[key]

    def save(self) -> None:
        """Keep what was computed for the next run."""
        if self._is_changed:
            write_json(self._path, self._known)
            self._is_changed = False


@dataclass(frozen=True, slots=True)
class Session:
    """What all stages of one `run` share."""

    recipe: Recipe
    run_dir: RunDir
    execution: Execution
    stop: StopFlag
    token: str
    """Names this process's hold of the run directory."""
    rank_module: str
    """The module that starts one rank."""
    cache: Cache | None = None
    """Where committed artifacts are shared with other runs."""

    def guard(self) -> None:
        """Raise RunDirInUse unless this process still holds the run directory."""
        lease.require(self.run_dir, self.token)


def refuse_stale(decisions: Sequence[Decision], run_dir: RunDir) -> None:
    """Raise StaleArtifact if finished or partial work was made with other settings.

    The message has the differences and the ways out; nothing is deleted unasked.
    """
    stale = [decision for decision in decisions if decision.action is Action.STALE]
    if not stale:
        return
    first = stale[0].stage.name
    lines = [f"{decision.stage.name}: {decision.reason}" for decision in stale]
    raise StaleArtifact(
        "\n  ".join([f"{run_dir.root}: made with other settings than asked for now", *lines])
        + f"\nEither redo it: add --restart-from {first} (deletes {first} and all after it); "
        "or keep it: choose another --run-dir, or put the old settings back."
    )


def run_stage(decision: Decision, session: Session) -> Artifact:
    """Run or resume one stage and return what it committed.

    Raises:
        PipelineError: If it failed or was preempted; what was committed inside it stays.
    """
    stage, run_dir = decision.stage, session.run_dir
    _logger.info("%-8s %ss: %s", stage.name, decision.action.lower(), decision.reason)
    session.guard()
    if session.stop.reason:
        reason = f"stopped by {session.stop.reason} before it began"
        record_preemption(run_dir, stage.name, reason, None)
        session.stop.check()
    started = time.monotonic()
    run_dir.preempted.unlink(missing_ok=True)
    if stage.cached and session.cache is not None:
        lineage = _lineage(decision.payload, run_dir)
        found = session.cache.take(stage.name, decision.payload, lineage, run_dir, session.guard)
        if found is not None:
            _tell_warnings(found)
            return found
        session.guard()  # what was looked through may be large
    if stage.shards is not None:
        _record_conditions(stage, session)
    run_dir.progress(stage.name).unlink(missing_ok=True)
    run_dir.open_partial(stage.name, decision.payload)
    if stage.launch is Launch.GROUP:
        try:
            launch_group(
                session.rank_module,
                stage.name,
                run_dir,
                session.execution,
                session.token,
                session.stop,
            )
        except Preempted as stopped:
            if not run_dir.preempted.is_file():  # the ranks had not begun, or had no time to say so
                record_preemption(run_dir, stage.name, str(stopped), None)
            raise
        artifact = run_dir.artifact(stage.name)
        if artifact is None:
            raise CorruptArtifact(f"{run_dir.committed(stage.name)}: gone right after its commit")
    else:
        artifact = _run_here(decision, session)
    if stage.cached and session.cache is not None:
        session.cache.keep(artifact, _lineage(artifact.manifest.payload, run_dir))
    _tell_warnings(artifact)
    _logger.info("%-8s done in %.0f s", stage.name, time.monotonic() - started)
    return artifact


def _tell_warnings(artifact: Artifact) -> None:
    for name, text in artifact.manifest.metrics.items():
        if name.startswith("warning_"):
            _logger.warning("%s: %s", artifact.manifest.stage, text)


def conditions_file(run_dir: RunDir, stage: str) -> Path:
    """Where the process that makes a stage's shards says what their bytes depend on besides its payload."""
    return run_dir.logs(stage) / "conditions.json"


def changed_conditions(stage: Stage, theirs: JSON, ours: JSON) -> list[str]:
    """Return the differences between conditions that shards of this stage could show."""
    if stage.resource == "cpu":  # another device or thread count gives the same bytes
        theirs = {**theirs, "device": ours["device"], "threads": ours["threads"]}
    return diff(theirs, ours)


def _record_conditions(stage: Stage, session: Session) -> None:
    """Leave word of the device, versions and threads, for helpers and for whoever resumes the work.

    Raises:
        StaleArtifact: If it was begun under others: shards of both would be committed as made under these.
    """
    run_dir = session.run_dir
    file = conditions_file(run_dir, stage.name)
    ours = provenance.conditions(session.execution.threads)
    partial = run_dir.partial(stage.name)
    if run_dir.partial_payload(stage.name) is not None:
        try:
            theirs = read_json(file)
        except FileNotFoundError:
            _logger.warning("%s: is gone; %s counts as begun with these versions", file, partial)
            theirs = ours
        if changes := changed_conditions(stage, theirs, ours):
            raise StaleArtifact(
                f"{partial}: was begun under other conditions ({'; '.join(changes[:4])}), and would be a "
                f"mixture. Either put these back, or make it anew: --restart-from {stage.name}"
            )
    # Before the work is begun, so that there is none without.
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, ours)


def _lineage(payload: JSON, run_dir: RunDir) -> JSON:
    """Return what is hashed of a stage, and of all that it is made of with their contents."""
    sources = _sources(payload, run_dir)
    payloads = {name: source.manifest.payload for name, source in sources.items()}
    contents = {name: content_of(source) for name, source in sources.items()}
    return lineage_of(payload["stage"], {**payloads, payload["stage"]: payload}, contents)


def _sources(payload: JSON, run_dir: RunDir) -> dict[str, Artifact]:
    """Return the artifacts that a stage is made of, up to the first.

    Raises:
        StaleArtifact: If one is not there.
    """
    found: dict[str, Artifact] = {}
    for name in payload["inputs"]:
        source = run_dir.artifact(name)
        if source is None:
            raise StaleArtifact(
                f"{run_dir.committed(name)}: is gone; make it again with --restart-from {name}"
            )
        found |= {**_sources(source.manifest.payload, run_dir), name: source}
    return found


def _run_here(decision: Decision, session: Session) -> Artifact:
    stage = decision.stage
    progress = Progress(stage.name, session.run_dir.progress(stage.name), console=True)
    started = time.monotonic()
    try:
        metrics = call_stage(stage, decision.payload, session, World(), progress)
    except Preempted as stopped:
        record_preemption(session.run_dir, stage.name, str(stopped), progress.latest)
        raise
    finally:
        progress.close()
    return commit(stage, decision.payload, session, World(), metrics, started)


def call_stage(
    stage: Stage, payload: JSON, session: Session, world: World, progress: Progress
) -> Metrics:
    """Call the stage's function in this process; the same on every rank.

    Raises:
        StaleArtifact: If an input is not the one that was planned with.
    """
    context = stage_context(stage, payload, session, world, progress)
    try:
        return stage.load()(stage.config(session.recipe), context)
    except PipelineError:
        raise
    except OSError:
        session.guard()  # whoever took the run over has cleared away what this process wrote to
        raise
    except Exception:
        session.guard()
        probe_storage(context.work)  # libraries report a full disk as errors of their own
        raise


def stage_context(
    stage: Stage, payload: JSON, session: Session, world: World, progress: Progress
) -> StageContext:
    """Open a stage's inputs for work in this process.

    Raises:
        StaleArtifact: If an input is not the one that was planned with.
    """
    inputs = {}
    for name in stage.inputs:
        artifact = session.run_dir.artifact(name)
        if artifact is None or artifact.manifest.fingerprint != payload["inputs"][name]:
            path = session.run_dir.committed(name)
            raise StaleArtifact(f"{path}: was removed or remade after {stage.name} was planned")
        inputs[name] = artifact
    return StageContext(
        inputs=inputs,
        work=session.run_dir.partial(stage.name),
        fingerprint=fingerprint(payload),
        recipe_name=session.recipe.name,
        seed=session.recipe.seed,
        world=world,
        execution=session.execution,
        stop=session.stop,
        progress=progress,
        guard=session.guard,
    )


def commit(
    stage: Stage, payload: JSON, session: Session, world: World, metrics: Metrics, started: float
) -> Artifact:
    """Publish a stage's work if this process still holds the run; `started` is a monotonic time.

    Raises:
        DataError: If files that it was made of changed meanwhile.
    """
    _refuse_changed(stage, payload, session)
    session.guard()
    execution = session.execution
    launch = {
        "world_size": world.size,
        "processes": execution.processes,
        "threads": execution.threads,
        "ds_profile": execution.ds_profile.name,
        "seconds_wall": round(time.monotonic() - started, 3),
    }
    record = {**provenance.collect(), "launch": launch, "seed": session.recipe.seed}
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise PipelineError(f"{stage.name}: its metric {name} is {value}; nothing is committed")
    return session.run_dir.commit(stage.name, payload, metrics, record)


def _refuse_changed(stage: Stage, payload: JSON, session: Session) -> None:
    """Raise DataError if outside files are not what was hashed before they were read.

    What was made of them goes, or a file that is put back would find rows of the other one.
    """
    if stage.identity is None:
        return
    changes = diff(payload, stage.payload(session.recipe, payload["inputs"], sha256_file))
    if changes:
        session.guard()
        session.run_dir.remove(stage.name)
        session.run_dir.hash_cache.unlink(missing_ok=True)  # it may be what was wrong
        told = "; ".join(line.replace("config", stage.name, 1) for line in changes[:4])
        raise DataError(
            f"{told}: changed while it was read; what was made of it is removed. Let nothing write there, "
            "then run the same command again"
        )


def record_preemption(run_dir: RunDir, stage: str, reason: str, progress: JSON | None) -> None:
    """Leave word that `stage` stopped on request, and of what is kept, for whoever starts it again."""
    record = {
        "stage": stage,
        "reason": reason,
        "job": job_id(),
        "restart_count": job_restarts(),
        "step": job_step(),
        "progress": progress,
        "utc": provenance.utc_now(),
    }
    write_json(run_dir.preempted, record)


def is_preempted(run_dir: RunDir, stage: str) -> bool:
    """Whether this very launch in a job has left word that `stage` stopped; False outside a job."""
    if job_id() is None:
        return False
    ours = {"stage": stage, "job": job_id(), "restart_count": job_restarts(), "step": job_step()}
    try:
        left: JSON = read_json(run_dir.preempted)
    except FileNotFoundError:
        return False
    return ours.items() <= left.items()
