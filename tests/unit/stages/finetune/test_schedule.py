"""The learning rate against a table worked by hand, and the cosine against transformers."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from stages.finetune.config import ScheduleConfig
from stages.finetune.schedule import learning_rate

# Ten updates, four of them warm-up, peak 1: a quarter more each update, then sixths less each update.
LINEAR = [1 / 4, 2 / 4, 3 / 4, 1, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]


@pytest.mark.parametrize(("update", "expected"), list(enumerate(LINEAR)))
def test_linear_warm_up_and_decay(update: int, expected: float) -> None:
    schedule = ScheduleConfig(warmup_updates=4)
    assert learning_rate(update, 10, 1.0, schedule) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("update", "expected"), [(0, 1 / 4), (5, 25 / 36), (7, 1 / 4), (9, 1 / 36)]
)
def test_power_bends_the_decay_only(update: int, expected: float) -> None:
    schedule = ScheduleConfig(warmup_updates=4, power=2.0)
    assert learning_rate(update, 10, 1.0, schedule) == pytest.approx(expected, rel=1e-12)


def test_without_warm_up_the_first_update_has_the_peak() -> None:
    schedule = ScheduleConfig(warmup_updates=0)
    assert learning_rate(0, 5, 3e-5, schedule) == 3e-5
    assert learning_rate(4, 5, 3e-5, schedule) == pytest.approx(0.6e-5)


def test_rate_is_proportional_to_the_peak_and_never_zero() -> None:
    schedule = ScheduleConfig(warmup_updates=3)
    for update in range(20):
        rate = learning_rate(update, 20, 1e-3, schedule)
        assert 0 < rate <= 1e-3
        assert learning_rate(update, 20, 2e-3, schedule) == pytest.approx(2 * rate)


def of_transformers(updates: int, warmup: int, peak: float) -> list[float]:
    """The rates with which the library's scheduler would do its updates 0, 1, ..."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, updates)
    rates = []
    for _ in range(updates):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(("updates", "warmup"), [(40, 8), (7, 0), (1000, 999), (2, 1)])
def test_cosine_is_that_of_transformers_but_one_update_ahead_in_warm_up(
    updates: int, warmup: int
) -> None:
    settings = ScheduleConfig(decay="cosine", warmup_updates=warmup)
    theirs = of_transformers(updates, warmup, 3e-4)
    ours = [learning_rate(update, updates, 3e-4, settings) for update in range(updates)]
    assert ours[:warmup] == pytest.approx(theirs[1 : warmup + 1], rel=1e-12)
    assert ours[warmup:] == pytest.approx(theirs[warmup:], rel=1e-12)
    assert min(ours) > 0


def test_cosine_by_hand() -> None:
    settings = ScheduleConfig(decay="cosine", warmup_updates=2)
    found = [learning_rate(update, 6, 1.0, settings) for update in range(6)]
    root = math.sqrt(0.5)
    assert found == pytest.approx([0.5, 1, 1, (1 + root) / 2, 0.5, (1 - root) / 2], rel=1e-12)
