"""Which texts were scored: by that runs are compared, whatever the order of their rows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from stages.score.systems import Row

_TEXTS = ("references", "documents")
_MODULUS = 1 << 256


def identity_sums(rows: Sequence[Row]) -> Counter[str]:
    """Return, for the references and the documents of some rows, the sum of the sha256 of each [id, text].

    Sums of portions add up to that of all; ids come once, so that no row can hide another.
    """
    sums: Counter[str] = Counter()
    for row in rows:
        for name, text in zip(_TEXTS, (row.reference, row.document), strict=True):
            if text is not None:
                told = json.dumps([row.id, text]).encode("ascii")
                sums[f"{name}: sha256"] += int.from_bytes(hashlib.sha256(told).digest())
    return sums


def identities(sums: Counter[str]) -> dict[str, str | None]:
    """Return what rouge.json says of them: 64 hex digits, the sum modulo 2 ** 256; None without texts."""
    return {
        f"{name}_sha256": f"{sums[key] % _MODULUS:064x}"
        if (key := f"{name}: sha256") in sums
        else None
        for name in _TEXTS
    }
