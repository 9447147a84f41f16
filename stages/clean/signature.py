"""MinHash signatures and their bands: documents that are alike share a band, almost surely.

A band is equal for two documents with probability j ** ROWS, where j is the Jaccard similarity of their
shingles (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4). At j = 0.8
none of the BANDS is with probability 5e-8, at 0.7 with 2e-4, at 0.5 with 0.13.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

SLOTS = 128
BANDS = 32
ROWS = SLOTS // BANDS
_SEED = 1
_PORTION = 10_000
"""Shingles that are held at a time: a MB."""

Signature = NDArray[np.uint32]


def signature_of(shingles: Iterable[str]) -> Signature:
    """Return the SLOTS minima; two documents share a slot with the probability of their similarity.

    A shingle that comes twice changes no minimum, so a long text need never be held as a set.
    """
    sketch, rest = RMinHash(num_perm=SLOTS, seed=_SEED), iter(shingles)
    while portion := list(itertools.islice(rest, _PORTION)):
        sketch.update(portion)
    return np.asarray(sketch.digest(), dtype=np.uint32)


def bands_of(signatures: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Fold ROWS slots into one number: [N, SLOTS] -> [N, BANDS]."""
    parts = signatures.astype(np.uint64).reshape(len(signatures), BANDS, ROWS)
    folded = np.zeros(parts.shape[:2], dtype=np.uint64)
    for row in range(ROWS):
        folded = (folded ^ parts[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        folded ^= folded >> np.uint64(29)
    return folded


def estimate(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Estimate similarities from signatures, [N, SLOTS] each -> [N], with deviation sqrt(j(1-j)/SLOTS)."""
    found: NDArray[np.float64] = (one == other).mean(axis=1)
    return found
