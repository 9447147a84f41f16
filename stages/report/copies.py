"""What two texts have in common, word for word."""

from __future__ import annotations

import itertools
import operator
import unicodedata
from typing import NamedTuple

from stages.unicode_words import placed_words

WORDS = 3
"""The shortest run of words that counts as copied."""


class Piece(NamedTuple):
    """A part of a text."""

    text: str
    is_copied: bool


def copied_pieces(text: str, other: str, words: int = WORDS) -> list[Piece]:
    """Cut a text into pieces that stand word for word in another one too, and pieces that do not.

    A word is copied if it is part of a run of `words` words that the other text has, whatever the case and
    whatever stands between them; words are those of any script. Joined, the pieces are the text.
    """
    known = set(_runs([one.word for one in placed_words(other)], words))
    found = list(placed_words(text))
    mask = bytearray(len(text))
    for start, run in enumerate(_runs([one.word for one in found], words)):
        if run in known:
            first, last = found[start].start, found[start + words - 1].end
            mask[first:last] = b"\1" * (last - first)
    for place in range(1, len(text)):
        if unicodedata.category(text[place])[0] == "M":  # stays with the letter that it stands on
            mask[place] = mask[place - 1]
    groups = itertools.groupby(zip(mask, text, strict=True), key=operator.itemgetter(0))
    return [Piece("".join(letter for _, letter in group), bool(is_in)) for is_in, group in groups]


def _runs(words: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
