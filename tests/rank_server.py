"""Run functions of a test module on several ranks, again and again, for the price of one import.

    with RankServer() as ranks:
        results = ranks.run(2, "tests.distributed.engine_cases:train", stage=1)

The server is a process of its own that imports torch and DeepSpeed once; each call forks fresh ranks from it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.launching import CHECKOUT, environment, free_port

LIMIT = 120.0
"""Seconds after which a call's ranks are ended."""

KILLED = "killed"
"""What stands for the result of a rank that died by a signal."""


class RankServer:
    """Client of a server process; use as a context manager."""

    def __init__(self, *preload: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::FutureWarning", "-m", "tests.rank_server", *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env=environment({"DS_ACCELERATOR": "cpu"}),
        )

    def run(self, size: int, function: str, **arguments: Any) -> list[Any]:
        """Return what `module:function(world, **arguments)` gave on each of `size` ranks, as JSON.

        A rank that raised fails the test with its traceback; one that died gives KILLED.
        """
        found = self.results(size, function, **arguments)
        failures = [answer["error"] for answer in found if "error" in answer]
        assert not failures, "\n".join(failures)
        return [answer["result"] for answer in found]

    def results(self, size: int, function: str, **arguments: Any) -> list[dict[str, Any]]:
        """Like `run`, with {"error": traceback} for a rank that raised."""
        assert self._process.stdin is not None and self._process.stdout is not None
        plain = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in arguments.items()
        }
        self._process.stdin.write(json.dumps([size, function, plain]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the rank server died"
        answers: list[dict[str, Any]] = json.loads(line)
        return answers

    def __enter__(self) -> RankServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def serve(preload: list[str]) -> None:
    """Answer requests until the client hangs up."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    from pipeline.distributed.world import limit_threads, quiet_libraries

    limit_threads(1)
    quiet_libraries()
    for name in preload:
        importlib.import_module(name)
    for line in sys.stdin:
        size, function, arguments = json.loads(line)
        out.write(json.dumps(_call(size, function, arguments)) + "\n")
        out.flush()


def _call(size: int, function: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("fork")
    port = free_port()
    ranks = []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_rank, args=(rank, size, port, function, arguments, theirs)
        )
        process.start()
        theirs.close()
        ranks.append((process, ours))
    deadline = time.monotonic() + LIMIT
    answers: list[dict[str, Any]] = []
    for _, ours in ranks:
        answer = {"result": KILLED}
        with contextlib.suppress(EOFError):
            if ours.poll(max(deadline - time.monotonic(), 0)):
                answer = ours.recv()
            else:
                answer = {"error": f"no answer within {LIMIT:.0f} s"}
        answers.append(answer)
    for process, _ in ranks:
        process.join(max(deadline - time.monotonic(), 5))
        if process.is_alive():
            process.kill()
    return answers


def _rank(
    rank: int,
    size: int,
    port: int,
    function: str,
    arguments: dict[str, Any],
    answer: multiprocessing.connection.Connection,
) -> None:
    from pipeline.distributed import collectives
    from pipeline.distributed.world import World

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    module, _, name = function.partition(":")
    world = World(rank, size, rank, "127.0.0.1", port)
    try:
        with collectives.joined(world, 1):
            result = getattr(importlib.import_module(module), name)(world, **arguments)
        answer.send({"result": result})
    except BaseException:  # noqa: BLE001 - the test's process shows it
        answer.send({"error": f"rank {rank}: {traceback.format_exc()}"})
    finally:
        answer.close()
        os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1:])
