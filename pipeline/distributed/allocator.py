"""How this process keeps the memory that it frees."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let large blocks that are freed serve the next request, on Linux's glibc; elsewhere do nothing.

    glibc maps every block above 32 MiB anew and gives it back when it is freed, so that a CPU update spends
    much of its time in page faults (benchmarks/bench_train.py). For processes that compute on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
