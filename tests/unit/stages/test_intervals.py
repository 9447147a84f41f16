"""Bootstrap intervals against scipy, and by what they promise: to cover the true mean."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from stages import intervals as module
from stages.intervals import interval, intervals


def sample(rows: int, seed: int = 5) -> NDArray[np.float64]:
    return np.random.default_rng(seed).beta(2, 5, size=rows)


@pytest.mark.parametrize("rows", [2, 37, 500])
@pytest.mark.parametrize("confidence", [0.95, 0.9])
def test_figures_are_those_of_scipy(rows: int, confidence: float) -> None:
    values = sample(rows)
    found = interval(values, resamples=400, seed=7, confidence=confidence)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=400,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    expected = (values.mean(), theirs.low, theirs.high)
    assert found[:3] == pytest.approx(expected, rel=1e-12)
    assert found.rows == rows


# 1,000 samples of 100 rows; the share that is seen has a standard deviation of 0.7 %.
def test_intervals_cover_the_true_mean() -> None:
    truth = 2 / (2 + 5)
    found = [interval(sample(100, seed), resamples=500, seed=seed) for seed in range(1000)]
    covered = sum(one.low <= truth <= one.high for one in found) / len(found)
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("block", [1, 150, 1 << 30])
def test_the_size_of_a_block_changes_no_bit(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"a": sample(101, 1), "b": sample(101, 2)}
    expected = intervals(columns, resamples=50)
    monkeypatch.setattr(module, "_BLOCK", block)
    assert intervals(columns, resamples=50) == expected


def test_a_column_does_not_depend_on_the_others() -> None:
    columns = {"a": sample(60, 1), "short": sample(7, 2), "b": sample(60, 3)}
    together = intervals(columns, seed=4)
    assert list(together) == ["a", "short", "b"]
    assert together == {name: interval(values, seed=4) for name, values in columns.items()}


def test_the_interval_of_a_difference_is_the_paired_one() -> None:
    first = sample(80)
    second = (
        first + 0.01
    )  # every row gains as much: no doubt about the gain, however much rows differ
    found = interval(second - first)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))


def test_rows_without_a_value_are_left_out_and_counted() -> None:
    found = intervals({"some": [0.5, None, 0.1, float("nan")], "none": [None, None]})
    assert found == {"some": interval([0.5, 0.1])}
    assert found["some"].rows == 2
    with pytest.raises(ValueError, match="no row has a value"):
        interval([])


def test_one_row_has_no_width() -> None:
    assert interval([0.25]) == (0.25, 0.25, 0.25, 1)


def test_the_seed_makes_the_draws() -> None:
    values = sample(50)
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)


# As the docstring says: 89 % of 10 rows; the share that is seen has a standard deviation of 1.2 %.
def test_intervals_of_few_rows_cover_less_often() -> None:
    random = np.random.default_rng(3)
    found = [interval(random.normal(size=10), resamples=400, seed=seed) for seed in range(700)]
    assert 0.85 < sum(one.low <= 0 <= one.high for one in found) / len(found) < 0.93


def test_a_stop_is_heard_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 40 * 10)
    calls = []
    intervals({"a": sample(40)}, resamples=100, stop=lambda: calls.append(1))
    assert len(calls) == 10
