"""Named ways to cut text into words."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Literal

Tokenizer = Literal["ascii", "unicode"]

TOKENIZER_WORDS = {
    "ascii": "lower case, runs of a-z and 0-9; everything else is a blank",
    "unicode": "NFKC, case folded, without characters of format or presentation (joiners, soft hyphens, "
    "variation selectors), runs of letters and numbers of any script with their marks; each character of "
    "scripts without blanks between words (Han, kana, Thai, Lao, Burmese, Khmer) is a word",
}
"""What each does, for people."""

_ASCII_WORDS = re.compile("[a-z0-9]+")
_NO_BLANKS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_KEYCAP = "\u20e3"
_PRESENTATION = frozenset(
    [_KEYCAP, *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))]
)
"""How a character looks (variation selectors, the frame of a key): no part of a word."""
_FIRST_MARK = "\u0300"
_IS_ALONE = re.compile(f"[{_NO_BLANKS}]")
_UNICODE_WORDS = re.compile(rf"[{_NO_BLANKS}]|[^\s{_NO_BLANKS}]+")


def _ascii_words(text: str) -> list[str]:
    """Return the words as rouge-score 0.1.2 has them (`tokenize.py`)."""
    found: list[str] = _ASCII_WORDS.findall(text.lower())
    return found


def _unicode_words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    runs: list[str] = _UNICODE_WORDS.findall("".join(map(_kept, folded)))
    words = (run if run[0] < _FIRST_MARK else _without_lone_marks(run) for run in runs)
    return [word for word in words if word]


@functools.lru_cache(maxsize=1 << 14)
def _kept(char: str) -> str:
    """Return a character that is part of words, else a blank; marks are vowels in Indic scripts.

    Format characters are gone: soft hyphens and joiners stand within words, and Persian and Indic texts
    have them or not in the same word. The zero-width space alone stands between words.
    """
    category = unicodedata.category(char)
    if char in _PRESENTATION or (category == "Cf" and char != "\u200b"):
        return ""
    return char if category[0] in "LMN" else " "


@functools.lru_cache(maxsize=1 << 14)
def _without_lone_marks(run: str) -> str:
    """Return a run without the marks that it begins with: of a symbol or an accent that stood alone."""
    if _IS_ALONE.match(run):
        return run
    start = 0
    while start < len(run) and unicodedata.category(run[start])[0] == "M":
        start += 1
    return run[start:]


TOKENIZERS: dict[Tokenizer, Callable[[str], list[str]]] = {
    "ascii": _ascii_words,
    "unicode": _unicode_words,
}


def letters(text: str) -> tuple[int, int]:
    """Return how many letters a text has, and how many of them the `ascii` tokenizer drops."""
    found = sum(map(str.isalpha, text))
    if text.isascii():
        return found, 0
    return found, sum(char.isalpha() and not char.isascii() for char in text)
