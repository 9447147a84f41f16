"""clean and encode shared by five processes on three hosts, of which some are killed and one is paused."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.claim import LEASE_SECONDS
from pipeline.files import record_tree
from tests.launching import TINY, environment, sumpipe

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = "fetch.dataset={source: demo, train_rows: 45000, valid_rows: 200, test_rows: 200}"
RECIPE = (str(TINY), "--set", ROWS)
SPACES = ("unshare", "--net", "--uts")
FAKED = "import socket, sys; socket.gethostname = lambda: '{0}'; sys.argv[0] = 'sumpipe'; "


def can_isolate() -> bool:
    """Whether this machine allows namespaces."""
    tools = all(shutil.which(name) for name in ("unshare", "hostname"))
    return tools and subprocess.run([*SPACES, "true"], capture_output=True).returncode == 0


class Hosts:
    """Processes that each believe to be on a host of their own: in namespaces, if possible."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._is_isolated = can_isolate()
        self.processes: list[subprocess.Popen[bytes]] = []
        if not self._is_isolated:
            print("namespaces are refused here: host names are faked")

    def start(self, host: str, *arguments: str | Path) -> psutil.Process:
        """Start sumpipe on a host."""
        program = [sys.executable, "-m", "stages"]
        if self._is_isolated:
            shell = f'hostname {host} && exec "$@"'
            program = [*SPACES, "bash", "-c", shell, "bash", *program]
        else:
            code = FAKED.format(host) + "from stages.__main__ import main; main()"
            program = [sys.executable, "-c", code]
        log = (self._logs / f"{host}-{len(self.processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [*program, *map(str, arguments)], stdout=log, stderr=log, env=environment()
            )
        self.processes.append(process)
        return psutil.Process(process.pid)

    def said(self) -> str:
        """What all of them have said so far."""
        return "\n".join(f"{p.name}: {p.read_text()}" for p in sorted(self._logs.iterdir()))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    logs = tmp_path / "logs"
    logs.mkdir()
    started = Hosts(logs)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


def wait_for(hosts: Hosts, is_reached: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not is_reached():
        assert time.monotonic() < deadline, hosts.said()
        time.sleep(0.01)


def holds_a_shard(run_dir: Path, pid: int) -> bool:
    """Whether a process has a shard in hand: its claims say so."""
    for marker in run_dir.glob(".claims/**/*.lease"):
        with contextlib.suppress(FileNotFoundError):  # given up meanwhile
            if str(pid) in re.findall(r"\d+", marker.read_text(encoding="utf-8")):
                return True
    return False


def made(stage: Path) -> dict[str, dict[str, object]]:
    """Bytes and checksums of all that a stage committed but its manifest, which says where it was made."""
    return {name: file for name, file in record_tree(stage).items() if name != "manifest.json"}


def test_five_workers_on_three_hosts_make_the_bytes_of_one(hosts: Hosts, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    done = sumpipe("run", *RECIPE, "--run-dir", alone, "--to", "encode", "--processes", "1")
    assert done.returncode == 0, done.stderr
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.copy(alone / "recipe.yaml", shared)
    shutil.copytree(alone / "fetch", shared / "fetch")

    join_clean = ("join", shared, "clean", "--processes", "1")
    run = ("run", *RECIPE, "--run-dir", shared, "--to", "encode", "--processes", "1")
    holder = hosts.start("node0", *run)
    helpers = [hosts.start(f"node{n}", *join_clean) for n in (0, 1, 1, 2)]
    killed, paused = helpers[1], helpers[3]
    wait_for(hosts, lambda: holds_a_shard(shared, paused.pid))
    paused.suspend()
    wait_for(hosts, lambda: holds_a_shard(shared, killed.pid))
    killed.kill()
    began = time.monotonic()

    # encode begins when the lease of the paused one, and of the dead one, is over.
    wait_for(hosts, lambda: (shared / "clean").is_dir())
    assert time.monotonic() - began > LEASE_SECONDS / 2, "neither had a shard in hand"
    helpers += [
        hosts.start(f"node{n}", "join", shared, "encode", "--processes", "1")
        for n in (2, 0)  # a death on node0 is seen at once
    ]
    wait_for(hosts, lambda: holds_a_shard(shared, helpers[-1].pid))
    helpers[-1].kill()
    paused.resume()  # finds that clean is committed, and touches nothing
    wait_for(hosts, lambda: not holder.is_running() or holder.status() == psutil.STATUS_ZOMBIE)
    codes = [process.wait(timeout=60) for process in hosts.processes]
    assert codes == [0, 0, -signal.SIGKILL, 0, 0, 0, -signal.SIGKILL], hosts.said()

    # Helpers came while rows (a shard a file) and candidates (a shard a key) were left, whoever did them.
    helped = set(re.findall(r"clean +\d+/(\d+) shards are done", hosts.said()))
    assert len(helped) == 2, hosts.said()
    for stage in ("clean", "encode"):
        assert made(shared / stage) == made(alone / stage)
    assert not [*shared.glob("**/*.lease"), *shared.glob("**/*.tmp"), *shared.glob("*.partial")]
