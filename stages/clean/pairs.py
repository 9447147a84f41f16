"""Candidate pairs of a key: rows that share its value, however many there are in all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.int64]
"""[N, 2]: an earlier row and a later one."""
Rows = NDArray[np.int64]
Values = NDArray[np.uint64]


def candidate_pairs(values: Values, rows: Rows, splits: Rows, most: int) -> tuple[Pairs, Rows]:
    """Pair each row with earlier ones of the same value, the first of each split.

    Args:
        values: [N], the key of each row.
        rows: [N], row numbers in ascending order.
        splits: [N], the split of each row, in ascending order.
        most: Partners that a row has in a split.

    Returns:
        The pairs, sorted by the later row and then the earlier one; and the rows, ascending, that have more
        partners in a split than were taken.
    """
    order = np.argsort(values, kind="stable")
    values, rows, splits = values[order], rows[order], splits[order]
    places = np.arange(len(values))
    group = np.cumsum(np.r_[False, values[1:] != values[:-1]][: len(values)])
    found = [np.zeros((0, 2), dtype=np.int64)]
    has_more = np.zeros(len(values), dtype=np.bool_)
    for split in np.unique(splits):
        members = np.flatnonzero(splits == split)
        counts = np.bincount(group[members], minlength=len(values))
        first = np.zeros(len(values), dtype=np.int64)
        first[group[members[::-1]]] = members[::-1]  # the last to be written is the first
        partners = np.where(splits > split, counts[group], 0)
        partners[members] = members - first[group[members]]
        taken = np.minimum(partners, most)
        has_more |= partners > most
        later = np.repeat(places, taken)
        # 0 | 0 1 | 0 1 2 | ...: the partners of the row at each place
        which = np.arange(len(later)) - np.repeat(np.cumsum(taken) - taken, taken)
        found.append(np.stack([rows[first[group[later]] + which], rows[later]], axis=1))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))], np.sort(rows[has_more])


def first_of_each(values: Values, splits: Rows) -> NDArray[np.bool_]:
    """Tell which rows are the first of their split with their value: [N] -> [N]."""
    is_first = np.ones(len(values), dtype=np.bool_)
    order = np.lexsort((values, splits))  # stable: of equal rows the first comes first
    values, splits = values[order], splits[order]
    is_first[order[1:]] = (values[1:] != values[:-1]) | (splits[1:] != splits[:-1])
    return is_first


def keys_of(pairs: Pairs) -> NDArray[np.int64]:
    """Return a number for each pair that no other has, ascending by the later row and then the earlier one.

    There are fewer than 2 ** 31 rows.
    """
    earlier, later = pairs.reshape(-1, 2).astype(np.int64).T
    return later << 32 | earlier
