"""Which ids were seen, in a few bytes each."""

from __future__ import annotations

import hashlib

import numpy as np

_FEW = 1 << 16


def hash_of(id_: str) -> int:
    """Return 64 bits of BLAKE2b; a half of a surrogate pair counts as itself."""
    digest = hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Seen:
    """A set of ids that keeps 8 bytes of each, so two may be taken for one: ask again where it matters.

    The newest are in a Python set, a ninth of all at most; the others in a sorted array.
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._newest: set[int] = set()

    def add(self, id_: str) -> bool:
        """Add an id; returns whether it is new, which is certain, while False is almost."""
        value = hash_of(id_)
        at = np.searchsorted(self._sorted, np.uint64(value))
        is_old = at < len(self._sorted) and int(self._sorted[at]) == value
        if is_old or value in self._newest:
            return False
        self._newest.add(value)
        if len(self._newest) > max(_FEW, len(self._sorted) // 8):
            newest = np.fromiter(self._newest, np.uint64, len(self._newest))
            self._sorted = np.sort(np.concatenate([self._sorted, newest]), kind="stable")
            self._newest.clear()
        return True
