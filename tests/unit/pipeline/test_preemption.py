"""Stopping on request: signals set a flag, loops meet it at a boundary, the run says "requeue me"."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.artifact import RunDir
from pipeline.errors import EXIT_DONE, EXIT_PREEMPTED, Preempted
from pipeline.preemption import SIGNALS, StopFlag, spared_children
from tests.fakes.toy_stages import snapshot, start, wait_until


@pytest.fixture
def listening() -> Iterator[StopFlag]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    flag = StopFlag()
    flag.listen()
    yield flag
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for_reason(flag: StopFlag, seconds: float = 10.0) -> str:
    deadline = time.monotonic() + seconds
    while flag.reason is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert flag.reason is not None
    return flag.reason


def test_nothing_stops_without_being_asked() -> None:
    flag = StopFlag()
    assert flag.reason is None
    flag.check()


def test_the_first_reason_is_kept() -> None:
    flag = StopFlag()
    flag.request("one")
    flag.request("two")
    assert flag.reason == "one"
    with pytest.raises(Preempted, match="one") as stopped:
        flag.check()
    assert stopped.value.exit_code == EXIT_PREEMPTED == 75


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_stop_by_its_name(listening: StopFlag, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    assert wait_for_reason(listening) == number.name
    with pytest.raises(Preempted, match=number.name):
        listening.check()


def test_a_second_interrupt_interrupts_at_once(listening: StopFlag) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    wait_for_reason(listening)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_repeated_polite_signals_stay_polite(listening: StopFlag) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    assert wait_for_reason(listening) == "SIGTERM"


def test_a_signal_to_all_is_heard_here_and_ends_no_program_started_here(
    listening: StopFlag,
) -> None:
    with spared_children(), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        for number in SIGNALS:
            child.send_signal(number)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert wait_for_reason(listening) == "SIGUSR2"
        child.communicate()
    assert child.returncode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SIGNALS)


def test_the_death_of_the_supervisor_asks_for_a_stop() -> None:
    flag = StopFlag()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as supervisor:
        flag.watch_supervisor(supervisor.pid)
        time.sleep(0.1)
        assert flag.reason is None
        supervisor.kill()
        wait_for_reason(flag)


def test_a_supervisor_that_is_gone_already_asks_for_a_stop() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    flag = StopFlag()
    flag.watch_supervisor(gone.pid)
    wait_for_reason(flag)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGINT])
def test_a_stopped_run_keeps_its_units_and_continues(
    number: signal.Signals, toy_recipe: Path, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run")
    arguments = ("run", toy_recipe, "--run-dir", run_dir.root)
    gate = tmp_path / "gate"
    with start(*arguments, "--set", f"b.wait_for={gate}") as process:
        wait_until(run_dir.partial("b") / "unit0.txt")
        time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == EXIT_PREEMPTED, err
    assert "Traceback" not in err
    assert json.loads(run_dir.preempted.read_text(encoding="utf-8"))["stage"] == "b"
    kept = snapshot(run_dir.partial("b"))
    assert "unit0.txt" in kept
    with start(*arguments) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == EXIT_DONE, err
    after = snapshot(run_dir.committed("b"))
    assert {name: after[name] for name in kept} == kept
    assert run_dir.artifact("c") is not None
    assert not run_dir.preempted.exists()
