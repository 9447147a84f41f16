"""Kill this host's ranks at a moment: `python -m pipeline.drill.ambush RUN_DIR STAGE GLOB SECONDS`.

Run beside the ranks, on each of their hosts: a moment of milliseconds is over before a cluster's controller
could act. Exit code 0 if the moment came within the seconds, else 1.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from pipeline.artifact import RunDir
from pipeline.drill.watch import is_there
from pipeline.errors import EXIT_DONE, EXIT_FAILED

_POLL_SECONDS = 0.001


def kill_ranks(run_dir: RunDir, stage: str) -> int:
    """SIGKILL the ranks of a stage that live on this host; returns how many."""
    killed = 0
    for file in run_dir.logs(stage).glob("*/rank*.pid"):
        with contextlib.suppress(psutil.Error, ValueError):
            process = psutil.Process(int(file.read_text(encoding="ascii")))
            if str(run_dir.root) in process.cmdline():  # not a stranger, here or on another host
                process.kill()
                killed += 1
    return killed


def main(argv: Sequence[str]) -> int:
    """Wait, kill, and say how it went."""
    root, stage, pattern, seconds = argv
    run_dir = RunDir(Path(root))
    deadline = time.monotonic() + float(seconds)
    while not is_there(run_dir.root, pattern):
        if time.monotonic() > deadline:
            return EXIT_FAILED
        time.sleep(_POLL_SECONDS)
    kill_ranks(run_dir, stage)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
