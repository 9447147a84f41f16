"""Drills of the toy graph, with real processes: what is passed, and what each kind of fault looks like."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.artifact import Artifact, RunDir
from pipeline.drill.local import Local
from pipeline.drill.rehearsal import (
    Act,
    Comparison,
    Disturbance,
    Exercise,
    Outcome,
    Rehearsal,
    Status,
)
from pipeline.drill.rehearse import REFERENCE, Drill, rehearse, run_reference
from pipeline.drill.watch import Watch
from pipeline.errors import LaunchError, Preempted
from pipeline.preemption import StopFlag
from pipeline.recipe import resolve
from tests.fakes.slow_stages import STAGES
from tests.fakes.toy_stages import ToyRecipe, wait_until

PROGRAM = (sys.executable, "-m", "tests.fakes.slow_stages")
UNITS = 100
"""Half a second's work."""


def same_files(stage: str, made: Artifact, wanted: Artifact, same_ranks: bool) -> Comparison:
    differ = [n for n, f in wanted.manifest.files.items() if made.manifest.files.get(n) != f]
    return Comparison(f"{len(wanted.manifest.files)} files", differ)


def done_again_by_name() -> Callable[[RunDir, str], int | None]:
    """Say that each exercise has done as many updates again as its name tells, once it was disturbed."""
    asked: set[str] = set()

    def redone(run_dir: RunDir, stage: str) -> int | None:
        is_first = run_dir.root.name not in asked
        asked.add(run_dir.root.name)
        return 0 if is_first else int(run_dir.root.name)

    return redone


@pytest.fixture
def drilled(tmp_path: Path) -> Callable[..., list[Outcome]]:
    """Drill the toy graph and give what came of it, by the exercises' names."""

    def drill(*exercises: Exercise, limit: float = 60, **changes: object) -> list[Outcome]:
        carried = prepared(tmp_path, exercises, limit=limit, **changes)
        run_reference(carried)
        done = sorted(rehearse(carried), key=lambda outcomes: outcomes[0].exercise)
        return [outcome for outcomes in done for outcome in outcomes]

    return drill


def prepared(
    root: Path,
    exercises: tuple[Exercise, ...],
    *,
    limit: float = 60,
    ranks: int = 1,
    **changes: object,
) -> Drill:
    settings = changes.pop("settings", [f"b.units={UNITS}"])
    (root / "toy.yaml").write_text("name: toy\n", encoding="utf-8")
    (root / "output").mkdir()
    _, text = resolve(ToyRecipe, str(root / "toy.yaml"), settings)  # type: ignore[arg-type]
    rehearsal = Rehearsal(
        "toy", lambda _: [], exercises, same_files, lambda *_: None, PROGRAM
    )._replace(**changes)  # type: ignore[arg-type]
    launcher = Local(PROGRAM, root / "output", ranks, "zero2")
    watch = Watch(limit, launcher.poll_s, StopFlag())
    return Drill(root / "runs", text, [s.name for s in STAGES], rehearsal, launcher, watch)


def stop_at(unit: int, **fields: object) -> Disturbance:
    moment = f"b.partial/unit{unit}.txt"
    return Disturbance(f"stop at {unit}", Act.STOP, moment)._replace(**fields)  # type: ignore[arg-type]


def kill_at(unit: int) -> Disturbance:
    return stop_at(unit)._replace(name=f"kill at {unit}", act=Act.KILL_ALL)


def test_what_is_stopped_and_killed_ends_as_if_nothing_had_been(
    drilled: Callable[..., list[Outcome]], tmp_path: Path
) -> None:
    twice = Exercise("twice", "b", (kill_at(20), stop_at(60)))
    start = Exercise("start", "c", (Disturbance("stop at the start of c", Act.STOP),))
    late = Exercise("late", "b", (stop_at(30, over="b.partial/unit29.txt"),))
    outcomes = drilled(twice, start, late)
    by_name = {outcome.disturbance: outcome for outcome in outcomes}
    for name in ("kill at 20", "stop at 60"):
        assert by_name[name].status is Status.PASSED
        assert by_name[name].compared == f"{UNITS + 1} files"
        assert by_name[name].seconds_to_resume is not None
    assert by_name["kill at 20"].seconds_to_save is None
    assert (by_name["stop at 60"].seconds_to_save or 0) > 0
    assert by_name["stop at 30"].status is Status.MISSED
    assert by_name["stop at 30"].why == "the moment was over when it was disturbed"
    # What was before it came from the undisturbed run; what comes after it is not made.
    folder = RunDir(tmp_path / "runs" / "twice")
    assert [stage.name for stage in STAGES if folder.committed(stage.name).is_dir()] == ["a", "b"]


def test_a_difference_fails_all_disturbances_that_may_have_made_it(
    drilled: Callable[..., list[Outcome]],
) -> None:
    outcomes = drilled(
        Exercise("b", "b", (stop_at(30), stop_at(60))),
        compare=lambda *_: Comparison("a file", ["it is another one"]),
    )
    assert [outcome.status for outcome in outcomes] == [Status.FAILED] * 2
    assert all("it is another one" in outcome.why for outcome in outcomes)


