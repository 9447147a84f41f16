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
    "unicode": "NFKC, case folded, without format characters (joiners, soft hyphens), runs of letters, marks "
    "and numbers of any script; each character of scripts without blanks between words (Han, kana, Thai, "
    "Lao, Burmese, Khmer) is a word",
}
"""What each does, for people."""

_ASCII_WORDS = re.compile("[a-z0-9]+")
_NO_BLANKS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_UNICODE_WORDS = re.compile(rf"[{_NO_BLANKS}]|[^\s{_NO_BLANKS}]+")


def _ascii_words(text: str) -> list[str]:
    """Return the words as rouge-score 0.1.2 has them (`tokenize.py`)."""
    found: list[str] = _ASCII_WORDS.findall(text.lower())
    return found


def _unicode_words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    found: list[str] = _UNICODE_WORDS.findall("".join(map(_kept, folded)))
    return found


@functools.lru_cache(maxsize=1 << 14)
def _kept(char: str) -> str:
    """Return a character that is part of words, else a blank; marks are vowels in Indic scripts.

    Format characters are gone: soft hyphens and joiners stand within words, and Persian and Indic texts
    have them or not in the same word. The zero-width space alone stands between words.
    """
    category = unicodedata.category(char)
    if category == "Cf" and char != "\u200b":
        return ""
    return char if category[0] in "LMN" else " "


TOKENIZERS: dict[Tokenizer, Callable[[str], list[str]]] = {
    "ascii": _ascii_words,
    "unicode": _unicode_words,
}


def letters(text: str, tokenizer: Tokenizer) -> tuple[int, int]:
    """Return how many letters a text has, and how many of them the tokenizer drops."""
    found = sum(map(str.isalpha, text))
    if tokenizer == "unicode" or text.isascii():
        return found, 0
    return found, sum(char.isalpha() and not char.isascii() for char in text)
