"""Text normalisation by a table of cases, and that it is done after one pass."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.normalize import normalize

FORMS: tuple[Literal["NFC", "NFKC"], ...] = ("NFC", "NFKC")

ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
CASES = {
    "plain": ("Plain text.", "Plain text."),
    "composed": ("cafe\u0301", "caf\u00e9"),
    "ligature stays": ("\ufb01re", "\ufb01re"),
    "windows line breaks": ("a\r\nb", "a\nb"),
    "old mac line breaks": ("a\rb", "a\nb"),
    "unicode line breaks": ("a\u2028b\u2029c\x85d\x0be\x0cf", "a\nb\nc\nd\ne\nf"),
    "tab": ("a\tb", "a b"),
    "run of blanks": ("a \t \u00a0 \u3000b", "a b"),
    "no-break space": ("10\u00a0km", "10 km"),
    "run of line breaks": ("a\n\n\n\nb", "a\nb"),
    "line of blanks": ("a \n \t \n b", "a\nb"),
    "both ends": (" \n\t a b \n ", "a b"),
    "zero-width space": ("a\u200bb", "ab"),
    "byte order mark": ("\ufeffa", "a"),
    "soft hyphen": ("co\u00adoperate", "cooperate"),
    "bidi marks": ("\u200ea\u202eb\u202c", "ab"),
    "control characters": ("a\x00b\x07c\x1bd\x7fe", "abcde"),
    "half of a surrogate pair": ("a\ud83d", "a"),
    "persian non-joiner": ("\u0645\u06cc\u200c\u0634\u0648\u062f",) * 2,
    "emoji joiner": ("\U0001f468\u200d\U0001f469",) * 2,
    "mongolian separator": ("\u1820\u180e\u1820",) * 2,
    "arabic signs that are seen": ("\u0600\u0661 \u06dd \u08e2", "\u0600\u0661 \u06dd \u08e2"),
    "syriac abbreviation": ("\u070f\u0710",) * 2,
    "flag of England": (ENGLAND, ENGLAND),
    "flag and a hidden text": (f"{ENGLAND}\U000e0068\U000e0069a", f"{ENGLAND}a"),
    "hidden text behind a flag": ("\U0001f3f4\U000e0068\U000e0069a", "\U0001f3f4a"),
    "hidden text": ("a\U000e0001\U000e0068\U000e007f b", "a b"),
    "invisible operators": ("f\u2061(x)\u2062y", "f(x)y"),
    "cut control between blanks": ("a \x00 b", "a b"),
    "zero-width space between blanks": ("a \u200b b", "a b"),
    "control in a line of blanks": ("a \u200b \nb", "a\nb"),
    "control before an accent": ("e\u200b\u0301", "\u00e9"),
    "empty": ("", ""),
    "nothing but blanks": (" \u00a0\u200b\n\ufeff\t", ""),
}


@pytest.mark.parametrize(("text", "expected"), list(CASES.values()), ids=list(CASES))
def test_cases(text: str, expected: str) -> None:
    assert normalize(text, "NFC") == expected


def test_nfkc_also_folds_compatibility_characters() -> None:
    assert normalize("\ufb01re \u2460 \uff21", "NFKC") == "fire 1 A"


# What the rules are about, close together; and anything else.
texts = st.one_of(
    st.text(
        " \n\r\t\x00\x1c\u00a0\u0301\u200b\u200c\u2028aeZ.\ufb01\U0001f3f4\U000e0067\U000e007f",
        max_size=9,
    ),
    st.text(max_size=20),
)


@settings(max_examples=300, deadline=None)
@given(texts, st.sampled_from(FORMS))
def test_a_second_pass_changes_nothing(text: str, form: Literal["NFC", "NFKC"]) -> None:
    once = normalize(text, form)
    assert normalize(once, form) == once


@settings(max_examples=300, deadline=None)
@given(texts, st.sampled_from(FORMS))
def test_what_is_left_is_clean(text: str, form: Literal["NFC", "NFKC"]) -> None:
    found = normalize(text, form)
    assert unicodedata.is_normalized(form, found)
    assert found == found.strip()
    assert not re.search(r"  |\n\n| \n|\n |[^\S \n]", found)
    assert not {unicodedata.category(char) for char in found if char != "\n"} & {"Cc", "Cs"}


def test_every_format_character_that_may_be_left_out_of_sight_goes_but_for_joiners() -> None:
    """Unicode's own list: those of Cf that are not to be seen (Default_Ignorable_Code_Point)."""
    seen = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    of_scripts = {0x180E, 0x200C, 0x200D, *range(0x13430, 0x13456), *range(0x1BCA0, 0x1BCA4)}
    of_scripts |= set(range(0x1D173, 0x1D17B))  # music
    every = {code for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf"}
    assert {code for code in every if normalize(f"a{chr(code)}a", "NFC") != "aa"} == (
        every & (seen | of_scripts)
    )


@settings(max_examples=100, deadline=None)
@given(texts)
def test_words_are_kept(text: str) -> None:
    def letters(value: str) -> str:
        return "".join(char for char in unicodedata.normalize("NFC", value) if char in "aeZ.")

    marked = text.replace("\u0301", "")
    assert letters(normalize(marked, "NFC")) == letters(marked)
