"""How a worker process begins, and how it ends with the process that started it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from signal import SIG_IGN, signal

from pipeline.distributed.world import limit_threads, use_one_gpu
from pipeline.preemption import SIGNALS

POLL_SECONDS = 0.3


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
