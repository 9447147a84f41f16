"""Which checkpoints are candidates for the weights that training hands on, and whether it is over early."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.finetune.config import SelectionConfig


@dataclass(slots=True)
class Selection:
    """What validation has said so far; plain values, kept in each checkpoint."""

    best_update: int | None = None
    best_nll: float | None = None
    """Validation nll of the best candidate, nats per target token."""
    worse_in_a_row: int = 0
    """Candidates since the best one."""
    candidates: list[int] = field(default_factory=list)
    """Updates of the last candidates, as many as are averaged."""

    def is_due(self, config: SelectionConfig, update: int, updates: int) -> bool:
        """Whether the state after `update` of `updates` updates is a candidate."""
        return config.is_on and (update % config.every == 0 or update == updates)

    def add(self, config: SelectionConfig, update: int, nll: float) -> None:
        """Take in a candidate's validation nll, which is finite."""
        if self.best_nll is None or nll < self.best_nll:
            self.best_update, self.best_nll, self.worse_in_a_row = update, nll, 0
        else:
            self.worse_in_a_row += 1
        self.candidates = [*self.candidates, update][-config.average :]

    def is_over(self, config: SelectionConfig) -> bool:
        """Whether training ends early: no candidate was better for `patience` in a row."""
        return 0 < config.patience <= self.worse_in_a_row

    def chosen(self, config: SelectionConfig, last: int) -> list[int]:
        """Return the updates whose checkpoints make up the weights; `last` is the newest."""
        if config.weights == "best" and self.best_update is not None:
            return [self.best_update]
        if config.weights == "average" and self.candidates:
            return list(self.candidates)
        return [last]

    def chosen_nll(self, config: SelectionConfig, last_nll: float) -> float | None:
        """Return the validation nll of the weights handed on, nats per target token; None of an average.

        An average is made after training, by export: nobody has measured it.
        """
        if config.weights == "average" and self.candidates:
            return None
        is_best = config.weights == "best" and self.best_nll is not None
        return self.best_nll if is_best else last_nll


def kept_beside_newest(config: SelectionConfig) -> int:
    """Return how many checkpoints the selection keeps at a time besides the newest ones, at most."""
    return {"last": 0, "best": 1, "average": config.average}[config.weights]
