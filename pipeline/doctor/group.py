"""The process group, tried for real: formed, and a sum timed over it, in processes that can be cut off."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

from pipeline.config import JSON
from pipeline.distributed.world import World, rank_environment
from pipeline.doctor.finding import Finding, failure, ok, ranks_text
from pipeline.doctor.software import last_words

_CHECK = "all-reduce"
_MARK = "sumpipe-trial: "
_OPEN_PORTS = (
    "open the ports between the nodes, and name the network to use: GLOO_SOCKET_IFNAME on CPUs, "
    "NCCL_SOCKET_IFNAME on GPUs"
)
_NOT_REACHED = {
    "torch": ("could not use torch", "see above what is said of torch"),
    "deepspeed": ("did not finish to import DeepSpeed", "see above what is said of deepspeed"),
    "group": ("did not join the group", _OPEN_PORTS),
    "all_reduce": ("did not finish the sum", _OPEN_PORTS),
}
"""The answers of a trial in their order, what it means that one is missing, and what to do about it."""
IMPORT_SECONDS = 120
"""For torch and DeepSpeed from a cold network file system."""


def try_out(world: World, timeout: int, *, with_group: bool) -> JSON:
    """Try torch, DeepSpeed and the process group as `pipeline.distributed.trial` does.

    Args:
        world: This rank.
        timeout: Seconds for which ranks wait for each other.
        with_group: Whether all ranks do this now, and are to form a group.

    Returns:
        How far it came (see there), and in `ended` what ended it; an empty text if it came to its end.
    """
    command = [sys.executable, "-m", "pipeline.distributed.trial", _MARK]
    command += ["--group"] if with_group else []
    try:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=rank_environment(world, timeout),
            start_new_session=True,
        )
    except OSError as error:
        return {"ended": f"no process could be started ({error.strerror or error})"}
    with child:
        said, ended = _heard(child, IMPORT_SECONDS + 2 * timeout)
    lines = said.splitlines(keepends=True)
    answers = [line for line in lines if line.startswith(_MARK) and line.endswith("\n")]
    if not ended and child.returncode:
        ended = last_words("".join(line for line in lines if not line.startswith(_MARK)))
        ended += f" (killed by signal {-child.returncode})" if child.returncode < 0 else ""
    found: JSON = json.loads(answers[-1].removeprefix(_MARK)) if answers else {}
    return {**found, "ended": ended}


def _heard(child: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Return what a process says until its end; if it is killed, with all that it started, why."""
    try:
        return child.communicate(timeout=seconds)[0], ""
    except subprocess.TimeoutExpired:
        _kill(child)
        return child.communicate()[0], f"no end within {seconds:.0f} s"
    finally:
        if child.poll() is None:  # this process itself is being ended
            _kill(child)


def _kill(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def judge_group(answers: Mapping[int, JSON]) -> Iterator[Finding]:
    """Judge what `try_out` gave on each rank: the one that came least far is the one to look at."""
    done = {rank: found["all_reduce"] for rank, found in answers.items() if "all_reduce" in found}
    if len(done) == len(answers):
        yield _judge_sums(done, answers[min(answers)]["group"]["backend"])
        return
    steps = {rank: sum(step in found for step in _NOT_REACHED) for rank, found in answers.items()}
    behind = [rank for rank, count in steps.items() if count == min(steps.values())]
    endings = dict.fromkeys(answers[rank]["ended"] for rank in behind)
    meaning, fix = list(_NOT_REACHED.values())[min(steps.values())]
    yield failure(_CHECK, f"{ranks_text(behind)} {meaning}: {'; '.join(endings)}", fix)


def _judge_sums(done: Mapping[int, JSON], backend: str) -> Finding:
    size = len(done)
    wrong = [rank for rank, found in done.items() if found["sum"] != size]
    if wrong:
        text = f"{ranks_text(wrong)} got {done[wrong[0]]['sum']:g} as the sum of {size} ones"
        return failure(_CHECK, text, "exclude that node: its network or GPU gives wrong numbers")
    slowest = max(found["seconds"] for found in done.values())
    small = max(found["seconds_small"] for found in done.values())
    moved = 2 * (size - 1) / size * done[min(done)]["bytes"]
    mebibytes = done[min(done)]["bytes"] // 2**20
    speed = f", {moved / slowest / 1e9:.3g} GB/s a task" if size > 1 else ""
    return ok(
        _CHECK,
        f"{size} task(s) over {backend}: {mebibytes} MiB in {1e3 * slowest:.3g} ms{speed}; "
        f"8 bytes in {1e3 * small:.3g} ms",
    )
