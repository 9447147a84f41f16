"""Words of any script: what the tokenizer `unicode` scores, and what is marked as copied."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

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
_RUN = rf"[^\s{_NO_BLANKS}]+"
_UNICODE_WORDS = re.compile(f"[{_NO_BLANKS}]|{_RUN}")
_KANA_SOUNDS = "\u3099\u309a"
_PLACED_WORDS = re.compile(f"[{_NO_BLANKS}][{_KANA_SOUNDS}]*|{_RUN}")
"""Of texts as they are, in which the sounds of kana may be marks of their own."""


def unicode_words(text: str) -> list[str]:
    """Return the words of a text of any script, NFKC and case folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    runs: list[str] = _UNICODE_WORDS.findall("".join(map(_kept, folded)))
    words = (run if run[0] < _FIRST_MARK else _without_lone_marks(run) for run in runs)
    return [word for word in words if word]


class PlacedWord(NamedTuple):
    """A word and where it stands: text[start:end] is what gave it."""

    word: str
    start: int
    end: int


def placed_words(text: str) -> Iterator[PlacedWord]:
    """Yield the words of a text with their places; a character that gives two words (½) gives one here."""
    kept = "".join(" " if _kept(char) == " " else char for char in text)
    for run in _PLACED_WORDS.finditer(kept):
        if word := _as_one(run.group()):
            yield PlacedWord(word, *run.span())


@functools.lru_cache(maxsize=1 << 14)
def _as_one(run: str) -> str:
    return "".join(unicode_words(run))


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
