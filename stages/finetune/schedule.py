"""The learning rate as a pure function of the update."""

from __future__ import annotations

from stages.finetune.config import ScheduleConfig


def learning_rate(update: int, updates: int, peak: float, schedule: ScheduleConfig) -> float:
    """Return the learning rate of one update.

    warm-up (update < warmup):  peak * (update + 1) / warmup
    after it:                   peak * (1 - (update - warmup) / (updates - warmup)) ** power

    Args:
        update: Index of the update, 0 first.
        updates: Updates in all.
        peak: The rate at the end of warm-up.
        schedule: Warm-up length in updates and exponent.

    Source:
        fairseq optim/lr_scheduler/polynomial_decay_schedule.py (3d262bb), end rate 0. Deviation: its rate
        lags one update behind during warm-up (its first update has rate 0); no update is idle here.
    """
    warmup = schedule.warmup_updates
    if update < warmup:
        return peak * (update + 1) / warmup
    return float(peak * (1.0 - (update - warmup) / (updates - warmup)) ** schedule.power)
