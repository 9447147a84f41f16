"""Ranks that die, stop, hang or are asked to stop, under the real launcher: what happens to the job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.artifact import RunDir
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED, Preempted
from pipeline.launch import launch_group
from pipeline.preemption import StopFlag, is_alive
from pipeline.stage import Execution
from tests.launching import CHECKOUT, TINY, copy_run, environment, kill_tree, sumpipe, wait_for

pytestmark = pytest.mark.distributed

TOY, PROJECT = "tests.fakes.toy_group", "stages"
TIMEOUT = 12
"""Seconds that ranks wait for each other where a test lets them wait in vain."""


class Job:
    """A `run` of two ranks or more in processes of its own, and the processes it consists of."""

    def __init__(self, module: str, stage: str, run_dir: Path, *arguments: str | Path) -> None:
        self.run_dir, self.stage = run_dir, stage
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "run", *map(str, arguments), "--run-dir", str(run_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=CHECKOUT,
            env=environment({"SUMPIPE_TIMEOUT_SECONDS": str(TIMEOUT)}),
            start_new_session=True,
        )

    @property
    def work(self) -> Path:
        return self.run_dir / f"{self.stage}.partial"

    def ranks(self) -> list[psutil.Process]:
        """The ranks that have left their pid in this launch, by rank."""
        launches = (self.run_dir / "logs" / self.stage).glob(f"*-{self.process.pid}/rank*.pid")
        return [psutil.Process(int(file.read_text("ascii"))) for file in sorted(launches)]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def launcher(self, module: str) -> psutil.Process:
        (found,) = [member for member in self.family() if module in member.cmdline()]
        return found

    def until(self, is_reached: Callable[[], bool]) -> None:
        wait_for(self.process, is_reached)

    def end(self) -> tuple[int, str, float]:
        """Wait for the end; return the exit code, what was said and how many seconds it took."""
        started = time.monotonic()
        output, _ = self.process.communicate(timeout=120)
        return self.process.returncode, output, time.monotonic() - started


@pytest.fixture
def new_job() -> Iterator[Callable[..., Job]]:
    """Start a run; whatever a failed test leaves of it is killed, stopped ranks too."""
    jobs = []

    def begin(*arguments: Any) -> Job:
        jobs.append(Job(*arguments))
        return jobs[-1]

    yield begin
    for job in jobs:
        if job.process.poll() is None:
            kill_tree(job.process)


@pytest.fixture
def toy_job(new_job: Callable[..., Job], tmp_path: Path) -> Callable[..., Job]:
    """Start the toy group, always in the same run directory."""
    recipe = tmp_path / "toy.yaml"
    recipe.write_text("name: toy\n", encoding="utf-8")

    def begin(*settings: str, processes: int = 2, units: int = 1000) -> Job:
        options = [f"--set=group.{setting}" for setting in (*settings, f"units={units}")]
        return new_job(TOY, "group", tmp_path / "run", recipe, f"--processes={processes}", *options)

    return begin


def units_done(job: Job) -> int:
    counter = job.work / "unit.txt"
    return int(counter.read_text("ascii")) if counter.exists() else 0


def begun(job: Job) -> Job:
    job.until(lambda: units_done(job) >= 5)
    return job


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]


@pytest.mark.parametrize(
    ("rank", "setting"),
    [
        pytest.param(0, "pause_ms=100", id="rank 0", marks=pytest.mark.slow),
        pytest.param(1, "pause_ms=100", id="rank 1"),
        pytest.param(1, "alone_at=5", id="rank 1 while the others work alone"),
    ],
)
def test_a_killed_rank_ends_the_job_in_seconds(
    rank: int, setting: str, toy_job: Callable[..., Job]
) -> None:
    job = begun(toy_job(setting))
    family = job.family()
    job.ranks()[rank].kill()
    code, output, seconds = job.end()
    assert code == EXIT_FAILED
    assert f"without a word: rank {rank}, which means killed" in output
    assert "Run the same command again" in output
    assert seconds < 20  # the launcher alone would wait 30 s for the others
    assert living(family) == []


@pytest.mark.slow
def test_a_stopped_rank_is_named_at_the_timeout(toy_job: Callable[..., Job]) -> None:
    """Rank 0, whose process also serves the rendezvous; others: the tests below."""
    rank = 0
    job = toy_job()
    job.until(lambda: units_done(job) >= 20)  # ranks say where they are every twentieth of TIMEOUT
    family = job.family()
    job.ranks()[rank].suspend()
    code, output, seconds = job.end()
    assert code == EXIT_FAILED, output
    assert f"waited {TIMEOUT} s at unit" in output
    assert re.search(
        rf"in vain for rank {rank} \(rank {rank}: on .*, last seen at unit \d+, without a sign of life",
        output,
    ), output
    assert TIMEOUT - 1 < seconds < TIMEOUT + 20
    assert living(family) == []
    done = units_done(job)
    again = toy_job(units=done + 1)
    assert again.end()[0] == EXIT_DONE


@pytest.mark.slow
def test_a_stuck_rank_is_named_among_three(toy_job: Callable[..., Job]) -> None:
    job = toy_job("stuck_rank=1", processes=3)
    job.until(lambda: units_done(job) == 3)
    family = job.family()
    code, output, _ = job.end()
    assert code == EXIT_FAILED
    assert f"waited {TIMEOUT} s at unit 3 in vain for rank 1 (rank 1: on " in output
    assert "last seen at unit 3, alive but busy with something else)" in output
    assert living(family) == []


PATIENT = """
import sys
from pipeline import cli, rank
from pipeline.distributed import collectives
from pipeline.preemption import StopFlag
from tests.fakes.toy_group import STAGES, GroupRecipe

