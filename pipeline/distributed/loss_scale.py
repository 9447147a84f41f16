"""Dynamic loss scaling for fp16: a small number that must survive checkpoints, and the rule that moves it."""

from __future__ import annotations

from dataclasses import dataclass

GROWTH_INTERVAL = 2000
"""Updates in a row without overflow after which the scale doubles."""


@dataclass(frozen=True, slots=True)
class LossScale:
    """What the loss is multiplied by before the backward pass, and gradients divided by after it.

    Source:
        torch.amp.GradScaler, with its constants. Deviation: never below 1, where fp16 gradients gain nothing.
    """

    value: float = 65536.0
    streak: int = 0
    """Updates in a row without overflow since the scale last changed."""

    def after(self, *, is_applied: bool) -> LossScale:
        """Return the scale for the next update: half after an overflow, double after a long streak."""
        if not is_applied:
            return LossScale(max(self.value / 2, 1.0))
        if self.streak + 1 == GROWTH_INTERVAL:
            return LossScale(self.value * 2)
        return LossScale(self.value, self.streak + 1)
