"""Stopping on request: a signal sets a flag, and every loop polls it at its next boundary."""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import psutil

from pipeline.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""USR2, not USR1: NCCL catches USR1."""


_WATCH_SECONDS = 0.5


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no Ctrl-C come in between; threads beside the main one never see any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def spared_children() -> Iterator[None]:
    """Let no signal that asks for a stop end a program that is started meanwhile, such as a compiler.

    Slurm signals every process of a task, and no program has our handlers; but a mask is handed on. Here a
    thread that was started before it takes the signals; handlers run in the main thread as ever.
    """
    end = threading.Event()
    threading.Thread(target=end.wait, name="signals", daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        end.set()


def _ignore_repeated() -> None:
    """Keep the exit code: as Python ends it takes handlers away, and one more signal would be fatal."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


class StopFlag:
    """Whether somebody asked this process to stop, and why."""

    def __init__(self) -> None:
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why to stop, or None to go on."""
        return self._reason

    def request(self, reason: str) -> None:
        """Ask for a stop at the next boundary; the first reason is kept."""
        if self._reason is None:
            self._reason = reason

    def check(self, kept: str = "all work so far is committed") -> None:
        """Raise Preempted if a stop was asked for; `kept` says what is left of the work where not all is."""
        if self._reason is not None:
            raise Preempted(f"stopped by {self._reason}; {kept}")

    def listen(self) -> None:
        """Let TERM, INT and USR2 set this flag; a second INT interrupts at once."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        atexit.register(_ignore_repeated)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def watch_supervisor(self, pid: int) -> None:
        """Stop when the process that supervises this one is gone, so that no orphan works on."""
        try:
            supervisor = psutil.Process(pid)
        except psutil.NoSuchProcess:
            self.request("the death of the supervising process")
            return

        def watch() -> None:
            while is_alive(supervisor):
                time.sleep(_WATCH_SECONDS)
            self.request("the death of the supervising process")

        threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still works; one that nobody has reaped yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
