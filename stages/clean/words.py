"""A text as words: what filters count and what duplicates are found by."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SHINGLE_WORDS = 5

Hashes = NDArray[np.uint64]
"""64 bits of each shingle of a text, ascending, none twice: a tenth of the memory that shingles take. Two
texts of 400 words have a hash of different shingles in common with probability 400**2 / 2**64, or 1e-14."""

_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
"""Kana, Han, Hangul and Thai, of which each letter counts as a word."""
_MARKS = "".join(
    char
    for char in map(chr, range(0x300, 0x10000))
    if unicodedata.category(char) in {"Mn", "Mc"} and not "\u0e00" <= char <= "\u0e7f"
)
"""Signs within words that are no `\\w`, such as Devanagari's vowels; a set beyond U+FFFF is slow in re."""
_LETTERS = rf"[^\W{_UNSPACED}]"
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*")


def words_of(text: str) -> list[str]:
    """Return the words of a text, case folded, without punctuation."""
    return _WORD.findall(text.casefold())


def count_words(text: str) -> int:
    """Return how many words a text has, without holding them."""
    return _WORD.subn("", text.casefold())[1]


def shingles(words: list[str]) -> Iterator[str]:
    """Yield all runs of SHINGLE_WORDS words; of a shorter text the one there is."""
    count = max(len(words) - SHINGLE_WORDS + 1, 1)
    return (" ".join(words[at : at + SHINGLE_WORDS]) for at in range(count))


def shingle_hashes(words: list[str]) -> Hashes:
    """Return the hashes of the shingles: those of the words as the digits of a number, modulo 2 ** 64."""
    padded = [*words, *[""] * (SHINGLE_WORDS - len(words))]
    digits = np.fromiter(map(_hash, padded), np.uint64, len(padded))
    count = len(padded) - SHINGLE_WORDS + 1
    found = np.zeros(count, np.uint64)
    for at in range(SHINGLE_WORDS):
        found = found * np.uint64(0x9E3779B97F4A7C15) + digits[at : at + count]
    return np.unique(found)


@functools.lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def digest(text: str, words: list[str]) -> bytes:
    """Return 16 bytes that are equal for equal words; for a text without any, for equal characters."""
    content = " ".join(words) if words else f"\0{text}"
    return hashlib.sha256(content.encode()).digest()[:16]


def jaccard(one: Hashes, other: Hashes) -> float:
    """Return the share of common elements, |A and B| / |A or B|; of two sets that are not empty."""
    nearest = one.take(np.searchsorted(one, other), mode="clip")
    common = int(np.count_nonzero(nearest == other))
    return common / (len(one) + len(other) - common)
