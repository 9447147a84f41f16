"""Helpers on other hosts: what they may do to a run is to make it faster."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipeline import provenance
from pipeline.artifact import RunDir
from pipeline.claim import LEASE_SECONDS
from pipeline.distributed.presence import lost_helpers, rank_file
from pipeline.errors import EXIT_STALE, DataError
from pipeline.preemption import StopFlag
from pipeline.runner import record_preemption
from pipeline.stage import Metrics, Resource, StageContext
from pipeline.tasks import heed, wait_for_helpers
from tests.conftest import Answer, CommandLine
from tests.fakes import toy_stages
from tests.fakes.toy_stages import SHARING, SConfig, SharingRecipe, shards_s, snapshot, start

SQUARES = f"{[number**2 for number in range(12)]}\n"


def run(folder: Path, *more: str) -> subprocess.Popen[str]:
    return start("sharing", "run", folder / "recipe.yaml", "--run-dir", folder / "run", *more)


def join(folder: Path) -> subprocess.Popen[str]:
    return start("sharing", "join", folder / "run", "s")


def done_by(folder: Path, process: subprocess.Popen[str]) -> list[str]:
    return [path.name for path in folder.glob(f"run/s.partial/shards-*/*.begun.{process.pid}")]


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text("name: toy\ns: {seconds: 0.4}\n", encoding="utf-8")
    return tmp_path


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, words = process.communicate(timeout=40)
    return process.returncode, words


def squares(folder: Path) -> str:
    return (folder / "run" / "s" / "squares.txt").read_text(encoding="utf-8")


def test_helpers_share_the_shards_also_when_one_is_killed_and_one_is_stopped(folder: Path) -> None:
    holder = run(folder, "--set", "s.seconds=1.5")  # so that each finds something left to do
    wait_until((folder / "run" / "recipe.yaml").exists)
    helpers = [join(folder) for _ in range(3)]
    wait_until(lambda: all(done_by(folder, helper) for helper in helpers))
    os.kill(helpers[0].pid, signal.SIGKILL)  # with a shard in hand
    helpers[0].communicate()  # one that is not reaped yet counts as alive until its lease is over
    os.kill(helpers[1].pid, signal.SIGTERM)
    code, words = ended(helpers[1])
    assert (code, "all work so far is committed" in words) == (75, True)
    assert ended(holder)[0] == 0
    assert ended(helpers[2])[0] == 0
    assert squares(folder) == SQUARES
    assert ended(join(folder))[0] == 0  # nothing left to help with


def test_helpers_go_on_without_the_holder_and_the_next_one_has_less_to_do(folder: Path) -> None:
    holder = run(folder)
    wait_until((folder / "run" / "recipe.yaml").exists)
    helper = join(folder)
    wait_until(lambda: done_by(folder, helper))
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    count = len(done_by(folder, helper))
    wait_until(lambda: len(done_by(folder, helper)) > count + 1)
    assert ended(run(folder))[0] == 0
    assert ended(helper)[0] == 0
    assert squares(folder) == SQUARES


def test_a_helper_of_work_that_is_made_anew_otherwise_ends(folder: Path) -> None:
    holder = run(folder, "--set", "s.seconds=3")
    wait_until((folder / "run" / "recipe.yaml").exists)
    helper = join(folder)
    wait_until(lambda: done_by(folder, helper))  # in hand while all changes around it
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    again = run(folder, "--set", "s.count=5", "--restart-from", "s")
    assert ended(again)[0] == 0
    assert squares(folder) == f"{[number**2 for number in range(5)]}\n"
    code, words = ended(helper)
    assert code == 0, words


def rank(folder: Path, number: int, size: int) -> subprocess.Popen[str]:
    """A task of a scheduler's."""
    place = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NTASKS": str(size)}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29998"}
    arguments = ("sharing", "rank", "s", "--run-dir", folder / "run")
    return start(*arguments, **place, **meeting, SLURM_JOB_ID="17", SLURM_STEP_ID="0")


