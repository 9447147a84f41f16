"""Where a drill's runs are carried out: what `local.py` and `cluster.py` both offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.artifact import RunDir
from pipeline.drill.rehearsal import Act
from pipeline.drill.watch import Watch


class Launcher(Protocol):
    """Starts, disturbs and ends runs."""

    ranks: int
    """Ranks of a stage that several processes share."""
    fewer: int | None
    """A smaller number of them; None if there is none."""
    poll_s: float
    """How often to look into a run directory."""
    at_once: int
    """Exercises that may be carried out side by side."""

    def start(self, run_dir: RunDir, stages: Sequence[str], *, fewer: bool = False) -> None:
        """Start what is left of some stages that follow on one another."""

    def begun(self, stage: str) -> str:
        """Return the glob of what shows that a stage listens to signals."""

    def prepare(self, run_dir: RunDir, stage: str, act: Act, moment: str, watch: Watch) -> None:
        """Get ready, right after a start, for what `disturb` is to do at a moment."""

    def disturb(self, run_dir: RunDir, stage: str, act: Act) -> None:
        """Do it, now."""

    def is_over(self, run_dir: RunDir) -> bool:
        """Whether nothing works on a run, nor will by itself."""

    def leave(self, run_dir: RunDir, stage: str, act: Act, watch: Watch) -> str:
        """Wait until what was disturbed is gone; returns what is wrong with how it went, if anything."""

    def resume(self, run_dir: RunDir, stage: str, watch: Watch, *, fewer: bool) -> None:
        """Have a stage continued as its user would, if that does not happen by itself."""

    def last_words(self, run_dir: RunDir) -> str:
        """Return what is known of how a run ended."""

    def end(self, run_dir: RunDir) -> None:
        """End whatever still works on a run, or waits to."""
