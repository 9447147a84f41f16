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
    st.text(" \n\r\t\x00\x1c\u00a0\u0301\u200b\u200c\u2028aeZ.\ufb01", max_size=9),
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
    kept = {unicodedata.category(char) for char in found if char not in "\n\u200c\u200d"}
    assert not kept & {"Cc", "Cf", "Cs"}


@settings(max_examples=100, deadline=None)
@given(texts)
def test_words_are_kept(text: str) -> None:
    def letters(value: str) -> str:
        return "".join(char for char in unicodedata.normalize("NFC", value) if char in "aeZ.")

    marked = text.replace("\u0301", "")
    assert letters(normalize(marked, "NFC")) == letters(marked)
