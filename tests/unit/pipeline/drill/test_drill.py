"""The parts of a drill: its folder, its waits, its ambush, its report and its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.artifact import RunDir
from pipeline.claim import Claim
from pipeline.drill import ambush
from pipeline.drill.folder import MARKER, emptied
from pipeline.drill.local import kill_tree
from pipeline.drill.rehearsal import Outcome, Status
from pipeline.drill.report import Report
from pipeline.drill.watch import Fresh, Watch, is_there
from pipeline.errors import EXIT_USAGE, ConfigError, LaunchError, Preempted, RunDirInUse
from pipeline.preemption import StopFlag
from tests.conftest import CommandLine

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def sleeper(*words: str, program: str = SLEEP) -> subprocess.Popen[str]:
    """Start a process that does nothing, and wait until it does so."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def reaped(process: subprocess.Popen[str]) -> int:
    with process:
        return process.wait(timeout=20)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not the folder of a drill"), emptied(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_an_earlier_drill_makes_room(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "drill"
    with emptied(folder):
        (folder / "reference").mkdir()
        (folder / "drill.json").write_text("{}", encoding="utf-8")
    with emptied(folder):
        visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    assert visible == []
    assert (folder / MARKER).is_file()


def test_two_drills_do_not_share_a_folder(tmp_path: Path) -> None:
    with emptied(tmp_path):
        (tmp_path / "reference").mkdir()
        with pytest.raises(RunDirInUse, match="another drill"), emptied(tmp_path):
            pass
        assert (tmp_path / "reference").is_dir()
    assert Claim(tmp_path / ".drill.lease").take()


def test_a_wait_ends_in_one_of_three_ways() -> None:
    stop = StopFlag()
    answers = iter([False, False, True])
    assert Watch(60, 0.001, stop).until("it", lambda: next(answers)) < 10
    with pytest.raises(LaunchError, match=r"waited 0.05 s in vain for a bus; --limit"):
        Watch(0.05, 0.001, stop).until("a bus", lambda: False)
    stop.request("SIGINT")
    with pytest.raises(Preempted, match="stopped by SIGINT while it waited for a bus"):
        Watch(60, 0.001, stop).until("a bus", lambda: False)


def test_a_file_is_fresh_when_it_is_new_or_written_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    is_new = Fresh(file)
    assert not is_new()
    file.write_text("1", encoding="utf-8")
    assert is_new()
    is_rewritten = Fresh(file)
    assert not is_rewritten()
    other = tmp_path / "other"
    other.write_text("2", encoding="utf-8")
    other.replace(file)
    assert is_rewritten()
    file.unlink()
    assert not is_rewritten()


def test_what_is_there_may_lie_deep(tmp_path: Path) -> None:
    assert not is_there(tmp_path / "nowhere", "*/x")
    (tmp_path / "update_1.partial").mkdir()
    assert not is_there(tmp_path, "update_1.partial/*")
    (tmp_path / "update_1.partial" / "file").touch()
    assert is_there(tmp_path, "update_?.partial/*")


def test_an_ambush_kills_the_ranks_of_its_run_alone(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    rank, stranger = sleeper(str(run_dir.root)), sleeper()
    launch = run_dir.logs("finetune") / "port-1"
    launch.mkdir(parents=True)
    dead = reaped(subprocess.Popen([sys.executable, "-c", ""], text=True))
    assert dead == 0
    for number, text in enumerate((str(rank.pid), str(stranger.pid), "")):
        (launch / f"rank{number:04d}.pid").write_text(text, encoding="ascii")
    order = [str(run_dir.root), "finetune", "finetune.partial/*"]
    assert ambush.main([*order, "0.05"]) == 1
    assert rank.poll() is None
    (run_dir.root / "finetune.partial").mkdir()
    (run_dir.root / "finetune.partial" / "moment").touch()
    try:
        assert ambush.main([*order, "60"]) == 0
        assert reaped(rank) == -9
        assert stranger.poll() is None
    finally:
        stranger.kill()
        reaped(stranger)


def test_a_tree_is_killed_with_its_leaves() -> None:
    program = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
child.wait()
"""
    process = sleeper(program=program)  # it is the child that says it is up
    (child,) = psutil.Process(process.pid).children()
    kill_tree(process)  # type: ignore[arg-type]
    assert reaped(process) == -9
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    kill_tree(process)  # type: ignore[arg-type]  # once more does no harm


@pytest.mark.parametrize(
    ("statuses", "passed"),
    [
        ([Status.PASSED, Status.PASSED], True),
        ([Status.PASSED, Status.MISSED, Status.SKIPPED], True),
        ([Status.PASSED, Status.FAILED], False),
        ([Status.MISSED, Status.SKIPPED], False),
        ([], False),
    ],
)
def test_a_drill_is_passed_if_something_was_disturbed_and_nothing_failed(
    statuses: list[Status], passed: bool
) -> None:
    outcomes = [Outcome("b", "stop", status) for status in statuses]
    report = Report("runs/drill", 2, 1, 33.333, outcomes)
    assert report.passed is report.to_json()["passed"] is passed
    assert report.summary().startswith("PASS:" if passed else "FAIL:")
    assert report.summary().endswith("The runs lie in runs/drill")


def test_a_line_and_its_json_say_the_same() -> None:
    outcome = Outcome("b", "stop in b", Status.PASSED, "", "3 files", 0, 0.21234, 12.3456)
    assert str(outcome) == (
        "passed     stop in b: 0 updates lost, saved after 0.2 s, back after 12.3 s, 3 files"
    )
    (told,) = Report("runs/drill", 2, 1, 33.333, [outcome]).to_json()["disturbances"]
    assert json.loads(json.dumps(told)) == {
        "exercise": "b",
        "disturbance": "stop in b",
        "status": "passed",
        "why": "",
        "compared": "3 files",
        "updates_lost": 0,
        "seconds_to_save": 0.212,
        "seconds_to_resume": 12.346,
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--nodes", "2"), "--nodes: is for a cluster; add --slurm"),
        (("--slurm", "--processes", "2"), "--processes is not for --slurm"),
        (("no-such-recipe",), "neither a file nor a packaged recipe"),
        (("--slurm", "--time", "soon"), "time"),
        (("--ds-config", "zero9"), "zero9"),
    ],
)
def test_a_wrong_command_line_touches_nothing(
    arguments: tuple[str, ...], told: str, sumpipe: CommandLine, tmp_path: Path
) -> None:
    answer = sumpipe("drill", "--dir", tmp_path / "drill", *arguments)
    assert (answer.code, answer.out) == (EXIT_USAGE, "")
    assert told in answer.err
    assert not (tmp_path / "drill").exists()
