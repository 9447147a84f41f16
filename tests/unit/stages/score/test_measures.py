"""Measures by hand, and against their definitions carried out word by word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.score.measures import COPYING, MEASURES, measures

DOCUMENT = "The mayor opened the old bridge on Monday. Hundreds of people came to the river."


def measured(document: str | None, summary: str, reference: str = "x") -> dict[str, float | None]:
    found = measures(document, summary, reference)
    assert tuple(found) == MEASURES
    return found


# 8 words in the fragments "the mayor opened the", "bridge on", "people"; "gladly" is new.
def test_a_summary_by_hand() -> None:
    summary = "The mayor opened the bridge on gladly: people!"
    assert measured(DOCUMENT, summary, "a bridge was opened") == pytest.approx(
        {
            "length_ratio": 8 / 4,
            "novel_1gram": 1 / 7,  # "the" comes twice: 7 distinct words
            "novel_2gram": 3 / 7,  # the bridge, on gladly, gladly people
            "novel_3gram": 4 / 6,  # the mayor opened and mayor opened the are known
            "novel_4gram": 4 / 5,
            "coverage": 7 / 8,
            "density": (4**2 + 2**2 + 1**2) / 8,
            "compression": 15 / 8,
            "repetition": 0.0,
        }
    )


def test_what_is_copied_whole_is_one_fragment() -> None:
    found = measured(DOCUMENT, "Hundreds of people came to the river.")
    assert (found["coverage"], found["density"]) == (1.0, 7.0)
    assert [found[f"novel_{size}gram"] for size in (1, 2, 3, 4)] == [0.0] * 4


# NEWSROOM's search matches "a a", goes on behind it, and so never sees "a a b".
def test_a_text_that_repeats_itself_is_matched_at_its_longest() -> None:
    assert measured("a a a b", "a a b")["density"] == 3.0
    assert measured("a " * 3000, "a " * 300)["density"] == 300.0


# Trigrams: abc bca cab abc bcd; of the four distinct ones abc comes twice.
def test_repetition_by_hand() -> None:
    assert measured(DOCUMENT, "a b c a b c d")["repetition"] == 1 / 4
    assert measured(DOCUMENT, "a b c d")["repetition"] == 0.0


@pytest.mark.parametrize(
    ("document", "summary", "reference", "expected"),
    [
        ("a b", "", "c d", {"length_ratio": 0.0}),
        ("a b", " ... ", "c d", {"length_ratio": 0.0}),
        ("", "", "", {}),
        ("a b", "a", "", {"novel_1gram": 0.0, "coverage": 1.0, "density": 1.0, "compression": 2.0}),
        ("", "a", "b", {"length_ratio": 1.0, "novel_1gram": 1.0, "coverage": 0.0, "density": 0.0,
                        "compression": 0.0}),
        (None, "a b c", "d", {"length_ratio": 3.0, "repetition": 0.0}),
    ],
    ids=["no summary", "no words", "nothing", "no reference", "empty document", "no document"],
)  # fmt: skip
def test_what_cannot_be_measured_has_no_value(
    document: str | None, summary: str, reference: str, expected: dict[str, float]
) -> None:
    assert measured(document, summary, reference) == dict.fromkeys(MEASURES) | expected


def test_words_are_those_of_any_script() -> None:
    found = measured("Мэр открыл мост. Café déjà.", "мэр ОТКРЫЛ; cafe\u0301", "ещё раз")
    assert found["coverage"] == 1.0
    assert found["density"] == (2**2 + 1) / 3
    assert found["length_ratio"] == 3 / 2


letters = st.lists(st.sampled_from("abc"), max_size=14)


def is_in(part: list[str], whole: list[str]) -> bool:
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


def fragments(summary: list[str], document: list[str]) -> list[int]:
    """From left to right the longest run of words that the document has too."""
    found, at = [], 0
    while at < len(summary):
        sizes = range(len(summary) - at, 0, -1)
        size = next((n for n in sizes if is_in(summary[at : at + n], document)), 0)
        found += [size] if size else []
        at += max(size, 1)
    return found


@settings(max_examples=300, deadline=None)
@given(letters, letters)
def test_copying_is_what_the_definitions_say(document: list[str], summary: list[str]) -> None:
    found = measured(" ".join(document), " ".join(summary))
    if not summary:
        assert all(found[name] is None for name in COPYING)
        return
    sizes = fragments(summary, document)
    assert found["coverage"] == pytest.approx(sum(sizes) / len(summary))
    assert found["density"] == pytest.approx(sum(size * size for size in sizes) / len(summary))
    for n in (1, 2, 3, 4):
        grams = {tuple(summary[at : at + n]) for at in range(len(summary) - n + 1)}
        novel = [gram for gram in grams if not is_in(list(gram), document)]
        assert found[f"novel_{n}gram"] == (
            pytest.approx(len(novel) / len(grams)) if grams else None
        )
