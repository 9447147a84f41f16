"""Warnings about figures that mean less than they seem."""

from __future__ import annotations

from collections import Counter

import pytest

from stages.score.config import ProfileName, Splitter
from stages.score.doubts import doubts, tally, tally_document
from stages.score.profiles import reader

RUSSIAN = "\u041c\u043e\u0441\u043a\u0432\u0430 \u043d\u0430 \u0440\u0435\u043a\u0435"


def told(
    references: list[str],
    predictions: list[str],
    *profiles: ProfileName,
    splitter: Splitter | None = None,
    is_l_lsum: bool = False,
) -> list[str]:
    counts = tally("references", references) + tally("predictions", predictions)
    readers = [reader(name, splitter, None) for name in profiles or ("rouge-score",)]
    found = doubts(counts, readers, is_l_lsum=is_l_lsum)
    return [one for one in found if "row" not in one]  # few rows have a test of their own


@pytest.mark.parametrize(
    ("rows", "said"),
    [(1, ["one row: there is no interval"]), (29, ["29 rows are few: 95 %"]), (30, [])],
)
def test_few_rows_are_told(rows: int, said: list[str]) -> None:
    counts = tally("references", ["x"] * rows)
    found = doubts(counts, [reader("rouge-score", None, None)], is_l_lsum=False)
    assert [one[: len(start)] for one, start in zip(found, said, strict=True)] == said


def unsplit(document: str, splitter: Splitter) -> list[str]:
    counts = tally("references", ["x"] * 30) + tally_document(document, splitter)
    return doubts(counts, [reader("rouge-score", splitter, None)], is_l_lsum=False)


def test_documents_whose_sentences_are_too_long_are_told() -> None:
    sentence, endless = "Ten words stand in this sentence that is no longer. ", "word " * 81
    assert unsplit(f"A line.\n{8 * sentence}", "newline") == []
    (found,) = unsplit(f"A line.\n{9 * sentence}", "newline")
    assert found.startswith(
        "1 of 1 documents have a sentence of more than 80 words as newline splits"
    )
    assert "lead and oracle" in found and "split them by punkt" in found
    assert unsplit(f"A line.\n{9 * sentence}", "simple") == []
    assert unsplit(9 * sentence, "newline") == [], "a document in one line is split by simple"
    assert len(unsplit(endless, "newline")) == 1


def test_plain_english_leaves_no_doubt() -> None:
    assert told(["One line.", "Two.\nLines."], ["caf\u00e9 with plain letters", "x"]) == []


def test_dropped_letters_are_told_with_the_way_out() -> None:
    (found,) = told([RUSSIAN, "one"], ["all of it is plain"])
    assert found.startswith("80 % of the letters of the references are not a-z")
    assert "tokenizer of rouge-score" in found and "score with the profile unicode too" in found
    (found,) = told(["plain"], [RUSSIAN], "rouge-score", "unicode")
    assert "of the predictions" in found and "the profile unicode keeps them" in found
    assert told([RUSSIAN], [RUSSIAN], "unicode") == []


@pytest.mark.parametrize(("plain", "is_told"), [(18, True), (19, False)])
def test_one_letter_in_twenty_is_too_few_to_tell(plain: int, is_told: bool) -> None:
    assert bool(told(["\u00e9" + "a" * plain], ["x"])) is is_told


def test_sentences_in_one_line_are_told_where_lines_are_sentences() -> None:
    run_on, apart = "One is here. Two is there.", "One is here.\nTwo is there."
    (found,) = told([run_on, "One."], [apart, apart])
    assert found.startswith("1 of 2 references have several sentences in one line")
    assert "which lowers rougeLsum" in found and "punkt" in found
    references, predictions = told([run_on], [run_on], is_l_lsum=True)
    assert all("so that rougeLsum equals rougeL" in one for one in (references, predictions))
    assert told([run_on], [run_on], splitter="simple") == []


def test_empty_texts_are_counted() -> None:
    assert told(["", "x"], [" \n", ""]) == [
        "1 of 2 references are empty and score 0",
        "2 of 2 predictions are empty and score 0",
    ]


def test_rows_that_failed_are_counted() -> None:
    counts = Counter({"references": 30, "predictions": 30, "failed": 2})
    (found,) = doubts(counts, [reader("rouge-score", None, None)], is_l_lsum=False)
    assert found == "2 of the empty predictions are rows that generate could not summarise"
