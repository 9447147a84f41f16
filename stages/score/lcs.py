"""Longest common subsequences of word lists, many table cells at a time in the bits of one integer.

Row i of the usual table t[i][j] belongs to word i of `first`, column j to word j of `second`. Neighbours in a
column differ by 0 or 1; `flat` has bit i - 1 set where t[i][j] == t[i - 1][j]. Its update is H. Hyyro, "Bit-
parallel LCS-length computation revisited", AWOCA 2004.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def positions(first: Sequence[str]) -> dict[str, int]:
    """Return, for each word, the places where it stands in `first`, as bits."""
    found: dict[str, int] = {}
    for place, word in enumerate(first):
        found[word] = found.get(word, 0) | 1 << place
    return found


def lcs_length(places: Mapping[str, int], length: int, second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Args:
        places: `positions(first)`.
        length: Words of `first`.
        second: The other words.
    """
    flat = full = (1 << length) - 1
    for word in second:
        if matches := flat & places.get(word, 0):
            flat = (flat + matches | flat - matches) & full
    return length - flat.bit_count()


def lcs_places(places: Mapping[str, int], length: int, second: Sequence[str]) -> int:
    """Return where a longest common subsequence stands in `first`, as bits.

    Where there are several it is that of rouge-score 0.1.2 (`_backtrack_norec`), which walks back from the
    last cell and takes a match where there is one, else goes left if t[i][j - 1] > t[i - 1][j], else up.
    Without a match t[i][j] is the larger of the two, so that it goes left where t[i][j] > t[i - 1][j]: where
    `flat` has no bit.

    Args:
        places: `positions(first)`.
        length: Words of `first`.
        second: The other words.
    """
    flat = full = (1 << length) - 1
    columns = []
    for word in second:
        matches = places.get(word, 0)
        if matches:
            common = flat & matches
            flat = (flat + common | flat - common) & full
        columns.append((matches, matches | flat ^ full))
    found, left = 0, full  # `left`: the rows that the walk has not passed
    for matches, not_up in reversed(columns):
        row = (not_up & left).bit_length()  # all rows above it are flat: the walk goes up to here
        if not row:
            break
        if matches >> (row - 1) & 1:
            found |= 1 << (row - 1)
            row -= 1
        left = (1 << row) - 1
    return found
