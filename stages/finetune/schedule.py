"""The learning rate as a pure function of the update."""

from __future__ import annotations

import math

from stages.finetune.config import ScheduleConfig


def learning_rate(update: int, updates: int, peak: float, schedule: ScheduleConfig) -> float:
    """Return the learning rate of one update.

    warm-up (update < warmup):  peak * (update + 1) / warmup
    after it, with p = (update - warmup) / (updates - warmup):
        polynomial              peak * (1 - p) ** power
        cosine                  peak * (1 + cos(pi p)) / 2

    Args:
        update: Index of the update, 0 first.
        updates: Updates in all.
        peak: The rate at the end of warm-up.
        schedule: Warm-up length in updates, form and exponent of the decay.

    Source:
        polynomial: fairseq optim/lr_scheduler/polynomial_decay_schedule.py (3d262bb), end rate 0. Deviation:
        its rate lags one update behind during warm-up (its first update has rate 0); no update is idle here.
        cosine: transformers get_cosine_schedule_with_warmup, half a period. The same deviation.
    """
    warmup = schedule.warmup_updates
    if update < warmup:
        return peak * (update + 1) / warmup
    passed = (update - warmup) / (updates - warmup)
    if schedule.decay == "cosine":
        return peak * (1.0 + math.cos(math.pi * passed)) / 2.0
    return float(peak * (1.0 - passed) ** schedule.power)