def test_updates_may_be_lost_up_to_a_bound(drilled: Callable[..., list[Outcome]]) -> None:
    disturbances = (stop_at(30, may_lose=3),)
    outcomes = drilled(
        Exercise("3", "b", disturbances),
        Exercise("4", "b", disturbances),
        redone=done_again_by_name(),
    )
    assert [(o.status, o.updates_lost) for o in outcomes] == [
        (Status.PASSED, 3),
        (Status.FAILED, 4),
    ]
    assert outcomes[1].why == "more than 3 updates"


def test_a_stage_that_is_done_too_soon_is_said_to_be(drilled: Callable[..., list[Outcome]]) -> None:
    outcomes = drilled(
        Exercise("b", "b", (stop_at(UNITS + 7), stop_at(UNITS + 8))), settings=["b.units=2"]
    )
    assert [outcome.status for outcome in outcomes] == [Status.MISSED] * 2
    assert "b was done before" in outcomes[0].why


def test_fewer_ranks_than_one_are_not_tried(drilled: Callable[..., list[Outcome]]) -> None:
    (outcome,) = drilled(
        Exercise("b", "b", (stop_at(30, then_fewer=True),)), settings=["b.units=2"]
    )
    assert (outcome.status, outcome.why) == (Status.SKIPPED, "needs two ranks or more")


def test_what_goes_wrong_in_an_exercise_leaves_the_others_alone(
    drilled: Callable[..., list[Outcome]],
) -> None:
    no_rank = Disturbance("kill what is not there", Act.KILL_RANK, "b.partial/unit30.txt")
    outcomes = drilled(
        Exercise("1", "b", (no_rank, stop_at(80))),
        Exercise("2", "b", (stop_at(30), stop_at(UNITS + 1))),
    )
    assert [outcome.status for outcome in outcomes] == [
        *(Status.FAILED, Status.FAILED),
        *(Status.PASSED, Status.MISSED),
    ]
    assert "none of the ranks named here runs" in outcomes[0].why


def test_a_full_disk_in_one_exercise_leaves_the_others_alone(
    drilled: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree

    def copy(source: Path, target: Path) -> object:
        if target.parent.name == "1":
            words = f"[Errno 28] No space left on device: '{target}/x'"
            raise shutil.Error([(f"{source}/x", f"{target}/x", words), ("y", "y", "other")])
        return copied(source, target)

    monkeypatch.setattr(shutil, "copytree", copy)
    outcomes = drilled(
        Exercise("1", "b", (stop_at(1), stop_at(2))), Exercise("2", "b", (stop_at(30),))
    )
    assert [outcome.status for outcome in outcomes[:2]] == [Status.FAILED] * 2
    assert "1/a/x: No space left on device; the disk is full" in outcomes[0].why
    assert outcomes[2].status is Status.PASSED, outcomes


def test_an_interrupt_does_not_keep_processes_from_being_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Local.end

    def end(launcher: Local, run_dir: RunDir) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        ended(launcher, run_dir)

    monkeypatch.setattr(Local, "end", end)
    drill = prepared(tmp_path, (), limit=1, settings=["b.units=100000"])
    with pytest.raises(LaunchError, match="waited 1 s in vain"):
        run_reference(drill)
    assert processes_in(tmp_path) == []


def test_a_drill_that_is_left_ends_what_is_at_work(tmp_path: Path) -> None:
    long = Exercise("2", "b", (stop_at(90_000),))
    drill = prepared(tmp_path, (Exercise("1", "a", ()), long))
    run_reference(drill)
    longer = drill.recipe.replace(f"units: {UNITS}", "units: 99999")
    assert longer != drill.recipe
    outcomes = rehearse(dataclasses.replace(drill, recipe=longer))
    assert next(outcomes) == []
    wait_until(tmp_path / "runs" / "2" / "b.partial" / "unit0.txt")
    left = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - left < 30
    assert processes_in(tmp_path) == []


def test_an_undisturbed_run_that_fails_ends_the_drill(tmp_path: Path) -> None:
    drill = prepared(tmp_path, (), settings=["c.complaint=no such luck"])
    with pytest.raises(LaunchError, match=rf"ended with 1 \(output in {tmp_path}.*the commit of c"):
        run_reference(drill)
    assert "no such luck" in (tmp_path / "output" / f"{REFERENCE}.log").read_text()


def test_a_wait_has_a_limit_and_says_what_for(tmp_path: Path) -> None:
    drill = prepared(tmp_path, (), limit=2, settings=["b.units=100000"])
    with pytest.raises(
        LaunchError, match=r"waited 2 s in vain for the commit of [ab] in .*reference"
    ):
        run_reference(drill)
    assert processes_in(tmp_path) == []


def test_a_stop_of_the_drill_ends_its_processes(tmp_path: Path) -> None:
    drill = prepared(tmp_path, (Exercise("b", "b", (stop_at(1),)),), settings=["b.units=100000"])
    begun = tmp_path / "runs" / REFERENCE / "b.partial" / "unit0.txt"

    def stop() -> None:
        wait_until(begun)
        drill.watch.stop.request("SIGTERM")

    helper = threading.Thread(target=stop)
    helper.start()
    with pytest.raises(Preempted, match="stopped by SIGTERM while it waited for the commit of b"):
        run_reference(drill)
    helper.join()
    assert processes_in(tmp_path) == []


def processes_in(root: Path) -> list[list[str]]:
    """Command lines of living processes that name a folder."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if any(str(root) in word for word in line)]
