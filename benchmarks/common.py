"""What the benchmarks share: fair timing, memory of a fresh process, and where results go."""

from __future__ import annotations

import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")


def device_words() -> str:
    """Return the GPU's name, or how many CPU cores there are."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores"


def versions(*packages: str) -> str:
    """Return date, versions and machine in one line."""
    named = ", ".join(f"{package} {version(package)}" for package in packages)
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}, Python {platform.python_version()}, {named}, {device_words()}."


def append(heading: str, text: str) -> None:
    """Put a text at the end of a section of RESULTS.md, which is made if there is none."""
    RESULTS.write_text(with_text(RESULTS.read_text(encoding="utf-8"), heading, text), "utf-8")


def with_text(results: str, heading: str, text: str) -> str:
    """Return a page with a text at the end of one of its sections, new at the page's end if there is none."""
    mark = f"\n## {heading}\n"
    before, _, after = f"{results.rstrip()}\n".partition(mark)
    section, next_mark, rest = after.partition("\n## ")
    parts = [before.rstrip(), mark.strip(), section.strip(), text.strip()]
    return "\n\n".join(part for part in parts if part) + f"\n{next_mark}{rest}"


def now() -> float:
    """Return the time in seconds, to be compared with another of this process.

    CPU time on a CPU, where other work may share the cores; wall time on a GPU, once its work is done.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(variants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least time of each variant, run in turn `repeats` times after a round that is dropped."""

    def once(call: Callable[[], object]) -> float:
        gc.collect()
        start = now()
        call()
        return now() - start

    rounds = [{name: once(call) for name, call in variants.items()} for _ in range(repeats + 1)]
    return {name: min(taken[name] for taken in rounds[1:]) for name in variants}


def peak_mib(call: Callable[[], object]) -> float:
    """Return by how much memory rose above what was held before, at its peak, in MiB.

    On a CPU the resident memory of this process, which has to be a fresh one: freed memory is not
    always given back, and would hide the rise.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    start = resident_mib("VmRSS")
    call()
    return resident_mib("VmHWM") - start


def resident_mib(field: str) -> float:
    """Return a figure of /proc/self/status in MiB; rusage would count what the parent process used too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def in_fresh_process(file: str, *arguments: str) -> Any:
    """Run a benchmark's file again with hidden arguments; returns the JSON of its last line."""
    command = [sys.executable, file, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


_LOOP = """
import time
table, total, start = {}, 0, time.perf_counter()
for number in range(4_000_000):
    table[number % 50_021] = number
    total += table.get(number * 7 % 50_021, 0)
print(time.perf_counter() - start)
"""


def machine_scaling(rounds: int = 3) -> float:
    """Return how much more two processes that share nothing compute here than one, the median of rounds.

    It is 2 on two cores of their own, and less where these are threads of one core, or other work is there:
    no program gains more by a second process.
    """
    found = []
    for _ in range(rounds):
        one, two = _loops(1), _loops(2)
        found.append(2 * one / two)
    return statistics.median(found)


def _loops(count: int) -> float:
    """Run a loop in so many processes at once; returns the wall time of the slowest, s."""
    command = [sys.executable, "-c", _LOOP]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return max(float(process.communicate()[0]) for process in running)


def report(heading: str, lines: list[str], *, is_kept: bool) -> None:
    """Print lines, and add them to RESULTS.md if asked to."""
    text = "\n".join(lines)
    print(text)
    if is_kept:
        append(heading, text)
