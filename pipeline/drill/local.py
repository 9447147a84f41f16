"""Runs on this machine: `sumpipe run` in processes of their own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from pipeline.artifact import RunDir
from pipeline.distributed.world import child_environment
from pipeline.drill.rehearsal import Act
from pipeline.drill.watch import Watch
from pipeline.errors import EXIT_DONE, EXIT_PREEMPTED, LaunchError


class Local:
    """Starts, disturbs and ends runs on this machine; see launcher.py."""

    poll_s = 0.002
    at_once = 1

    def __init__(
        self, program: Sequence[str], outputs: Path, processes: int, ds_config: str
    ) -> None:
        """Start nothing yet.

        Args:
            program: Starts the command line.
            outputs: Folder for what the runs say.
            processes: Ranks.
            ds_config: Their sharding profile.
        """
        self.ranks = processes
        self.fewer = processes // 2 or None
        self._program, self._outputs, self._ds_config = program, outputs, ds_config
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, run_dir: RunDir, stages: Sequence[str], *, fewer: bool = False) -> None:
        """Start `sumpipe run` for these stages."""
        count = self.fewer if fewer else self.ranks
        command = [
            *(*self._program, "run", str(run_dir.recipe), "--run-dir", str(run_dir.root)),
            *("--from", stages[0], "--to", stages[-1]),
            *("--processes", str(count), "--ds-config", self._ds_config),
        ]
        with self._output(run_dir).open("ab") as output:
            self._processes[run_dir.root] = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(),
                start_new_session=True,
            )

    def begun(self, stage: str) -> str:
        """A run writes this first in a stage, and listens long before."""
        return f"{stage}.partial/payload.json"

    def prepare(self, run_dir: RunDir, stage: str, act: Act, moment: str, watch: Watch) -> None:
        """Nothing has to be."""

    def disturb(self, run_dir: RunDir, stage: str, act: Act) -> None:
        """Signal the run, its last rank, or all of its processes.

        Raises:
            LaunchError: If there is no rank.
        """
        process = self._processes[run_dir.root]
        if act is Act.STOP:
            process.send_signal(signal.SIGUSR2)
        elif act is Act.KILL_ALL:
            kill_tree(process)
        else:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile, which `leave` tells
                _last_rank(process, run_dir.logs(stage)).kill()

    def is_over(self, run_dir: RunDir) -> bool:
        """Whether the process has ended."""
        return self._processes[run_dir.root].poll() is not None

    def leave(self, run_dir: RunDir, stage: str, act: Act, watch: Watch) -> str:
        """Wait for the end of the process and judge its exit code."""
        watch.until(f"the end of `sumpipe run` in {stage}", lambda: self.is_over(run_dir))
        code = self._processes[run_dir.root].returncode
        if act is Act.STOP and code not in (EXIT_PREEMPTED, EXIT_DONE):
            return f"after a stop {self.last_words(run_dir)}, not {EXIT_PREEMPTED}"
        if act is not Act.STOP and code in (EXIT_PREEMPTED, EXIT_DONE):
            return f"after a kill {self.last_words(run_dir)}"
        return ""

    def resume(self, run_dir: RunDir, stage: str, watch: Watch, *, fewer: bool) -> None:
        """Run again."""
        self.start(run_dir, [stage], fewer=fewer)

    def last_words(self, run_dir: RunDir) -> str:
        """Return exit code and place of the output."""
        code = self._processes[run_dir.root].returncode
        return f"`sumpipe run` ended with {code} (output in {self._output(run_dir)})"

    def end(self, run_dir: RunDir) -> None:
        """Kill what is left."""
        if run_dir.root in self._processes:
            kill_tree(self._processes[run_dir.root])

    def _output(self, run_dir: RunDir) -> Path:
        return self._outputs / f"{run_dir.root.name}.log"


def _last_rank(process: subprocess.Popen[bytes], logs: Path) -> psutil.Process:
    """Return the highest rank that a process has started."""
    family = {
        child.pid: child for child in psutil.Process(process.pid).children(recursive=True)
    }  # a pid file of an earlier launch may name a stranger
    for file in sorted(logs.glob("*/rank*.pid"), key=lambda path: path.name, reverse=True):
        with contextlib.suppress(ValueError):
            rank = family.get(int(file.read_text(encoding="ascii")))
            if rank is not None:
                return rank
    raise LaunchError(f"{logs}: none of the ranks named here runs any more")


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and everything it has started, as the loss of a machine would."""
    if process.poll() is not None:
        return
    root = psutil.Process(process.pid)
    found: list[psutil.Process] = []
    try:
        root.suspend()  # first of all, so that the moment does not pass
        # Stopped before any is killed: nobody starts or cleans up meanwhile. Twice, for what one of them
        # started just before it was stopped.
        for _ in range(2):
            found = root.children(recursive=True)
            for child in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.suspend()
    finally:  # also if this is interrupted: what is stopped would never end
        for member in (root, *found):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()
    psutil.wait_procs(found, timeout=10)
