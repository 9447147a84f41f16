"""The learning rate against a table worked by hand."""

from __future__ import annotations

import pytest

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
