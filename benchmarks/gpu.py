"""What a GPU has to show, on one card in one call and within ten minutes.

    python benchmarks/gpu.py --data FOLDER [--tiny]

Runs the benchmarks, each of which adds its table to RESULTS.md with date, versions and the GPU's name, and
the tests marked `gpu`; then adds how each went. Installs nothing. A step that fails or runs out of time does
not stop the others, but the exit code is 1 then; it is 2 if something is missing.

`--tiny` is for trying this script where there is no GPU: small sizes, and nothing is kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from common import report, versions

HERE = Path(__file__).resolve().parent
LIMIT = 570.0
"""Seconds for everything."""
MODULES = {
    "torch": "torch",
    "transformers": "transformers",
    "deepspeed": "deepspeed",
    "accelerate": "accelerate",
    "pydantic": "pydantic",
    "pyarrow": "pyarrow",
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
    "hypothesis": "hypothesis",
}
"""What the steps import, and the distribution that has it."""
FOLDERS = ("cnndm", "giga_like", "gpt2_bpe")


class Step(NamedTuple):
    """A command of this Python."""

    name: str
    arguments: tuple[str, ...]


def main() -> int:
    """Run all steps; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {', '.join(FOLDERS)}")
    parser.add_argument("--tiny", action="store_true", help="without a GPU, to try this script")
    arguments = parser.parse_args()
    lacking = missing(arguments.data, needs_gpu=not arguments.tiny)
    if lacking:
        print("\n".join(lacking), file=sys.stderr)
        return 2
    data = str(arguments.data.resolve())
    steps = tiny_steps(data) if arguments.tiny else gpu_steps(data)
    deadline = time.monotonic() + LIMIT
    outcomes = [(step, *run(step, deadline)) for step in steps]
    lines = [versions("torch", "transformers", "deepspeed"), "", *summary(outcomes)]
    report("GPU runs", lines, is_kept=not arguments.tiny)
    return int(any(outcome != "done" for _, outcome, _ in outcomes))


def missing(data: Path, *, needs_gpu: bool) -> list[str]:
    """Return a line for each thing that has to be there and is not."""
    absent = [package for module, package in MODULES.items() if find_spec(module) is None]
    lines = [f"not installed: {' '.join(absent)} (pip install these)"] if absent else []
    lines += [f"--data {data}: no folder {name}" for name in FOLDERS if not (data / name).is_dir()]
    if needs_gpu and "torch" not in absent:
        import torch

        if not torch.cuda.is_available():
            lines.append("no GPU that torch can use; --tiny tries this script without one")
    return lines


def gpu_steps(data: str) -> list[Step]:
    """Return the real thing, the figures asked for first."""
    return [
        Step("train", (benchmark("train"), "--data", data, "--append")),
        Step("decode", (benchmark("decode"), "--data", data, "--append")),
        Step("loss", (benchmark("loss"), "--targets", "16384", "--append")),
        Step("zero", (benchmark("zero"), "--ranks", "1", "--append")),
        Step("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests")),
        Step("batching", (benchmark("batching"), "--data", data, "--append")),
    ]


def tiny_steps(data: str) -> list[Step]:
    """Return steps that take a minute or two on a CPU."""
    return [
        Step("train", (benchmark("train"), "--data", data, "--sets", "giga_like", "--small")),
        Step("zero", (benchmark("zero"), "--ranks", "1")),
        Step("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests/unit/stages/finetune")),
    ]


def benchmark(name: str) -> str:
    """Return the path of a benchmark."""
    return str(HERE / f"bench_{name}.py")


def run(step: Step, deadline: float) -> tuple[str, float]:
    """Run a step with all its processes until it ends or the deadline; returns the outcome and seconds."""
    print(f"== {step.name}: {' '.join(step.arguments)}", flush=True)
    start = time.monotonic()
    found = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(HERE.parent), *([found] if found else [])])
    process = subprocess.Popen(
        [sys.executable, *step.arguments],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        code = process.wait(max(deadline - start, 0.0))
        outcome = "done" if code == 0 else f"failed with {code}"
    except subprocess.TimeoutExpired:
        outcome = "out of time"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return outcome, time.monotonic() - start


def summary(outcomes: list[tuple[Step, str, float]]) -> list[str]:
    """Return a table of how the steps went."""
    rows = [f"| {step.name} | {outcome} | {took:.0f} s |" for step, outcome, took in outcomes]
    return ["| step | outcome | wall time |", "| --- | --- | --- |", *rows]


if __name__ == "__main__":
    sys.exit(main())
