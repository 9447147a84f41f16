"""Start the ranks of a stage with the `deepspeed` launcher and watch them to the end.

The launcher is not to be trusted alone: it kills the ranks on TERM and leaves them as orphans where it is
killed. So it runs in a session of its own, stops are sent to the ranks themselves, success is the
committed artifact, and whatever is left in the session afterwards is ended. It is the half of `deepspeed`
that starts ranks (launcher/launch.py at 0.19.8); the other half finds nodes and GPUs, which we name,
takes as long to import, and exits 0 when the first is killed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipeline.artifact import RunDir
from pipeline.config import JSON
from pipeline.distributed.presence import rank_file
from pipeline.distributed.world import (
    child_environment,
    free_port,
    timeout_seconds,
    visible_gpus,
)
from pipeline.errors import EXIT_PREEMPTED, LaunchError, PipelineError, Preempted
from pipeline.files import probe_storage, read_json, write_json
from pipeline.preemption import StopFlag, is_alive
from pipeline.provenance import utc_now
from pipeline.stage import Execution

STOP_GRACE_SECONDS = 300.0
"""How long the ranks may take to checkpoint after a stop was asked for."""
LAST_WORDS_SECONDS = 6.0
"""How long ranks may outlive the first of them that is over: to notice, to say so and to end."""
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.2
_LOST_PEER = re.compile(
    "closed by (?:remote )?peer|reset by peer|Broken pipe|Connection was likely closed"
    "|Timed out (?:waiting|after)|wait timeout"
    # NCCL's own words for it; its other errors are causes.
    "|ncclRemoteError|NCCL communicator was aborted|collective operation timeout",
    re.I,
)

_logger = logging.getLogger(__name__)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another rank went away: a consequence, not a cause."""
    return not isinstance(error, PipelineError) and _LOST_PEER.search(str(error)) is not None


def write_error(log_dir: Path, rank: int, error: BaseException) -> None:
    """Leave word of what ended a rank, for the supervising process."""
    is_ours = isinstance(error, PipelineError)
    record = {
        "rank": rank,
        "message": str(error) if is_ours else f"{type(error).__name__}: {error}",
        "is_for_people": is_ours,
        "is_lost_peer": is_lost_peer(error),
        "exit_code": error.exit_code if isinstance(error, PipelineError) else 1,
        "utc": utc_now(),
        "time_s": time.time(),
    }
    write_json(rank_file(log_dir, rank, "error"), record)


def causes(log_dir: Path) -> tuple[list[JSON], list[JSON]]:
    """Return what ranks of a launch wrote when they ended: what went wrong, and who only lost another rank.

    Each in order: a mistake that is explained to the user before others, then the first before later ones.
    """
    errors: list[JSON] = [read_json(path) for path in log_dir.glob("rank*.error")]
    errors.sort(key=lambda error: (not error["is_for_people"], error["time_s"]))
    own = [error for error in errors if not error["is_lost_peer"]]
    return own, [error for error in errors if error["is_lost_peer"]]