def test_a_preempted_first_task_leaves_when_the_others_have_finished_theirs(folder: Path) -> None:
    assert ended(run(folder, "--set", "s.seconds=3", "--dry-run"))[0] == 0
    (folder / "run").mkdir()
    recipe = "name: toy\ns: {seconds: 3}\n"
    (folder / "run" / "recipe.yaml").write_text(recipe, encoding="utf-8")
    first, second = rank(folder, 0, 2), rank(folder, 1, 2)
    wait_until(lambda: done_by(folder, first))
    wait_until(lambda: done_by(folder, second))
    begun = [path.name[:3] for path in folder.glob("run/s.partial/shards-*/[0-9]*.begun.*")]
    first.send_signal(signal.SIGUSR2)
    second.send_signal(signal.SIGUSR2)
    assert ended(first)[0] == 75
    (work,) = folder.glob("run/s.partial/shards-*")
    assert {path.stem for path in work.glob("[0-9]*.txt")} == set(begun)  # none is lost
    assert ended(second)[0] == 0  # by now
    assert list((folder / "run").glob("logs/s/*/rank0001.stops"))
    left = json.loads((folder / "run" / "preempted.json").read_text(encoding="utf-8"))
    assert (left["job"], left["stage"], left["progress"]["unit"]) == ("17", "s", "shard")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_every_process_of_a_task_ends_no_worker(
    number: signal.Signals, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Slurm sends it: also to workers that have yet to begin, and to what they were started with."""
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text("name: toy\ns: {seconds: 1}\n", encoding="utf-8")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    task = rank(folder, 0, 1)
    process = psutil.Process(task.pid)
    wait_until(lambda: len(process.children()) == 3)  # two workers and multiprocessing's tracker
    for _ in range(8):  # from their first moment on
        for each in (process, *process.children()):
            each.send_signal(number)
        time.sleep(0.1)
    code, words = ended(task)
    assert code == 75, words
    assert "died" not in words and "Traceback" not in words, words


def test_a_preempted_first_task_waits_however_long_a_shard_takes_but_not_for_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task 1 works for ten leases and leaves; 2 dies after two of them, 3 fails, 4 never begins."""
    now, died = 0.0, 2 * LEASE_SECONDS

    def sleep(seconds: float) -> None:
        nonlocal now
        now += 20 * seconds
        for rank in (1, 2) if now < died else (1,):
            rank_file(tmp_path, rank, "where").write_text("")
            os.utime(rank_file(tmp_path, rank, "where"), (now, now))
        if now > 10 * LEASE_SECONDS:
            rank_file(tmp_path, 1, "left").touch()

    rank_file(tmp_path, 3, "error").touch()
    monkeypatch.setattr("pipeline.tasks.time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr("pipeline.lease.time", SimpleNamespace(monotonic=lambda: now))
    wait_for_helpers(tmp_path, 5)
    assert 10 * LEASE_SECONDS < now < 10 * LEASE_SECONDS + 30
    alone = now
    wait_for_helpers(tmp_path, 1)
    assert now == alone


@pytest.mark.parametrize("earlier", ["SLURM_RESTART_COUNT", "SLURM_STEP_ID"])
@pytest.mark.parametrize("is_signalled", [True, False])
def test_a_helper_stops_with_the_first_task_though_it_missed_the_signal(
    is_signalled: bool, earlier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, stop = RunDir(tmp_path), StopFlag()
    rank_file(tmp_path, 1, "helps").touch()
    assert lost_helpers(tmp_path) == [1]
    restarts = iter(range(9))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv(earlier, "3")
    record_preemption(run_dir, "s", "stopped by SIGTERM", None)
    monkeypatch.setenv(earlier, "4")  # the word is not of this start

    def sleep(_: float) -> None:
        if next(restarts) == 3:
            record_preemption(run_dir, "s", "stopped by SIGTERM", None)

    monkeypatch.setattr("pipeline.tasks.time", SimpleNamespace(sleep=sleep))
    if is_signalled:
        stop.request("SIGTERM")
    heed(run_dir, "s", stop, rank_file(tmp_path, 1, "stops"))
    assert next(restarts) == (0 if is_signalled else 5)
    assert stop.reason == ("SIGTERM" if is_signalled else "the first task")
    assert lost_helpers(tmp_path) == [], "killed from now on, it has not failed"


def test_a_helper_of_a_holder_that_died_before_it_wanted_help_gives_up(folder: Path) -> None:
    holder = run(folder)
    wait_until(lambda: list((folder / "run").glob("s.partial/shards-*")))
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    (work,) = folder.glob("run/s.partial/shards-*")
    shutil.rmtree(work)
    helper = start("sharing", "join", folder / "run", "s", SUMPIPE_TIMEOUT_SECONDS="2")
    code, words = ended(helper)
    assert code == 1
    assert "nobody has worked here for 2 s" in words


def test_a_helper_that_is_not_told_how_shards_are_made_waits_for_it(folder: Path) -> None:
    holder = run(folder)
    wait_until(lambda: list((folder / "run").glob("s.partial/shards-*/*.begun.*")))
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    (conditions,) = folder.glob("run/**/conditions.json")
    conditions.unlink()
    code, words = ended(start("sharing", "join", folder / "run", "s", SUMPIPE_TIMEOUT_SECONDS="2"))
    assert code == 1
    assert "nobody has worked here for 2 s" in words
    assert "Traceback" not in words


def test_a_helper_of_another_version_is_refused_not_one_with_other_threads(folder: Path) -> None:
    holder = run(folder, "--set", "s.seconds=1.5")
    wait_until(lambda: list((folder / "run").glob("s.partial/shards-*")))
    (file,) = folder.glob("run/logs/s/conditions.json")
    theirs = file.read_text(encoding="utf-8")
    file.write_text(theirs.replace(platform.python_version(), "3.99.1"), encoding="utf-8")
    code, words = ended(join(folder))
    assert code == 1
    assert "python 3.99.1 -> " in words
    file.write_text(theirs, encoding="utf-8")
    helper = start("sharing", "join", folder / "run", "s", SUMPIPE_THREADS="2")
    wait_until(lambda: done_by(folder, helper))
    assert [ended(helper)[0], ended(holder)[0]] == [0, 0]
    assert squares(folder) == SQUARES


@pytest.fixture
def half_done(
    folder: Path, command_line: Callable[..., CommandLine], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Answer]:
    """A run in this process that ended when the first of two steps was done; runs it again."""
    recipe = "name: toy\ns: {seconds: 0, steps: 2}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")

    def again(*more: str, resource: Resource = "cpu") -> Answer:
        stages = [dataclasses.replace(SHARING[0], resource=resource)]
        place = (folder / "recipe.yaml", "--run-dir", folder / "run", "--processes", "1")
        return command_line(stages, SharingRecipe)("run", *place, *more)

    def run_half(config: SConfig, context: StageContext) -> Metrics:
        first, second = shards_s(config, context)
        context.share(first)
        second.claims.mkdir(parents=True)
        second.folder.mkdir()
        raise DataError("half done")

    with monkeypatch.context() as patch:
        patch.setattr(toy_stages, "run_s", run_half)
        assert "half done" in again().err
    return again


@pytest.mark.usefixtures("half_done")
def test_a_helper_that_comes_late_does_the_second_step(
    folder: Path, command_line: Callable[..., CommandLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUMPIPE_TIMEOUT_SECONDS", "1")
    join_here = command_line(SHARING, SharingRecipe)
    helped = join_here("join", folder / "run", "s", "--processes", "1")
    assert "12/12 shards are done" in helped.err
    assert (helped.code, "though all its shards are done" in helped.err) == (1, True)
    (second,) = folder.glob("run/s.partial/shards-*-step1")
    assert len([*second.glob("*.txt")]) == 12


def test_work_begun_under_other_versions_is_not_continued(
    folder: Path, half_done: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = snapshot(folder / "run" / "s.partial")
    version = provenance._version
    other = {"rensa": "9.9"}
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "_version", lambda name: other.get(name) or version(name))
        refused = half_done()
        assert refused.code == EXIT_STALE
        assert f"packages.rensa {version('rensa')} -> 9.9" in refused.err
        assert "--restart-from s" in refused.err
        assert snapshot(folder / "run" / "s.partial") == begun
    assert half_done().code == 0  # as it was begun
    assert squares(folder) == SQUARES


def test_work_begun_under_other_versions_is_made_anew_when_asked_for(
    folder: Path, half_done: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance.platform, "python_version", lambda: "3.99.1")
    assert "python " in half_done().err
    assert half_done("--restart-from", "s").code == 0
    assert squares(folder) == SQUARES


@pytest.mark.parametrize(("resource", "code"), [("cpu", 0), ("gpu", EXIT_STALE)])
def test_other_threads_continue_what_they_do_not_change(
    resource: Resource,
    code: int,
    half_done: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUMPIPE_THREADS", "2")
    done = half_done(resource=resource)
    assert done.code == code, done.err
    assert ("threads 1 -> 2" in done.err) == (code == EXIT_STALE)


def test_work_of_unknown_conditions_is_continued_with_a_warning(
    folder: Path, half_done: Callable[..., Answer]
) -> None:
    (folder / "run" / "logs" / "s" / "conditions.json").unlink()
    done = half_done()
    assert done.code == 0
    assert "conditions.json: is gone" in done.err


@pytest.mark.parametrize(
    ("stage", "words"), [("s", "is not a run directory"), ("t", "unknown stage 't'")]
)
def test_what_cannot_be_helped_with_is_said(folder: Path, stage: str, words: str) -> None:
    code, told = ended(start("sharing", "join", folder / "run", stage))
    assert code == 2
    assert words in told
