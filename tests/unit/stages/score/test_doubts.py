"""Warnings about figures that mean less than they seem."""

from __future__ import annotations

import pytest

from stages.intervals import Interval
from stages.score.config import ProfileName, Splitter
from stages.score.doubts import doubts, few_values
from stages.score.profiles import reader
from stages.score.systems import Row
from stages.score.tally import Side, Tally, is_unsplit, side, tally

RUSSIAN = "\u041c\u043e\u0441\u043a\u0432\u0430 \u043d\u0430 \u0440\u0435\u043a\u0435"


def sides(texts: list[str]) -> Side:
    return sum(map(side, texts), Side())


def test_rows_are_counted_and_add_up() -> None:
    rows = [
        Row("1", "Words. More.", "One. Two.", "One. Two.", "eos"),
        Row("2", "word " * 81, "caf\u00e9", "", "failed: not finite"),
        Row("3", None, "x y", "x\ny", "eos"),
        Row("4", None, "", " ", "eos"),  # equal, and yet without a word that is right
    ]
    read = reader("rouge-score", None, None)
    whole = sum((tally(row, read, has_sentences=True) for row in rows), Tally())
    assert whole.references == Side(texts=4, empty=1, letters=12, dropped=1, run_on=1)
    assert whole.predictions == Side(texts=4, empty=2, letters=8, dropped=0, run_on=1)
    assert (whole.exact, whole.failed, whole.documents, whole.unsplit) == (2, 1, 2, 1)
    assert tally(rows[1], read, has_sentences=False).unsplit == 0


def told(
    references: list[str],
    predictions: list[str],
    *profiles: ProfileName,
    splitter: Splitter | None = None,
    is_l_lsum: bool = False,
) -> list[str]:
    counts = Tally(sides(references), sides(predictions))
    readers = [reader(name, splitter, None) for name in profiles or ("rouge-score",)]
    found = doubts(counts, readers, is_l_lsum=is_l_lsum)
    return [one for one in found if "row" not in one]  # few rows have a test of their own


@pytest.mark.parametrize(
    ("rows", "said"),
    [(1, ["one row: there is no interval"]), (29, ["29 rows are few: 95 %"]), (30, [])],
)
def test_few_rows_are_told(rows: int, said: list[str]) -> None:
    counts = Tally(sides(["x"] * rows))
    found = doubts(counts, [reader("rouge-score", None, None)], is_l_lsum=False)
    assert [one[: len(start)] for one, start in zip(found, said, strict=True)] == said


def unsplit(document: str, splitter: Splitter) -> list[str]:
    counts = Tally(sides(["x"] * 30), documents=1, unsplit=int(is_unsplit(document, splitter)))
    return doubts(counts, [reader("rouge-score", splitter, None)], is_l_lsum=False)


def test_documents_whose_sentences_are_too_long_are_told() -> None:
    sentence, endless = "Ten words stand in this sentence that is no longer. ", "word " * 81
    assert unsplit(f"A line.\n{8 * sentence}", "newline") == []
    (found,) = unsplit(f"A line.\n{9 * sentence}", "newline")
    assert found.startswith(
        "1 of 1 document has a sentence of more than 80 words as newline splits"
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
    assert found.startswith("1 of 2 references has several sentences in one line")
    assert "which lowers rougeLsum" in found and "punkt" in found
    references, predictions = told([run_on], [run_on], is_l_lsum=True)
    assert all("so that rougeLsum equals rougeL" in one for one in (references, predictions))
    assert told([run_on], [run_on], splitter="simple") == []


def test_empty_texts_are_counted() -> None:
    assert told(["", "x"], [" \n", ""]) == [
        "1 of 2 references is empty and scores 0",
        "2 of 2 predictions are empty and score 0",
    ]


@pytest.mark.parametrize(("failed", "said"), [(1, "is a row"), (2, "are rows")])
def test_rows_that_failed_are_counted(failed: int, said: str) -> None:
    counts = Tally(Side(texts=30), Side(texts=30), failed=failed)
    (found,) = doubts(counts, [reader("rouge-score", None, None)], is_l_lsum=False)
    assert found == f"{failed} of the empty predictions {said} that generate could not summarise"


def test_measures_that_few_rows_have_are_named() -> None:
    def measured(**rows: int) -> dict[str, dict[str, Interval]]:
        return {"model": {name: Interval(0.5, 0.0, 1.0, count) for name, count in rows.items()}}

    (found,) = few_values(measured(all=40, some=29, one=1, enough=30), 40)
    assert found == (
        "few rows have a value of some (29): 95 % intervals of fewer than 30 cover less often than that"
    )
    assert few_values(measured(all=30, one=1), 30) == []
    assert few_values(measured(some=3), 29) == [], "that rows are few is told of all"
