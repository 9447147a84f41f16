"""Which texts were scored: by that runs are compared, whatever the order of their rows."""

from __future__ import annotations

import hashlib
import json

_MODULUS = 1 << 256


def text_number(id_: str, text: str) -> int:
    """Return the sha256 of [id, text] as a number; numbers of many rows are added.

    Ids come once, so that no row can hide another.
    """
    told = json.dumps([id_, text]).encode("ascii")
    return int.from_bytes(hashlib.sha256(told).digest())


def identity_of(numbers: int) -> str:
    """Return what rouge.json says of texts by the sum of their numbers: 64 hex digits, modulo 2 ** 256."""
    return f"{numbers % _MODULUS:064x}"
