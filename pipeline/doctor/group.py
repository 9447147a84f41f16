"""The process group, tried for real: formed, and a sum timed over it, in processes that can be cut off."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.config import JSON
from pipeline.distributed.world import World, rank_environment
from pipeline.doctor.finding import Finding, failure, ok, ranks_text
from pipeline.doctor.software import last_words
from pipeline.files import read_json

_CHECK = "all-reduce"
_NOT_REACHED = {
    "torch": "could not use torch",
    "deepspeed": "did not finish to import DeepSpeed",
    "group": "did not join the group",
    "all_reduce": "did not finish the sum",
}
"""The answers of a trial in their order, and what it means that one is missing."""
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
    with tempfile.TemporaryDirectory(prefix="sumpipe-doctor-") as name:
        answers, log = Path(name) / "answers.json", Path(name) / "log"
        command = [sys.executable, "-m", "pipeline.distributed.trial", str(answers)]
        command += ["--group"] if with_group else []
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=rank_environment(world, timeout),
                start_new_session=True,
            )
            ended = _end(child, IMPORT_SECONDS + 2 * timeout)
        if not ended and child.returncode:
            ended = last_words(log.read_text(encoding="utf-8", errors="replace"))
            ended += f" (killed by signal {-child.returncode})" if child.returncode < 0 else ""
        found: JSON = read_json(answers) if answers.is_file() else {}
    return {**found, "ended": ended}


def _end(child: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait for a process, or kill it with all that it started; returns why, if so."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"no end within {seconds:.0f} s"
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return ""


def judge_group(answers: Mapping[int, JSON]) -> Iterator[Finding]:
    """Judge what `try_out` gave on each rank: the one that came least far is the one to look at."""
    done = {rank: found["all_reduce"] for rank, found in answers.items() if "all_reduce" in found}
    if len(done) == len(answers):
        yield _judge_sums(done, answers[min(answers)]["group"]["backend"])
        return
    steps = {rank: sum(step in found for step in _NOT_REACHED) for rank, found in answers.items()}
    behind = [rank for rank, count in steps.items() if count == min(steps.values())]
    endings = dict.fromkeys(answers[rank]["ended"] for rank in behind)
    yield failure(
        _CHECK,
        f"{ranks_text(behind)} {list(_NOT_REACHED.values())[min(steps.values())]}: {'; '.join(endings)}",
        "open the ports between the nodes, and name the network to use: GLOO_SOCKET_IFNAME on CPUs, "
        "NCCL_SOCKET_IFNAME on GPUs",
    )


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
