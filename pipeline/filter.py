"""A command that reads and writes streams ends as a Unix filter does, whoever ends it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
_STDOUT = 1
_POLL_MILLISECONDS = 300


class _Ended(BaseException):
    """A signal came; no `except Exception` on the way holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def as_filter() -> Iterator[None]:
    """Let INT, TERM and the end of who reads our stdout stop the body at once, without a traceback.

    Raises:
        SystemExit: With 128 + the signal's number, as shells count; 141 and no word for a closed pipe.
    """
    before = {number: signal.getsignal(number) for number in _ENDS}
    is_over = threading.Event()
    watcher = threading.Thread(target=_watch_reader, args=(is_over,), daemon=True)
    try:
        for number in _ENDS:
            signal.signal(number, _end)
        watcher.start()
        yield
    except BrokenPipeError:
        raise _exit(signal.SIGPIPE) from None
    except _Ended as ended:
        raise _exit(ended.number) from None
    finally:
        is_over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)  # asked twice, it ends without cleaning up
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    raise _Ended(number)


def _exit(number: int) -> SystemExit:
    if number == signal.SIGPIPE:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), _STDOUT)  # what is still buffered goes there
    else:
        sys.stderr.write(f"sumpipe: stopped by {signal.Signals(number).name}\n")
    return SystemExit(128 + number)


def _watch_reader(is_over: threading.Event) -> None:
    """Tell the main thread when nobody reads our stdout any more, even while it computes or waits."""
    if not stat.S_ISFIFO(os.fstat(_STDOUT).st_mode):
        return
    poller = select.poll()
    poller.register(_STDOUT, 0)  # errors are always reported
    while not is_over.is_set():
        if poller.poll(_POLL_MILLISECONDS):
            if not is_over.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGPIPE)
            return
