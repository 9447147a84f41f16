"""Candidate pairs of a band: rows that share its value, however many there are in all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_PARTNERS = 32
"""Earlier rows of each split that a row is paired with in one band: the first of their bucket."""

Pairs = NDArray[np.int64]
"""[N, 2]: an earlier row and a later one."""


def candidate_pairs(
    values: NDArray[np.uint64], rows: NDArray[np.int64], splits: Sequence[int] = ()
) -> tuple[Pairs, int]:
    """Pair each row with earlier ones of the same value.

    Args:
        values: [N], the band of each row.
        rows: [N], row numbers in ascending order.
        splits: The first row of each split but the first, ascending.

    Returns:
        The pairs, sorted by the later row and then the earlier one, and how many were left out because a row
        had more than MOST_PARTNERS partners in a split.
    """
    order = np.argsort(values, kind="stable")
    values, rows = values[order], rows[order]
    starts = (
        np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.zeros(0, int)
    )
    sizes = np.diff(np.r_[starts, len(values)])
    found, left_out = [np.zeros((0, 2), dtype=np.int64)], 0
    for size in np.unique(sizes[sizes > 1]).tolist():
        buckets = rows[starts[sizes == size, None] + np.arange(size)]
        if size <= MOST_PARTNERS + 1:  # all buckets of a size at once: most are of two rows
            found.append(buckets[:, np.stack(np.triu_indices(size, 1), axis=1)].reshape(-1, 2))
            continue
        for bucket in buckets:
            parts = np.split(bucket, np.searchsorted(bucket, splits))
            partners = np.concatenate([part[:MOST_PARTNERS] for part in parts])
            earlier, later = np.nonzero(partners[:, None] < bucket)
            found.append(np.stack([partners[earlier], bucket[later]], axis=1))
            left_out += size * (size - 1) // 2 - len(later)
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))], left_out


def keys_of(pairs: Pairs) -> NDArray[np.int64]:
    """Return a number for each pair that no other has, ascending by the later row and then the earlier one.

    There are fewer than 2 ** 31 rows.
    """
    earlier, later = pairs.reshape(-1, 2).astype(np.int64).T
    return later << 32 | earlier
