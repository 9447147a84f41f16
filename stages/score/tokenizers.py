"""Named ways to cut text into words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from stages.unicode_words import unicode_words

Tokenizer = Literal["ascii", "unicode"]

TOKENIZER_WORDS = {
    "ascii": "lower case, runs of a-z and 0-9; everything else is a blank",
    "unicode": "NFKC, case folded, without characters of format or presentation (joiners, soft hyphens, "
    "variation selectors), runs of letters and numbers of any script with their marks; each character of "
    "scripts without blanks between words (Han, kana, Thai, Lao, Burmese, Khmer) is a word",
}
"""What each does, for people."""

_ASCII_WORDS = re.compile("[a-z0-9]+")


def _ascii_words(text: str) -> list[str]:
    """Return the words as rouge-score 0.1.2 has them (`tokenize.py`)."""
    found: list[str] = _ASCII_WORDS.findall(text.lower())
    return found


TOKENIZERS: dict[Tokenizer, Callable[[str], list[str]]] = {
    "ascii": _ascii_words,
    "unicode": unicode_words,
}


def letters(text: str) -> tuple[int, int]:
    """Return how many letters a text has, and how many of them the `ascii` tokenizer drops."""
    found = sum(map(str.isalpha, text))
    if text.isascii():
        return found, 0
    return found, sum(char.isalpha() and not char.isascii() for char in text)
