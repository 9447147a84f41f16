"""One process at a time in a run directory; a dead one does not stand in the way."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import lease
from pipeline.artifact import RunDir
from pipeline.errors import EXIT_FAILED, RunDirInUse
from pipeline.files import read_json, write_json
from tests.fakes.toy_stages import start, wait_until

HOLDER = """
import socket, sys
from pathlib import Path
import filelock._identity, filelock._marker
from pipeline import lease
from pipeline.artifact import RunDir
root, host, seconds = sys.argv[1:]
if host:
    filelock._marker.host_name = lambda: host
    socket.gethostname = lambda: host
lease.LEASE_SECONDS = float(seconds)
with lease.hold(RunDir(Path(root)), "job17"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def other_process(run_dir: RunDir, host: str = "", seconds: float = 60.0) -> Iterator[int]:
    """Hold the run directory in another process; gives its pid."""
    command = [sys.executable, "-c", HOLDER, str(run_dir.root), host, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    (tmp_path / "run").mkdir()
    return RunDir(tmp_path / "run")


def test_a_free_run_directory_is_held_and_given_back(run_dir: RunDir) -> None:
    for _ in range(2):
        with lease.hold(run_dir, None) as token:
            lease.require(run_dir, token)
            assert run_dir.lease.exists()
        assert not run_dir.lease.exists()
        with pytest.raises(RunDirInUse):
            lease.require(run_dir, token)


def test_it_is_given_back_after_an_error(run_dir: RunDir) -> None:
    with pytest.raises(KeyError), lease.hold(run_dir, None):
        raise KeyError
    with lease.hold(run_dir, None):
        pass


def test_a_second_process_is_refused_and_told_who_is_there(run_dir: RunDir) -> None:
    with other_process(run_dir) as pid:
        started = time.monotonic()
        with pytest.raises(RunDirInUse) as failure, lease.hold(run_dir, None):
            pass
        assert time.monotonic() - started < 5
    message = str(failure.value)
    assert all(word in message for word in (socket.gethostname(), f"pid {pid}", "job17"))
    assert str(run_dir.root) in message
    assert failure.value.exit_code == EXIT_FAILED


def test_a_refused_process_does_not_disturb_the_holder(run_dir: RunDir) -> None:
    with lease.hold(run_dir, None) as token:
        with pytest.raises(RunDirInUse), lease.hold(run_dir, None):
            pass
        lease.require(run_dir, token)


def test_a_dead_holder_on_this_host_is_replaced_at_once(run_dir: RunDir) -> None:
    with other_process(run_dir) as pid:
        os.kill(pid, signal.SIGKILL)
    assert run_dir.lease.exists()
    started = time.monotonic()
    with lease.hold(run_dir, None) as token:
        lease.require(run_dir, token)
    assert time.monotonic() - started < 5


def test_an_earlier_start_of_the_same_job_is_superseded_though_it_lives(run_dir: RunDir) -> None:
    """Slurm took its node to be lost, and started the job on others."""
    with other_process(run_dir, host="farnode"):
        first = read_json(run_dir.holder)["token"]
        started = time.monotonic()
        with lease.hold(run_dir, "job17", restarts=1) as token:
            lease.require(run_dir, token)
            with pytest.raises(RunDirInUse, match="lost its hold"):
                lease.require(run_dir, first)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(("job", "restarts"), [("job17", 0), ("job18", 1), (None, 1)])
def test_only_a_later_start_of_the_same_job_supersedes(
    job: str | None, restarts: int, run_dir: RunDir
) -> None:
    with (
        other_process(run_dir),
        pytest.raises(RunDirInUse),
        lease.hold(run_dir, job, restarts=restarts),
    ):
        pass


def test_a_dead_holder_on_another_host_is_replaced_after_the_lease(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node died: a user (or scheduler) who tries again every so often gets in."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)
    with other_process(run_dir, host="deadnode", seconds=0.3) as pid:
        os.kill(pid, signal.SIGKILL)
    for _ in range(5):
        with contextlib.suppress(RunDirInUse), lease.hold(run_dir, None) as token:
            lease.require(run_dir, token)
            return
        time.sleep(0.4)
    pytest.fail("a silent holder on another host is never replaced")


def test_a_dead_holder_in_another_container_is_replaced_after_the_lease(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, on this host, its pid was that of a process which lives here."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)
    with other_process(run_dir, host=f"{socket.gethostname()}?pidns-f0000abc", seconds=0.3) as pid:
        os.kill(pid, signal.SIGKILL)
    left = read_json(run_dir.holder)
    assert left["pid_namespace"] == Path("/proc/self/ns/pid").stat().st_ino
    there = {**left, "host": socket.gethostname(), "pid": os.getpid(), "pid_namespace": 0xF0000ABC}
    write_json(run_dir.holder, there)
    with lease.hold(run_dir, None) as token:
        lease.require(run_dir, token)


def test_a_holder_that_named_no_container_is_taken_to_be_in_this_one(run_dir: RunDir) -> None:
    with other_process(run_dir) as pid:
        left = read_json(run_dir.holder)
        del left["pid_namespace"]  # as earlier versions wrote it
        write_json(run_dir.holder, left)
        started = time.monotonic()
        with pytest.raises(RunDirInUse, match=f"pid {pid}"), lease.hold(run_dir, None):
            pass
        assert time.monotonic() - started < 5


def test_a_living_holder_on_another_host_is_not_replaced(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.6)
    with other_process(run_dir, host="farnode", seconds=0.6):
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            with pytest.raises(RunDirInUse), lease.hold(run_dir, None):
                pass
            time.sleep(0.1)


def test_a_superseded_holder_is_told_and_leaves_its_successor_alone(run_dir: RunDir) -> None:
    with contextlib.ExitStack() as later:
        with lease.hold(run_dir, None) as token:
            run_dir.lease.unlink()
            pid = later.enter_context(other_process(run_dir))
            with pytest.raises(RunDirInUse, match=f"pid {pid}"):
                lease.require(run_dir, token)
        assert run_dir.lease.exists()
        with pytest.raises(RunDirInUse, match=f"pid {pid}"), lease.hold(run_dir, None):
            pass


@pytest.mark.parametrize("text", ["", "garbage", "token=", "token=0123"])
def test_a_damaged_marker_is_no_proof_of_holding(text: str, run_dir: RunDir) -> None:
    with lease.hold(run_dir, None) as token:
        marker = run_dir.lease.read_text(encoding="utf-8")
        run_dir.lease.write_text(text, encoding="utf-8")
        with pytest.raises(RunDirInUse):
            lease.require(run_dir, token)
        run_dir.lease.write_text(marker, encoding="utf-8")


def test_a_superseded_run_commits_nothing(toy_recipe: Path, tmp_path: Path) -> None:
    run_dir, gate = RunDir(tmp_path / "run"), tmp_path / "gate"
    arguments = (toy_recipe, "--run-dir", run_dir.root, "--set", f"b.wait_for={gate}")
    with start("run", *arguments) as process:
        wait_until(run_dir.partial("b") / "unit0.txt")
        run_dir.lease.unlink()
        with lease.hold(run_dir, None):
            gate.touch()
            _, err = process.communicate(timeout=20)
    assert process.returncode == EXIT_FAILED, err
    assert f"pid {os.getpid()}" in err
    assert "Traceback" not in err
    assert run_dir.artifact("a") is not None
    assert run_dir.artifact("b") is None
