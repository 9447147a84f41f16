"""Start the ranks of a stage with the `deepspeed` launcher and watch them to the end.

The launcher is not to be trusted alone: its runner dies at once on TERM and leaves the ranks as
orphans, and it exits 0 when the process below it is killed (launcher/runner.py at 0.19.8). So it runs
in a session of its own, stops are sent to the ranks themselves, success is the committed artifact,
and whatever is left in the session afterwards is ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipeline.artifact import RunDir
from pipeline.config import JSON
from pipeline.distributed.world import free_port, visible_gpus
from pipeline.errors import EXIT_PREEMPTED, LaunchError, PipelineError, Preempted
from pipeline.files import probe_storage, read_json, write_json
from pipeline.preemption import StopFlag, is_alive
from pipeline.provenance import utc_now
from pipeline.stage import Execution

STOP_GRACE_SECONDS = 300.0
"""How long the ranks may take to checkpoint after a stop was asked for."""
EXIT_GRACE_SECONDS = 40.0
"""How long ranks may outlive the launcher; it kills its own after 30 s."""
_POLL_SECONDS = 0.2
_LOST_PEER = re.compile("closed by peer|reset by peer|Broken pipe|Timed out waiting|NCCL", re.I)
"""What a rank says when another one went away: a consequence, not a cause."""

_logger = logging.getLogger(__name__)


def rank_file(log_dir: Path, rank: int, kind: str) -> Path:
    """Return the path of a rank's `log`, `pid` or `error` file."""
    return log_dir / f"rank{rank:04d}.{kind}"


def write_error(log_dir: Path, rank: int, error: BaseException) -> None:
    """Leave word of what ended a rank, for the supervising process."""
    is_ours = isinstance(error, PipelineError)
    record = {
        "rank": rank,
        "message": str(error) if is_ours else f"{type(error).__name__}: {error}",
        "is_for_people": is_ours,
        "is_lost_peer": not is_ours and _LOST_PEER.search(str(error)) is not None,
        "exit_code": error.exit_code if isinstance(error, PipelineError) else 1,
        "utc": utc_now(),
        "time_s": time.time(),
    }
    write_json(rank_file(log_dir, rank, "error"), record)


def launch_command(
    rank_module: str,
    stage: str,
    run_dir: RunDir,
    execution: Execution,
    token: str,
    log_dir: Path,
) -> list[str]:
    """Return the command that starts `execution.processes` ranks of a stage on this host."""
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner"),
        # A hostfile left at DeepSpeed's default path must not send the ranks elsewhere.
        *("--hostfile", os.devnull),
        *("--num_gpus", str(execution.processes), "--no_local_rank"),
        *("--master_port", str(free_port()), "-q"),
        *("--module", rank_module, stage),
        *("--run-dir", str(run_dir.root), "--ds-config", str(execution.ds_profile)),
        *("--lease", token, "--supervisor", str(os.getpid()), "--log-dir", str(log_dir)),
        # The launcher shows its ranks GPUs 0 to N-1, whichever ones were given to us.
        *("--gpus", ",".join(visible_gpus())),
    ]


def launch_group(
    rank_module: str,
    stage: str,
    run_dir: RunDir,
    execution: Execution,
    token: str,
    stop: StopFlag,
) -> None:
    """Run a stage on `execution.processes` ranks until it is committed.

    `rank_module` is the module that one rank is started with (`python -m`).

    Raises:
        Preempted: If it stopped on request with its work committed.
        PipelineError: The failure of the first rank that failed, with its exit code.
        LaunchError: If the ranks ended without a commit and without a word.
    """
    started = time.time()
    log_dir = run_dir.logs(stage) / f"{utc_now().replace(':', '')}-{os.getpid()}"
    log_dir.mkdir(parents=True, exist_ok=True)
    _wait_for_leftovers(rank_module, run_dir, stage)
    run_dir.preempted.unlink(missing_ok=True)  # the word of those that just left is not ours
    command = launch_command(rank_module, stage, run_dir, execution, token, log_dir)
    _logger.info("%-8s %d process(es), logs in %s", stage, execution.processes, log_dir)
    launcher = subprocess.Popen(command, start_new_session=True)
    try:
        _supervise(launcher, log_dir, stop)
    finally:
        _signal_ranks(
            launcher.pid, log_dir
        )  # healthy ranks of a dead launcher can still checkpoint
        _end_session(launcher.pid)
    if run_dir.committed(stage).is_dir():
        return
    if run_dir.preempted.is_file():
        raise Preempted(f"{stage}: {read_json(run_dir.preempted)['reason']}")
    raise _failure(stage, log_dir, launcher.returncode, time.time() - started)


