"""Whether two systems differ by more than chance: paired permutation tests, and many of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 9999

_BLOCK = 1 << 20
"""Signs held at a time (8 MB as floats)."""
_ROUNDING = 1e-12
"""Sums that are equal but for rounding count as equal."""


def sign_flip_p(
    differences_MN: NDArray[np.float64], permutations: int = PERMUTATIONS, seed: int = 1
) -> NDArray[np.float64]:
    """Return the two-sided p value of each metric's mean difference.

    Formula: were both systems alike, each row's difference could as well have the other sign. Of all
    permutations, random signs for the N rows, b have a mean as far from 0 as the one seen, or farther;
    p = (b + 1) / (permutations + 1). Metrics see the same signs.

    Source: Fisher's paired permutation test; the +1, without which p could be 0 and the test would reject too
    often, is Phipson and Smyth's (2010). `scipy.stats.permutation_test(permutation_type="samples")` agrees
    within chance; where few signs are possible it lists them all, which gives p without the +1.

    Args:
        differences_MN: Metric by metric, second system minus first, row by row; 0 where a row has no value.
        permutations: How many are drawn; they bound p from below.
        seed: Of the signs; the size of the blocks that are held at a time changes nothing.

    Returns:
        p in (0, 1], shape [M]; 1 where no row differs.
    """
    rows = differences_MN.shape[1]
    random = np.random.default_rng(seed)
    words = math.ceil(rows / 64)
    total_M = differences_MN.sum(axis=1)
    needed_M = np.abs(total_M) - _ROUNDING * np.abs(differences_MN).sum(axis=1)
    as_far_M = np.zeros(len(total_M), dtype=np.int64)
    block = max(1, _BLOCK // rows)
    for start in range(0, permutations, block):
        count = min(block, permutations - start)
        drawn = random.integers(1 << 64, size=(count, words), dtype=np.uint64)
        is_flipped_BN = np.unpackbits(drawn.view(np.uint8), axis=1, count=rows)
        sums_BM = total_M - 2 * is_flipped_BN.astype(np.float64) @ differences_MN.T
        as_far_M += (np.abs(sums_BM) >= needed_M).sum(axis=0)
    p_M: NDArray[np.float64] = (as_far_M + 1) / (permutations + 1)
    return p_M


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values that hold for all of several tests together, in the order given.

    Rejecting where they are below 5 % rejects any true null hypothesis in at most 5 % of cases, whatever the
    tests have to do with each other. Source: Holm (1979), the step-down form of Bonferroni's correction.
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = reached
    return adjusted