if __name__ == "__main__":
    collectives.LATER_SECONDS["gloo"] = 600
    if "--lease" in sys.argv:
        stop = StopFlag()
        stop.listen()
        sys.exit(rank.main(STAGES, GroupRecipe, sys.argv[1:], stop))
    sys.exit(cli.main(STAGES, GroupRecipe, rank_module="patient_group", about="Toys"))
"""
"""The toy group on a backend that does not end a wait at our timeout with an error, as NCCL does not."""


@pytest.mark.slow
def test_a_wait_that_the_backend_does_not_end_is_ended_by_us_with_the_name(
    new_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "patient_group.py").write_text(PATIENT, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    recipe = tmp_path / "toy.yaml"
    recipe.write_text("name: toy\n", encoding="utf-8")
    options = ("--processes=3", "--set=group.stuck_rank=1", "--set=group.units=1000")
    job = new_job("patient_group", "group", tmp_path / "run", recipe, *options)
    job.until(lambda: units_done(job) == 3)
    family = job.family()
    code, output, seconds = job.end()
    assert code == EXIT_FAILED
    assert f"waited {TIMEOUT} s at unit 3 in vain for rank 1 (rank 1: on " in output
    assert seconds < TIMEOUT + 20
    assert living(family) == []


def test_orphans_of_a_killed_launcher_checkpoint_and_leave(toy_job: Callable[..., Job]) -> None:
    job = begun(toy_job())
    family = job.family()
    job.launcher("deepspeed.launcher.launch").kill()
    code, output, _ = job.end()
    assert code == EXIT_PREEMPTED, output
    assert "the launcher was killed" in output
    assert living(family) == []


def test_a_signal_to_all_before_any_rank_has_begun_is_no_failure(
    toy_job: Callable[..., Job],
) -> None:
    """As a scheduler sends it: the launcher and its half-imported ranks die of it."""
    job = toy_job()
    job.until(lambda: len(job.family()) >= 3)  # the launcher and two ranks
    assert job.ranks() == []
    for member in [*job.family(), psutil.Process(job.process.pid)]:
        member.terminate()
    code, output, _ = job.end()
    assert code == EXIT_PREEMPTED, output
    assert "stopped by SIGTERM without a new checkpoint" in output


@pytest.mark.slow
def test_ranks_that_do_not_stop_in_time_are_killed_and_it_is_no_failure(
    toy_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(toy_job())
    kill_tree(job.process)
    monkeypatch.setattr("pipeline.launch.STOP_GRACE_SECONDS", 3.0)
    monkeypatch.setattr(
        StopFlag, "reason", property(lambda _: "SIGTERM" if begun_again() else None)
    )
    stopped: list[psutil.Process] = []

    def begun_again() -> bool:
        """Whether both ranks are under way, stopped by then."""
        files = (job.run_dir / "logs" / "group").glob(f"*-{os.getpid()}/rank*.pid")
        ranks = [psutil.Process(int(text)) for file in files if (text := file.read_text("ascii"))]
        if len(ranks) == 2 and not stopped:
            for rank in ranks:
                rank.suspend()
            stopped.extend(ranks)
        return len(stopped) == 2

    execution = Execution(2, 1, CHECKOUT / "ds_configs" / "zero2.json")
    with pytest.raises(Preempted, match="stopped by SIGTERM without a new checkpoint"):
        launch_group(TOY, "group", RunDir(job.run_dir), execution, "token", StopFlag())
    assert living(stopped) == []


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("faults") / "encoded"
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--to", "encode")
    assert done.returncode == 0, done.stderr
    return run_dir


FINETUNE = (TINY, "--only", "finetune", "--processes", "2")


@pytest.fixture(scope="module")
def uninterrupted(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = copy_run(encoded, tmp_path_factory.mktemp("uninterrupted") / "run")
    done = sumpipe("run", *FINETUNE, "--run-dir", run_dir)
    assert done.returncode == 0, done.stderr
    return run_dir


def records(job: Job) -> list[dict[str, float]]:
    log = job.work / "metrics.jsonl"
    text = log.read_text("utf-8") if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def is_starting(job: Job) -> bool:
    return len(job.ranks()) == 2 and not records(job)


def is_training(job: Job) -> bool:
    return bool(records(job)) and 2 <= records(job)[-1]["update"] <= 4


def is_validating(job: Job) -> bool:
    """The record of update 10 is written before its validation, that of the validation after it."""
    return bool(records(job)) and records(job)[-1]["update"] == 10 and "loss" in records(job)[-1]


def is_checkpointing(job: Job) -> bool:
    partial = job.work / "checkpoints" / "update_00000010.partial"
    return any(path.is_file() for path in partial.rglob("*"))


def frozen_in(job: Job, phase: Callable[[Job], bool]) -> list[psutil.Process]:
    """Stop all ranks in a phase, for certain: it still holds when they are stopped."""
    job.until(lambda: phase(job))
    ranks = job.ranks()
    for rank in ranks:
        rank.suspend()
    assert phase(job), "the moment passed before the ranks were stopped"
    return ranks


def has_pending(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a stopped process will get a signal when it goes on."""
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    (mask,) = re.findall(r"^ShdPnd:\s*([0-9a-f]+)$", status, re.M)
    return bool(int(mask, 16) >> (number - 1) & 1)


