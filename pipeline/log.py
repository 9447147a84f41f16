"""What a run says: a log file for every rank, and on rank 0 a console that suits its reader."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from pipeline.config import JSON
from pipeline.files import write_json
from pipeline.provenance import utc_now

PLAIN_SECONDS = 5.0
"""Seconds between two progress lines where there is no terminal."""
STATE_SECONDS = 2.0
"""Seconds between two writes of progress.json."""

_logger = logging.getLogger(__name__)


def start_logging(file: Path, *, console: bool) -> None:
    """Send all log records of this process to `file`, and ours to stderr on rank 0.

    Args:
        file: The log file of this rank; its folder is made.
        console: Whether this process also talks to the user.
    """
    logging.raiseExceptions = False  # a full disk must end in our message, not in logging's own
    file.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(file, encoding="utf-8")
    to_file.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    )
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(to_file)
    root.setLevel(logging.WARNING)
    for name in ("pipeline", "stages", "run", "rank"):
        logging.getLogger(name).setLevel(logging.INFO)
    if console:
        to_console = logging.StreamHandler(sys.stderr)
        to_console.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        to_console.addFilter(_is_for_people)
        root.addHandler(to_console)
    logging.captureWarnings(True)


def _is_for_people(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] in {"pipeline", "stages"}


class Progress:
    """How far a stage has come: a bar on a terminal, a line every few seconds elsewhere.

    It also keeps progress.json, which `sumpipe status` reads.
    """

    def __init__(self, stage: str, state: Path | None, *, console: bool) -> None:
        self._stage = stage
        self._state = state
        self._console = console
        self._is_terminal = console and sys.stderr.isatty()
        self._bar: RichProgress | None = None
        self.latest: JSON | None = None
        """The last update: done, total, unit, utc and figures; None before the first."""
        self._is_written = True
        self._next_line = 0.0
        self._next_state = 0.0

    def update(self, done: int, total: int, unit: str, **figures: float) -> None:
        """Say that `done` of `total` units are finished, with figures of the moment."""
        now = time.monotonic()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if self._is_terminal:
            self._draw(done, total, unit, shown)
        elif self._console and (now >= self._next_line or done == total):
            self._next_line = now + PLAIN_SECONDS
            _logger.info("%-8s %s %d/%d  %s", self._stage, unit, done, total, shown)
        self.latest = {"done": done, "total": total, "unit": unit, "utc": utc_now()}
        self.latest["figures"] = figures
        self._is_written = False
        if now >= self._next_state or done == total:
            self._next_state = now + STATE_SECONDS
            self._write_state()

    def _write_state(self) -> None:
        if self._state is not None and not self._is_written:
            try:
                self._state.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._state, self.latest)
            except (
                OSError
            ) as error:  # only a display: the stage's own writes say what a full disk means
                _logger.warning("%s: not written (%s)", self._state, error)
            self._is_written = True

    def _draw(self, done: int, total: int, unit: str, shown: str) -> None:
        if self._bar is None:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]} {task.fields[shown]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
        for task in self._bar.tasks:
            if task.fields["unit"] == unit:
                self._bar.update(task.id, completed=done, total=total, shown=shown)
                return
        self._bar.add_task(self._stage, total=total, completed=done, unit=unit, shown=shown)

    def close(self) -> None:
        """Write the last state and give the terminal back."""
        self._write_state()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to stdout: drawn on a terminal, aligned plain text elsewhere."""
    cells = [list(row) for row in rows]
    if sys.stdout.isatty():
        table = Table(*header)
        for row in cells:
            table.add_row(*row)
        Console(markup=False, emoji=False).print(table)  # cells are names and figures, as they are
        return
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    for row in [list(header), *cells]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
