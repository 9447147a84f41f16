"""What two texts have in common, word for word."""

from __future__ import annotations

import itertools
import operator
import re
from typing import NamedTuple

WORDS = 3
"""The shortest run of words that counts as copied."""

_WORD = re.compile(r"\w+")


class Piece(NamedTuple):
    """A part of a text."""

    text: str
    is_copied: bool


def copied_pieces(text: str, other: str, words: int = WORDS) -> list[Piece]:
    """Cut a text into pieces that stand word for word in another one too, and pieces that do not.

    A word is copied if it is part of a run of `words` words that the other text has, whatever the case and
    whatever stands between them. Joined, the pieces are the text.
    """
    known = set(_runs([match.group().casefold() for match in _WORD.finditer(other)], words))
    found = list(_WORD.finditer(text))
    mask = bytearray(len(text))
    for start, run in enumerate(_runs([match.group().casefold() for match in found], words)):
        if run in known:
            first, last = found[start].start(), found[start + words - 1].end()
            mask[first:last] = b"\1" * (last - first)
    groups = itertools.groupby(zip(mask, text, strict=True), key=operator.itemgetter(0))
    return [Piece("".join(letter for _, letter in group), bool(is_in)) for is_in, group in groups]


def _runs(words: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