def result(run_dir: Path) -> dict[str, bytes]:
    """Weights, optimizer state and probe of a finished fine-tuning."""
    folder = run_dir / "finetune"
    found = [*folder.rglob("*.pt"), folder / "probe.safetensors"]
    assert len(found) >= 4
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "number", "is_for_one_rank", "committed"),
    [
        (is_starting, signal.SIGTERM, False, []),
        (is_training, signal.SIGUSR2, True, [3, 4, 5]),
        (is_validating, signal.SIGTERM, False, [10]),
        (is_checkpointing, signal.SIGUSR2, False, [10, 11]),
    ],
    ids=["start-up", "training", "validation", "checkpointing"],
)
def test_a_stop_in_any_phase_is_committed_and_continued_to_the_same_bytes(
    phase: Callable[[Job], bool],
    number: signal.Signals,
    is_for_one_rank: bool,
    committed: list[int],
    encoded: Path,
    uninterrupted: Path,
    new_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    job = new_job(PROJECT, "finetune", copy_run(encoded, tmp_path / "run"), *FINETUNE)
    ranks = frozen_in(job, phase)
    family = job.family()
    if is_for_one_rank:
        ranks[1].send_signal(number)
    else:
        job.process.send_signal(number)
        job.until(lambda: all(has_pending(rank, signal.SIGTERM) for rank in ranks))
    for rank in ranks:
        rank.resume()
    code, output, seconds = job.end()
    assert code == EXIT_PREEMPTED, output
    assert seconds < 60
    assert living(family) == []
    assert json.loads((job.run_dir / "preempted.json").read_text("utf-8"))["stage"] == "finetune"
    checkpoints = sorted(path.name for path in (job.work / "checkpoints").glob("*"))
    assert not [name for name in checkpoints if name.endswith(".partial")]
    newest = [int(name.removeprefix("update_")) for name in checkpoints[-1:]]
    assert newest == [] if not committed else newest[0] in committed
    done = sumpipe("run", *FINETUNE, "--run-dir", job.run_dir)
    assert done.returncode == EXIT_DONE, done.stderr
    assert result(job.run_dir) == result(uninterrupted)


@pytest.mark.slow
def test_a_rank_stopped_in_training_ends_it_at_the_timeout_and_nothing_is_lost(
    encoded: Path,
    uninterrupted: Path,
    new_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    """DeepSpeed waits in groups of its own, which must have our timeout, too."""
    job = new_job(PROJECT, "finetune", copy_run(encoded, tmp_path / "run"), *FINETUNE)
    job.until(lambda: (job.work / "checkpoints" / "update_00000005").is_dir())
    family, ranks = job.family(), job.ranks()
    ranks[0].suspend()
    code, output, seconds = job.end()
    assert code == EXIT_FAILED, output
    assert "in vain for rank 0 (rank 0: on " in output
    assert TIMEOUT - 1 < seconds < TIMEOUT + 20
    assert living(family) == []
    done = sumpipe("run", *FINETUNE, "--run-dir", job.run_dir)
    assert done.returncode == EXIT_DONE, done.stderr
    assert result(job.run_dir) == result(uninterrupted)
