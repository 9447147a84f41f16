"""The parts of a drill: its folder, its waits, its ambush, its report and its command line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.artifact import RunDir
from pipeline.claim import Claim
from pipeline.drill import ambush, command
from pipeline.drill import folder as folder_module
from pipeline.drill.folder import MARKER, emptied
from pipeline.drill.local import kill_tree
from pipeline.drill.rehearsal import Outcome, Status
from pipeline.drill.report import Report
from pipeline.drill.watch import Fresh, Watch, is_there
from pipeline.errors import (
    EXIT_FAILED,
    EXIT_USAGE,
    ConfigError,
    LaunchError,
    Preempted,
    RunDirInUse,
    StorageError,
)
from pipeline.preemption import StopFlag, uninterrupted
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
        here = rf"another drill .*host {socket.gethostname()}, pid {os.getpid()}\)"
        with pytest.raises(RunDirInUse, match=here), emptied(tmp_path):
            pass
        assert (tmp_path / "reference").is_dir()
    assert Claim(tmp_path / ".drill.lease").take()


DEAD = """
import os, sys
from pathlib import Path
import filelock._identity, filelock._marker
from pipeline.claim import Claim
filelock._marker.host_name = lambda: "deadnode"
claim = Claim(Path(sys.argv[1]), float(sys.argv[2]))
assert claim.take()
os._exit(0)
"""


@pytest.mark.parametrize("is_named", [True, False], ids=["another host", "nameless"])
def test_a_drill_that_died_elsewhere_is_waited_for_and_replaced(
    is_named: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(folder_module, "LEASE_SECONDS", 0.5)
    with emptied(tmp_path):
        (tmp_path / "reference").mkdir()
    marker = tmp_path / ".drill.lease"
    if is_named:
        subprocess.run([sys.executable, "-c", DEAD, str(marker), "0.5"], check=True)
    else:
        marker.touch()
    with emptied(tmp_path):
        assert not (tmp_path / "reference").exists()
    who = r"host deadnode, pid \d+" if is_named else "no name"
    assert re.search(rf"another drill .*{who}.* Waiting 0 s", caplog.text)


def test_a_folder_that_cannot_be_made_is_told_by_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match=r"--dir .*file/drill: Not a directory; choose a folder"),
        emptied(tmp_path / "file" / "drill"),
    ):
        pass


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


def test_nothing_is_left_stopped_if_the_killing_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_: psutil.Process, recursive: bool = False) -> list[psutil.Process]:
        raise KeyboardInterrupt

    process = sleeper()
    monkeypatch.setattr(psutil.Process, "children", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            kill_tree(process)  # type: ignore[arg-type]
        assert reaped(process) == -9
    finally:
        process.kill()


def test_an_interrupt_waits_for_what_must_not_be_interrupted() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner may ignore it
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)


P, M, S, F = Status.PASSED, Status.MISSED, Status.SKIPPED, Status.FAILED


@pytest.mark.parametrize(
    ("statuses", "why"),
    [
        ({"b": [P, P], "c": [P]}, ""),
        ({"b": [M, P], "c": [M, S]}, ""),
        ({"b": [P, F]}, "a disturbance failed"),
        ({"b": [P], "c": [F]}, "a disturbance failed"),
        ({"b": [M, S], "c": [P]}, "nothing disturbed b in time, which is what a drill is for"),
        ({}, "nothing disturbed b in time, which is what a drill is for"),
    ],
)
def test_a_drill_is_passed_if_what_matters_was_disturbed_and_nothing_failed(
    statuses: dict[str, list[Status]], why: str
) -> None:
    outcomes = [
        Outcome("an exercise", stage, "stop", status)
        for stage, found in statuses.items()
        for status in found
    ]
    report = Report("runs/drill", 2, 1, 33.333, outcomes, needed="b")
    assert report.passed is report.to_json()["passed"] is (not why)
    assert report.to_json()["why"] == why
    assert report.summary().startswith("FAIL:" if why else "PASS:")
    assert why in report.summary()
    assert report.summary().endswith("The runs lie in runs/drill")


def test_a_line_and_its_json_say_the_same() -> None:
    outcome = Outcome("x", "b", "stop in b", Status.PASSED, "", "3 files", 0, 0.21234, 12.3456)
    assert str(outcome) == (
        "passed     stop in b: 0 updates lost, saved after 0.2 s, back after 12.3 s, 3 files"
    )
    (told,) = Report("runs/drill", 2, 1, 33.333, [outcome]).to_json()["disturbances"]
    assert json.loads(json.dumps(told)) == {
        "exercise": "x",
        "stage": "b",
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
        (("--python", sys.executable), "--python: is for a cluster; add --slurm"),
        (("--slurm", "--python", "no-such-program"), "--python no-such-program: is no program"),
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


@pytest.mark.parametrize("as_json", [True, False])
def test_what_cannot_be_written_down_is_told_all_the_same(
    as_json: bool, sumpipe: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    report = Report("runs/drill", 2, 1, 33.3, [Outcome("x", "b", "stop", Status.PASSED)])
    monkeypatch.setattr(command, "_carry_out", lambda *_, **__: report)
    monkeypatch.setattr(command, "write_json", full)
    answer = sumpipe("drill", "--dir", tmp_path / "drill", *(["--json"] if as_json else []))
    assert answer.code == EXIT_FAILED
    assert '"passed": true' in answer.out if as_json else answer.out.startswith("PASS: 1 passed")
    assert "drill.json: No space left on device" in answer.err
