"""Random permutations of any size, evaluated only at the places asked for.

The swap-or-not shuffle (Hoang, Morris, Rogaway: An Enciphering Scheme Based on a Card Shuffle, CRYPTO
2012), with a mixing function in place of a cipher. Integer arithmetic of our own, so that an order is
the same with every version of numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

ROUNDS = 24
"""A place is within 2^-24 of uniform: each round moves it to a uniform partner or leaves it."""

_STEP = np.uint64(0x9E3779B97F4A7C15)


def mix(words: UInt64s) -> UInt64s:
    """Return 64 well-mixed bits of each word: the output function of SplitMix64 (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def keyed(key: int, counters: Int64s) -> UInt64s:
    """Return an unrelated key for each counter, int [...]."""
    start = np.asarray(key, dtype=np.uint64)
    return mix(start + (counters.astype(np.uint64) + np.uint64(1)) * _STEP)


def permute(places: Int64s, sizes: Int64s, keys: UInt64s) -> Int64s:
    """Return where each place goes under the permutation of range(size) that its key names.

    Args:
        places: int [N], each in range(its size).
        sizes: int [N].
        keys: uint64 [N]; places with equal key and size are moved by one and the same permutation.
    """
    moduli = sizes.astype(np.uint64)
    here = places.astype(np.uint64)
    for _ in range(ROUNDS):
        keys = mix(keys + _STEP)
        there = (keys % moduli + moduli - here) % moduli
        is_swapped = mix(keys ^ np.maximum(here, there)) >> np.uint64(63)
        here = np.where(is_swapped, there, here)
    return here.astype(np.int64)