def launch_command(
    rank_module: str,
    stage: str,
    run_dir: RunDir,
    execution: Execution,
    token: str,
    log_dir: Path,
) -> list[str]:
    """Return the command that starts `execution.processes` ranks of a stage on this host."""
    world = json.dumps({"localhost": list(range(execution.processes))})
    return [
        *(sys.executable, "-m", "deepspeed.launcher.launch", "--no_local_rank", "-q"),
        *("--world_info", base64.urlsafe_b64encode(world.encode()).decode()),
        *("--master_port", str(free_port())),
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
        Preempted: If it stopped on request with its work committed, or before there was any, or had to
            be killed at the end of the grace period.
        PipelineError: The failure of the first rank that failed, with its exit code.
        LaunchError: If the ranks ended without a commit and without a word.
    """
    started = time.time()
    log_dir = run_dir.logs(stage) / f"{utc_now().replace(':', '')}-{os.getpid()}"
    log_dir.mkdir(parents=True, exist_ok=True)
    timeout_seconds()  # refused here rather than by every rank
    _wait_for_leftovers(rank_module, run_dir, stage)
    run_dir.preempted.unlink(missing_ok=True)  # the word of those that just left is not ours
    command = launch_command(rank_module, stage, run_dir, execution, token, log_dir)
    _logger.info("%-8s %d process(es), logs in %s", stage, execution.processes, log_dir)
    launcher = subprocess.Popen(command, env=child_environment(), start_new_session=True)
    try:
        silent = _supervise(launcher, log_dir, stop)
    finally:
        _end_session(launcher)
    if run_dir.committed(stage).is_dir():
        return
    if run_dir.preempted.is_file():
        raise Preempted(f"{stage}: {read_json(run_dir.preempted)['reason']}")
    has_begun = len(list(log_dir.glob("rank*.pid"))) == execution.processes
    if stop.reason and not (has_begun and silent) and not any(log_dir.glob("rank*.error")):
        raise Preempted(
            f"{stage}: stopped by {stop.reason} without a new checkpoint; the last holds"
        )
    raise _failure(stage, log_dir, silent, launcher.returncode, time.time() - started)


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


def _supervise(launcher: subprocess.Popen[bytes], log_dir: Path, stop: StopFlag) -> list[int]:
    """Watch until all ranks are over or have used up their time; returns who died first, unheard.

    On request, and if the launcher is gone before its ranks, they are asked to checkpoint. Once one of
    them is over the others end soon: they may be stopped, or in no collective that would tell them.
    """
    session, deadline, is_stopping = launcher.pid, math.inf, False
    silent: list[int] | None = None
    while launcher.poll() is None or _session_members(session):
        time.sleep(_POLL_SECONDS)
        ranks = _ranks(session, log_dir)
        now = time.monotonic()
        if silent is None and not all(ranks.values()):
            over = [rank for rank, process in ranks.items() if process is None]
            silent = [rank for rank in over if not rank_file(log_dir, rank, "error").exists()]
            deadline = min(deadline, now + LAST_WORDS_SECONDS)
        is_orphaned = launcher.poll() is not None and any(ranks.values())
        if not is_stopping and (stop.reason or is_orphaned):
            is_stopping, deadline = True, min(deadline, now + STOP_GRACE_SECONDS)
            reason = stop.reason or "the launcher was killed"
            _logger.info("stopping after the update in work (%s)", reason)
        if is_stopping:
            # Repeated, since a rank that is still importing has no pid file and no handler yet.
            for process in filter(None, ranks.values()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
            time.sleep(1.0)
        if now > deadline:
            break
    return silent or []


def _ranks(session: int, log_dir: Path) -> dict[int, psutil.Process | None]:
    """Return the process of every rank that has left its pid, None for those that are over."""
    found: dict[int, psutil.Process | None] = {}
    for file in sorted(log_dir.glob("rank*.pid")):
        with contextlib.suppress(ValueError):  # being written
            pid, rank = int(file.read_text(encoding="ascii")), int(file.stem.removeprefix("rank"))
            found[rank] = None
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process = psutil.Process(pid)
                # Never a stranger that got a dead rank's pid.
                if is_alive(process) and os.getsid(pid) == session:
                    found[rank] = process
    return found


def _end_session(launcher: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the launcher's session, stopped processes too."""
    left = _session_members(launcher.pid)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        _logger.warning("killing processes that did not end by themselves: %s", pids)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    launcher.wait()
    deadline = time.monotonic() + _KILL_SECONDS
    while any(map(is_alive, left)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _session_members(session: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session and is_alive(process):
                members.append(process)
    return members


def _failure(
    stage: str, log_dir: Path, silent: list[int], code: int, seconds: float
) -> PipelineError:
    """Find the cause among what the ranks left: a user's mistake, another error, or silence.

    Where nobody died in silence and each rank blames another, the one that did so first is shown.
    """
    own, lost_peers = causes(log_dir)
    if found := own or ([] if silent else lost_peers):
        first = found[0]
        log = rank_file(log_dir, first["rank"], "log")
        failure = LaunchError(f"{stage}, rank {first['rank']}: {first['message']}\nLog: {log}")
        failure.exit_code = 1 if first["exit_code"] == EXIT_PREEMPTED else first["exit_code"]
        return failure
    probe_storage(log_dir)  # on a full disk the ranks could not leave word
    names = f"rank {', '.join(map(str, silent))}" if silent else "every rank"
    return LaunchError(
        f"{stage}: ended after {seconds:.0f} s without a commit; without a word: {names}, which "
        f"means killed, often by the out-of-memory killer (launcher exit code {code}). "
        f"Logs: {log_dir}. Run the same command again to continue from the last checkpoint."
    )
