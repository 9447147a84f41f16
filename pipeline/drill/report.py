"""What a drill leaves in its folder, and what it says at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.config import JSON
from pipeline.drill.rehearsal import Outcome, Status


class Report(NamedTuple):
    """A finished drill."""

    folder: str
    ranks: int
    fewer: int | None
    """Ranks after a change of their number; None if there was none."""
    seconds_undisturbed: float
    """Of the whole undisturbed run."""
    outcomes: Sequence[Outcome]

    @property
    def passed(self) -> bool:
        """Whether something was disturbed, and nothing failed."""
        found = {outcome.status for outcome in self.outcomes}
        return Status.FAILED not in found and Status.PASSED in found

    def to_json(self) -> JSON:
        """Return it for machines."""
        return {
            "passed": self.passed,
            "folder": self.folder,
            "ranks": self.ranks,
            "fewer_ranks": self.fewer,
            "seconds_undisturbed": round(self.seconds_undisturbed, 1),
            "disturbances": [_as_json(outcome) for outcome in self.outcomes],
        }

    def summary(self) -> str:
        """Return the last line for people."""
        counts = Counter(outcome.status for outcome in self.outcomes)
        told = ", ".join(f"{counts[status]} {status}" for status in Status)
        word = "PASS" if self.passed else "FAIL"
        return f"{word}: {told}. The runs lie in {self.folder}"


def _as_json(outcome: Outcome) -> JSON:
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in outcome._asdict().items()
    }
