"""Carry a drill out: once undisturbed, then every exercise, each held against the undisturbed run."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Artifact, RunDir
from pipeline.drill.launcher import Launcher
from pipeline.drill.rehearsal import (
    Act,
    Disturbance,
    Exercise,
    Outcome,
    Rehearsal,
    Status,
)
from pipeline.drill.watch import Fresh, Watch, is_there
from pipeline.errors import LaunchError, PipelineError, for_people
from pipeline.files import write_atomic
from pipeline.preemption import uninterrupted

REFERENCE = "reference"
"""Folder of the undisturbed run."""


@dataclass(frozen=True, slots=True)
class Drill:
    """Everything that a drill is carried out with."""

    root: Path
    """Holds a run directory for each exercise."""
    recipe: str
    """The small recipe as YAML."""
    stages: Sequence[str]
    rehearsal: Rehearsal
    launcher: Launcher
    watch: Watch

    def run_dir(self, name: str) -> RunDir:
        """Return the run directory of an exercise."""
        return RunDir(self.root / name)


def run_reference(drill: Drill) -> float:
    """Carry the recipe out undisturbed; returns the seconds that it took.

    Raises:
        LaunchError: If it does not come to its end: then nothing can be rehearsed.
    """
    run_dir = drill.run_dir(REFERENCE)
    started = time.monotonic()
    with _running(drill, run_dir, drill.stages):
        for stage in drill.stages:  # a limit for each
            _await_commit(drill, run_dir, stage)
        _await_end(drill, run_dir)
    return time.monotonic() - started


def rehearse(drill: Drill) -> Iterator[list[Outcome]]:
    """Carry the exercises out, after the reference; yields what came of each as it ends.

    Raises:
        Preempted: If this process was asked to stop.
    """
    pool = ThreadPoolExecutor(drill.launcher.at_once)
    try:
        exercises = [pool.submit(_carry_out, drill, item) for item in drill.rehearsal.exercises]
        for exercise in as_completed(exercises):
            yield exercise.result()
    except BaseException:
        drill.watch.stop.request("the end of the drill")
        raise
    finally:
        with uninterrupted():
            pool.shutdown(cancel_futures=True)


def _carry_out(drill: Drill, exercise: Exercise) -> list[Outcome]:
    """Do one exercise; what goes wrong in it is an outcome, not an error."""
    names = [(exercise.name, exercise.stage, item.name) for item in exercise.disturbances]
    if exercise.needs_fewer and drill.launcher.fewer is None:
        return [Outcome(*name, Status.SKIPPED, "needs two ranks or more") for name in names]
    run_dir, reference = drill.run_dir(exercise.name), drill.run_dir(REFERENCE)
    outcomes: list[Outcome] = []
    try:
        for stage in drill.stages[: drill.stages.index(exercise.stage)]:
            shutil.copytree(reference.committed(stage), run_dir.committed(stage))
        with _running(drill, run_dir, [exercise.stage]):
            for item in exercise.disturbances:
                outcomes.append(_disturb(drill, exercise, item, run_dir))
            _await_commit(drill, run_dir, exercise.stage)
            _await_end(drill, run_dir)
        return _compared(drill, exercise, run_dir, outcomes)
    except (PipelineError, OSError) as error:
        if drill.watch.stop.reason:
            raise
        why = _why(error)
        missing = [Outcome(*name, Status.FAILED) for name in names[len(outcomes) :]]
        if not missing:  # all came back, but not to the end
            return [_failed(outcome, why) for outcome in outcomes]
        return [*outcomes, *(_failed(outcome, why) for outcome in missing)]


def _why(error: PipelineError | OSError) -> str:
    """Return what to tell of an error; of `shutil.Error`, which has many in words, the first."""
    if isinstance(error, shutil.Error):
        _, target, words = error.args[0][0]
        number = re.search(r"\[Errno (\d+)\]", words)
        code = int(number[1]) if number else errno.EIO
        error = OSError(code, os.strerror(code), target)
    return str(for_people(error) or error)


@contextlib.contextmanager
def _running(drill: Drill, run_dir: RunDir, stages: Sequence[str]) -> Iterator[None]:
    """Start a run, and leave nothing of it behind that works or waits."""
    run_dir.root.mkdir(parents=True, exist_ok=True)
    write_atomic(run_dir.recipe, drill.recipe)
    try:
        drill.launcher.start(run_dir, stages)
        yield
    finally:
        with uninterrupted():
            drill.launcher.end(run_dir)


def _await_commit(drill: Drill, run_dir: RunDir, stage: str) -> None:
    """Wait for the commit of a stage; see `_await`."""
    _await(drill, run_dir, f"the commit of {stage}", run_dir.committed(stage).is_dir)


def _await_end(drill: Drill, run_dir: RunDir) -> None:
    """Wait until nothing works on a run that is done."""
    drill.watch.until(
        f"the end of the run in {run_dir.root}", lambda: drill.launcher.is_over(run_dir)
    )


def _await(drill: Drill, run_dir: RunDir, what: str, is_reached: Callable[[], bool]) -> float:
    """Wait for what living processes are to bring about; returns the seconds it took.

    Raises:
        LaunchError: If there are none any more, or in vain.
    """

    def look() -> bool:
        if is_reached():
            return True
        if drill.launcher.is_over(run_dir) and not is_reached():
            raise LaunchError(f"{drill.launcher.last_words(run_dir)} before there was {what}")
        return False

    return drill.watch.until(f"{what} in {run_dir.root}", look)


def _disturb(drill: Drill, exercise: Exercise, item: Disturbance, run_dir: RunDir) -> Outcome:
    """Wait for the moment, act, and see the stage come back.

    Raises:
        LaunchError: If something that was waited for did not come.
    """
    launcher, stage = drill.launcher, exercise.stage
    name = (exercise.name, stage, item.name)
    is_committed = run_dir.committed(stage).is_dir
    too_quick = Outcome(*name, Status.MISSED, f"{stage} was done before it could be disturbed")
    if is_committed():
        return too_quick
    moment = item.moment or launcher.begun(stage)
    launcher.prepare(run_dir, stage, item.act, moment, drill.watch)
    _await(drill, run_dir, moment, lambda: is_there(run_dir.root, moment) or is_committed())
    if is_committed():
        return too_quick
    redone, is_saved = drill.rehearsal.redone(run_dir, stage), Fresh(run_dir.preempted)
    started, saved = time.monotonic(), None
    launcher.disturb(run_dir, stage, item.act)
    if item.act is Act.STOP:
        word = f"the word of the stop ({run_dir.preempted.name})"
        _await(drill, run_dir, word, lambda: is_saved() or is_committed())
        saved = time.monotonic() - started
    fault = launcher.leave(run_dir, stage, item.act, drill.watch)
    if is_committed():
        return too_quick
    is_late = item.over is not None and is_there(run_dir.root, item.over)
    has_moved = Fresh(run_dir.progress(stage))
    started = time.monotonic()
    launcher.resume(run_dir, stage, drill.watch, fewer=item.then_fewer)
    word = f"the first progress of {stage} after it went on"
    _await(drill, run_dir, word, lambda: has_moved() or is_committed())
    back = time.monotonic() - started
    lost = None
    if redone is not None:
        lost = (drill.rehearsal.redone(run_dir, stage) or 0) - redone
    outcome = Outcome(*name, Status.PASSED, "", "", lost, saved, back)
    if is_late:
        why = "the moment was over when it was disturbed"
        outcome = outcome._replace(status=Status.MISSED, why=why)
    if lost is not None and lost > item.may_lose:
        outcome = _failed(outcome, f"more than {item.may_lose} updates")
    return _failed(outcome, fault) if fault else outcome


def _failed(outcome: Outcome, why: str) -> Outcome:
    return outcome._replace(status=Status.FAILED, why="; ".join(filter(None, (outcome.why, why))))


def _compared(
    drill: Drill, exercise: Exercise, run_dir: RunDir, outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """Add what the comparison of the finished stage says; a fault counts against all disturbances of it."""
    made, wanted = (
        _artifact(place, exercise.stage) for place in (run_dir, drill.run_dir(REFERENCE))
    )
    compared = drill.rehearsal.compare(exercise.stage, made, wanted, not exercise.needs_fewer)
    told = [outcome._replace(compared=compared.what) for outcome in outcomes]
    if not compared.faults:
        return told
    why = f"differs from the undisturbed run: {'; '.join(compared.faults)}"
    return [_failed(outcome, why) for outcome in told]


def _artifact(run_dir: RunDir, stage: str) -> Artifact:
    artifact = run_dir.artifact(stage)
    if artifact is None:
        raise LaunchError(f"{run_dir.committed(stage)}: gone right after its commit")
    return artifact
