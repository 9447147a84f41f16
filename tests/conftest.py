"""Fixtures for all tests: a clean environment, and the command line run in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.cli import AddCommand, main
from pipeline.preemption import SIGNALS
from pipeline.stage import Recipe, Stage

LAUNCH_PREFIXES = ("MASTER_", "SLURM_", "HF_")
LAUNCH_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SUMPIPE_THREADS")


_FIRST = (
    "slurm/test_faults", "distributed/test_resume", "slurm/test_preemption", "e2e/test_kill_matrix",
    "distributed/test_faults", "e2e/test_drill", "slurm/", "e2e/test_shared_data",
)  # fmt: skip
"""Files that take minutes: one that waits for Slurm or a timeout, and one that computes beside it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: at the end the other workers would wait for them."""

    def place(item: pytest.Item) -> int:
        return next(
            (n for n, name in enumerate(_FIRST) if f"tests/{name}" in item.nodeid), len(_FIRST)
        )

    items.sort(key=place)


@pytest.fixture(autouse=True)
def clean_environ() -> Iterator[None]:
    """No test sees a launcher's variables, and none leaves its own behind."""
    before = dict(os.environ)
    for name in before:
        if name in LAUNCH_NAMES or name.startswith(LAUNCH_PREFIXES):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Answer]


@contextlib.contextmanager
def _process_state_kept() -> Iterator[None]:
    """Undo what a command does to its process: signal handlers, log handlers, shown warnings."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        logging.captureWarnings(False)
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        for number, handler_before in signals.items():
            signal.signal(number, handler_before)


@pytest.fixture
def command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CommandLine]:
    """Give the command line of a graph as a function: arguments -> exit code, stdout, stderr."""

    def of(
        stages: Sequence[Stage], recipe_type: type[Recipe], commands: Sequence[AddCommand] = ()
    ) -> CommandLine:
        def call(*arguments: str | Path) -> Answer:
            monkeypatch.setattr(sys, "argv", ["sumpipe", *map(str, arguments)])
            capsys.readouterr()
            with _process_state_kept():
                code = main(
                    stages,
                    recipe_type,
                    rank_module="tests.no_ranks",
                    about="Toys",
                    commands=commands,
                )
            return Answer(code, *capsys.readouterr())

        return call

    return of


@pytest.fixture
def sumpipe(command_line: Callable[..., CommandLine]) -> CommandLine:
    """The project's own command line."""
    from stages.__main__ import COMMANDS
    from stages.graph import STAGES
    from stages.recipe import SummarizationRecipe

    return command_line(STAGES, SummarizationRecipe, COMMANDS)


@pytest.fixture
def toy(command_line: Callable[..., CommandLine]) -> CommandLine:
    """The command line of the toy graph a -> b -> c."""
    from tests.fakes.toy_stages import STAGES, ToyRecipe

    return command_line(STAGES, ToyRecipe)


@pytest.fixture
def toy_recipe(tmp_path: Path) -> Path:
    """A recipe file for the toy graph, all defaults."""
    path = tmp_path / "toy.yaml"
    path.write_text("name: toy\n", encoding="utf-8")
    return path