def _wait_for_leftovers(rank_module: str, run_dir: RunDir, stage: str) -> None:
    """Wait until ranks of an earlier launch, whose supervisor was killed, have noticed and left.

    Raises:
        LaunchError: If they do not leave in time, naming them.
    """
    left = []
    for file in run_dir.logs(stage).glob("*/rank*.pid"):
        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(int(file.read_text(encoding="ascii")))
            command = process.cmdline()
            if rank_module in command and str(run_dir.root) in command:
                left.append(process)
    if not left:
        return
    _logger.info("%-8s waits for %d ranks of an earlier launch to leave", stage, len(left))
    _, alive = psutil.wait_procs(left, timeout=STOP_GRACE_SECONDS)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise LaunchError(
            f"{run_dir.root}: ranks of an earlier launch still run (pid {pids}): end them"
        )


def _supervise(launcher: subprocess.Popen[bytes], log_dir: Path, stop: StopFlag) -> None:
    deadline = None
    while launcher.poll() is None:
        time.sleep(_POLL_SECONDS)
        if stop.reason and deadline is None:
            deadline = time.monotonic() + STOP_GRACE_SECONDS
            _logger.info("stopping after the update in work (%s)", stop.reason)
        if deadline is not None:
            # Repeated, since a rank that is still importing has no pid file and no handler yet.
            _signal_ranks(launcher.pid, log_dir)
            time.sleep(1.0)
            if time.monotonic() > deadline:
                _logger.warning(
                    "ranks did not stop within %.0f s: killing them", STOP_GRACE_SECONDS
                )
                return


def _signal_ranks(session: int, log_dir: Path) -> None:
    for file in log_dir.glob("rank*.pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            pid = int(file.read_text(encoding="ascii"))
            if os.getsid(pid) == session:  # never a stranger that got a dead rank's pid
                os.kill(pid, signal.SIGTERM)


def _end_session(session: int) -> None:
    """Wait for every process of the launcher's session, and kill what outstays its welcome."""
    left = _session_members(session)
    _, alive = psutil.wait_procs(left, timeout=EXIT_GRACE_SECONDS if left else 0)
    for process in [*alive, *_session_members(session)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            _logger.warning("killing process %d, which outlived its launcher", process.pid)
            process.kill()


def _session_members(session: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session and is_alive(process):
                members.append(process)
    return members


def _failure(stage: str, log_dir: Path, code: int, seconds: float) -> PipelineError:
    """Find the cause among what the ranks left: a user's mistake, another error, or silence."""
    errors: list[JSON] = [read_json(path) for path in sorted(log_dir.glob("rank*.error"))]
    causes = [error for error in errors if not error["is_lost_peer"]]
    causes.sort(key=lambda error: (not error["is_for_people"], error["time_s"]))
    if causes:
        first = causes[0]
        log = rank_file(log_dir, first["rank"], "log")
        failure = LaunchError(f"{stage}, rank {first['rank']}: {first['message']}\nLog: {log}")
        failure.exit_code = 1 if first["exit_code"] == EXIT_PREEMPTED else first["exit_code"]
        return failure
    probe_storage(log_dir)  # on a full disk the ranks could not leave word
    heard = {error["rank"] for error in errors}
    started = {int(path.stem.removeprefix("rank")) for path in log_dir.glob("rank*.pid")}
    silent = ", ".join(map(str, sorted(started - heard))) or "every rank"
    return LaunchError(
        f"{stage}: ended after {seconds:.0f} s without a commit; without a word: rank {silent}, which "
        f"means killed, often by the out-of-memory killer (launcher exit code {code}). "
        f"Logs: {log_dir}. Run the same command again to continue from the last checkpoint."
    )
