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
    needed: str | None = None
    """Stage of which at least one disturbance has to be passed."""

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and enough was disturbed."""
        return not self.why

    @property
    def why(self) -> str:
        """Why the drill is not passed; an empty text if it is."""
        if any(outcome.status is Status.FAILED for outcome in self.outcomes):
            return "a disturbance failed"
        passed = {item.stage for item in self.outcomes if item.status is Status.PASSED}
        if self.needed is not None and self.needed not in passed:
            return f"nothing disturbed {self.needed} in time, which is what a drill is for"
        return "" if passed else "nothing was disturbed in time"

    def to_json(self) -> JSON:
        """Return it for machines."""
        return {
            "passed": self.passed,
            "why": self.why,
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
        why = f"; {self.why}" if self.why else ""
        return f"{word}: {told}{why}. The runs lie in {self.folder}"


def _as_json(outcome: Outcome) -> JSON:
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in outcome._asdict().items()
    }
