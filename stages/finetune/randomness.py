"""Randomness from counters: every draw has its own seed, so nothing random is ever saved."""

from __future__ import annotations

import hashlib


def counter_seed(*counters: int | str) -> int:
    """Return a 63-bit seed for a place in the run, such as (seed, "dropout", update, lane).

    Equal counters give equal seeds in every process and on every machine; near ones are unrelated.
    """
    text = "/".join(map(str, counters))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
