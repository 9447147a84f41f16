"""How a worker process begins, and how it ends with the process that started it."""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from signal import SIG_IGN, signal

from pipeline.distributed.world import limit_threads, use_one_gpu
from pipeline.errors import PipelineError
from pipeline.preemption import SIGNALS, spared_children

POLL_SECONDS = 0.3
_MOST_CHARACTERS = 8000
"""Of an error's text: a pipe holds that much without a reader."""


def start_tracker() -> None:
    """Start multiprocessing's own helper, which counts semaphores, where no signal of a stop ends it."""
    with spared_children():
        resource_tracker.ensure_running()


def start(worker: SpawnProcess) -> None:
    """Start a worker that no signal of a stop ends, from its first moment: Slurm signals every process."""
    start_tracker()  # now: it lets some signals through again when it has started
    with spared_children():
        worker.start()


def begin_worker(
    parent: int, threads: int, number: int, poll: Callable[[], None] = lambda: None
) -> None:
    """Take a GPU of its own, let the parent decide about stops, and end with it should it die.

    Args:
        parent: Process that started this one.
        threads: Threads to compute with.
        number: Which of the parent's workers this is; selects the GPU.
        poll: Called several times a second from a thread.
    """
    gc.freeze()  # what was imported stays: no need to walk it again and again
    use_one_gpu(number)
    limit_threads(threads)
    for signal_number in SIGNALS:
        signal(signal_number, SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            poll()
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def portable(error: Exception) -> Exception:
    """Return an error that any process can read from a pipe: ours, the system's, or the text of another."""
    if isinstance(error, PipelineError):
        return type(error)(str(error)[:_MOST_CHARACTERS])
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return RuntimeError("".join(traceback.format_exception(error))[-_MOST_CHARACTERS:])
