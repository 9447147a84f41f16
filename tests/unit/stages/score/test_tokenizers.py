"""Words of any script, and the letters that a tokenizer drops."""

from __future__ import annotations

import pytest
from rouge_score.tokenize import tokenize

from stages.score.tokenizers import TOKENIZERS, letters
from stages.unicode_words import placed_words

MOSCOW = "\u041c\u043e\u0441\u043a\u0432\u0430"
HINDI = "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The U.S. won 3-0, didn't it?", ["the", "u", "s", "won", "3", "0", "didn", "t", "it"]),
        # A composed and a decomposed letter are one; a case without a partner is folded.
        ("Caf\u00e9 CAFE\u0301 Stra\u00dfe", ["caf\u00e9", "caf\u00e9", "strasse"]),
        (f"{MOSCOW}, 42!", [MOSCOW.lower(), "42"]),
        (HINDI, HINDI.split()),  # vowel signs are marks, no letters
        ("\u6771\u4eac\u3067iPhone 15", ["\u6771", "\u4eac", "\u3067", "iphone", "15"]),
        ("\u0e01\u0e34\u0e19", ["\u0e01", "\u0e34", "\u0e19"]),
        # Persian's and Hindi's joiners stand within words, as soft hyphens do; a zero-width space between.
        ("\u0645\u06cc\u200c\u0631\u0648\u0645", ["\u0645\u06cc\u0631\u0648\u0645"]),
        ("\u0915\u094d\u200d\u0937", ["\u0915\u094d\u0937"]),
        ("sum\u00admary a\u200bb", ["summary", "a", "b"]),
        ("\uc548\ub155 \uc138\uacc4", ["\uc548\ub155", "\uc138\uacc4"]),
        ("snake_case \U0001f600 \u00a5\uff11", ["snake", "case", "1"]),
        (" \n", []),
        # How a character looks is no part of a word, and a mark of no letter is none.
        ("I love it \u2764\ufe0f", ["i", "love", "it"]),
        ("1\ufe0f\u20e3 x\U000e0100", ["1", "x"]),
        ("don\u00b4t \u00a8x \u0301", ["don", "t", "x"]),
        ("\u0e34 \u102d", ["\u0e34", "\u102d"]),  # of scripts without blanks each is a word
    ],
)  # fmt: skip
def test_unicode_keeps_all_letters(text: str, expected: list[str]) -> None:
    assert TOKENIZERS["unicode"](text) == expected
    assert [one.word for one in placed_words(text)] == expected
    for word, start, end in placed_words(text):
        assert TOKENIZERS["unicode"](text[start:end]) == [word]


@pytest.mark.parametrize("text", ["The U.S. won 3-0", "Caf\u00e9", HINDI, "", "\u0130I\u212a _x_"])
def test_ascii_is_rouge_score_s(text: str) -> None:
    assert TOKENIZERS["ascii"](text) == tokenize(text, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Plain, 42.", (5, 0)), ("caf\u00e9!", (4, 1)), (f"{MOSCOW} x", (7, 6)), ("", (0, 0))],
)  # fmt: skip
def test_dropped_letters_are_counted(text: str, expected: tuple[int, int]) -> None:
    assert letters(text) == expected
