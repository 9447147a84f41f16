"""What a drill does, as data, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from pipeline.artifact import Artifact, RunDir


class Act(StrEnum):
    """What is done to a stage."""

    STOP = "stop"
    """USR2 to its processes, as before a time limit."""
    KILL_RANK = "kill_rank"
    """SIGKILL to the last of its ranks."""
    KILL_ALL = "kill_all"
    """SIGKILL to everything that works on it."""


class Disturbance(NamedTuple):
    """One thing that happens to a stage, and the moment at which it does."""

    name: str
    act: Act
    moment: str | None = None
    """Glob in the run directory of what is there from that moment on; None for the start of the stage."""
    over: str | None = None
    """Glob of what shows, after the act, that the moment had passed already."""
    then_fewer: bool = False
    """Whether it goes on with fewer ranks than it was started with."""
    may_lose: int = 0
    """Most updates that may have to be done again."""


class Exercise(NamedTuple):
    """Disturbances of one stage, one after the other, in a run directory of their own."""

    name: str
    """Of the run directory too."""
    stage: str
    disturbances: tuple[Disturbance, ...]

    @property
    def needs_fewer(self) -> bool:
        """Whether it changes the number of ranks."""
        return any(disturbance.then_fewer for disturbance in self.disturbances)


class Comparison(NamedTuple):
    """A disturbed stage held against the undisturbed one."""

    what: str
    """What was compared, for people."""
    faults: list[str]
    """How it differs."""


class Rehearsal(NamedTuple):
    """All that a project's drill consists of."""

    recipe: str
    """Drilled with by default."""
    overrides: Callable[[int], list[str]]
    """Makes any recipe small; given the number of ranks."""
    exercises: Sequence[Exercise]
    compare: Callable[[str, Artifact, Artifact, bool], Comparison]
    """Given a stage, what was made under disturbances, what was made without, and whether always the same
    number of ranks worked on it."""
    redone: Callable[[RunDir, str], int | None]
    """Updates that a stage has done more than once so far; None if it has no such thing."""
    program: Sequence[str]
    """Starts the command line."""
    needed: str | None = None
    """Stage of which at least one disturbance has to be passed."""


class Status(StrEnum):
    """How a disturbance went."""

    PASSED = "passed"
    FAILED = "failed"
    MISSED = "too quick"
    """The moment was over before it could be disturbed."""
    SKIPPED = "skipped"
    """It cannot be done here."""


class Outcome(NamedTuple):
    """What came of one disturbance."""

    exercise: str
    stage: str
    disturbance: str
    status: Status
    why: str = ""
    """What is wrong, or why the moment was missed."""
    compared: str = ""
    updates_lost: int | None = None
    """None where a stage has no updates, or it did not come to that."""
    seconds_to_save: float | None = None
    """From the signal to the word that all work is committed; only of a stop."""
    seconds_to_resume: float | None = None
    """From the new start, or the return to the queue, to the first progress after it."""

    def __str__(self) -> str:
        lost = "" if self.updates_lost is None else f"{self.updates_lost} updates lost"
        saved = "" if self.seconds_to_save is None else f"saved after {self.seconds_to_save:.1f} s"
        resume = self.seconds_to_resume
        back = "" if resume is None else f"back after {resume:.1f} s"
        told = ", ".join(filter(None, (self.why, lost, saved, back, self.compared)))
        return f"{self.status:9}  {self.disturbance}: {told}"
