"""Permutation tests against scipy and against chance; Holm's correction by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from stages.compare import significance
from stages.compare.significance import holm, sign_flip_p


def two_systems(rows: int, seed: int, gain: float = 0.0) -> NDArray[np.float64]:
    """Differences of two systems whose scores go together row by row."""
    random = np.random.default_rng(seed)
    hard = random.beta(2, 3, size=rows)
    first, second = (np.clip(hard + random.normal(0, 0.1, size=rows), 0, 1) for _ in range(2))
    return second - first + gain


def p_of(differences: NDArray[np.float64], permutations: int = 9999, seed: int = 1) -> float:
    return float(sign_flip_p(differences[None], permutations, seed)[0])


# Up to 2 ** 13 signs scipy goes through all of them; ours are drawn, which gives the p its deviation.
@pytest.mark.parametrize("rows", [2, 6, 10, 13, 50])
@pytest.mark.parametrize("gain", [0.0, 0.02, 0.08])
def test_p_is_that_of_scipy(rows: int, gain: float) -> None:
    differences = two_systems(rows, seed=rows, gain=gain)
    theirs = stats.permutation_test(
        (differences, np.zeros(rows)),
        lambda one, two, axis: np.mean(one - two, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        rng=np.random.default_rng(3),
    ).pvalue
    deviation = np.sqrt(2 * theirs * (1 - theirs) / 9999)
    assert p_of(differences) == pytest.approx(theirs, abs=4 * deviation + 2e-4)


# Tenths have equal sums that differ in their last bits: 0.1 + 0.2 and 0.3.
def test_sums_that_differ_by_rounding_only_are_equal() -> None:
    differences = np.array([0.1, 0.2, -0.3, 0.3, 0.1, 0.1, -0.2, 0.3, 0.2, 0.1])
    signs = np.array(np.meshgrid(*[[1, -1]] * 10)).reshape(10, -1)
    tenths = np.rint(10 * differences).astype(int)
    exact = float((np.abs(tenths @ signs) >= abs(tenths.sum())).mean())
    assert p_of(differences) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 9999))


def test_systems_alike_have_p_1() -> None:
    assert p_of(np.zeros(300)) == 1.0
    assert p_of(np.array([0.4])) == 1.0  # one row: either sign is as far
    assert p_of(np.array([0.3, -0.3])) == 1.0


def test_a_clear_gain_has_the_least_p_that_there_is() -> None:
    assert p_of(two_systems(400, seed=1, gain=0.5)) == 1 / 10000
    assert p_of(two_systems(400, seed=1, gain=0.5), permutations=199) == 1 / 200


# 200 nulls: 5 % is 10 of them, 2 to 8 % are 4 to 16.
def test_of_systems_that_are_alike_one_in_twenty_seems_to_differ() -> None:
    p_values = [p_of(two_systems(60, seed), permutations=999, seed=seed) for seed in range(200)]
    assert 4 <= sum(p <= 0.05 for p in p_values) <= 16


def test_it_does_not_matter_which_system_is_second_or_what_the_unit_is() -> None:
    differences = two_systems(70, seed=9, gain=0.02)
    assert p_of(differences) == p_of(-differences) == p_of(100 * differences)


@pytest.mark.parametrize("block", [1, 1000, 1 << 30])
def test_the_size_of_a_block_changes_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    both = np.stack([two_systems(130, 1), two_systems(130, 2, gain=0.02)])
    expected = sign_flip_p(both, 500)
    monkeypatch.setattr(significance, "_BLOCK", block)
    assert sign_flip_p(both, 500).tolist() == expected.tolist()
    assert [p_of(row, 500) for row in both] == expected.tolist()


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        assert p <= found <= min(1.0, len(p_values) * p)
    assert min(adjusted) == min(1.0, len(p_values) * min(p_values))
