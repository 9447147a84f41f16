"""Splitting text into sentences, and the lead baseline."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import nltk.data
import nltk.tokenize
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from stages.score.config import Splitter
from stages.score.sentences import document_sentences, lead, punkt_sha256, split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two.\nThree.", ["One. Two.", "Three."]),
        ("One.\n\n \nTwo. ", ["One.", "Two."]),
        ("", []),
    ],
)
def test_newline_splitter(text: str, expected: list[str]) -> None:
    assert split_sentences(text, "newline") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It was 3.5 m. 40 came.", ["It was 3.5 m.", "40 came."]),
        ("He left. then came back.", ["He left. then came back."]),
        ("First line.\nsecond line", ["First line.", "second line"]),
        ('One. "Two," he said.', ["One.", '"Two," he said.']),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("Ready (or not). (Here I come.) Now.", ["Ready (or not).", "(Here I come.)", "Now."]),
        ("What?! No...", ["What?!", "No..."]),
        ("", []),
    ],
)
def test_simple_splitter(text: str, expected: list[str]) -> None:
    assert split_sentences(text, "simple") == expected


pieces = st.lists(
    st.sampled_from(["One", "two", "3", ".", '."', "?)", "(", " ", " One", ' "Two', "\n"]),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(pieces, st.sampled_from(["newline", "simple"]))
def test_splitting_loses_white_space_only(text: str, splitter: Splitter) -> None:
    sentences = split_sentences(text, splitter)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in sentences)


def test_punkt_without_its_data_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk.tokenize, "_get_punkt_tokenizer", nltk.tokenize.PunktTokenizer)
    with pytest.raises(DataError, match=r"python -m nltk\.downloader punkt_tab") as caught:
        split_sentences("One. Two.", "punkt")
    assert "NLTK_DATA" in str(caught.value)


def test_punkt_s_archive_that_came_in_part_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk.tokenize, "_get_punkt_tokenizer", nltk.tokenize.PunktTokenizer)
    archive = tmp_path / "tokenizers" / "punkt_tab.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"PK\x03\x04 cut short")
    for read in (punkt_sha256, lambda: split_sentences("One. Two.", "punkt")):
        with pytest.raises(
            DataError, match=r"^score.sentences: .*punkt_tab.zip is not a whole .zip"
        ):
            read()


def test_punkt_knows_abbreviations(monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.environ.get("SUMPIPE_TEST_DATA")
    if data is None:
        pytest.skip("SUMPIPE_TEST_DATA is not set: no punkt_tab")
    monkeypatch.setattr(nltk.data, "path", [str(Path(data) / "nltk_data")])
    text = "Mr. Smith came to Dover. He left again.\nno full stop"
    expected = ["Mr. Smith came to Dover.", "He left again.", "no full stop"]
    assert split_sentences(text, "punkt") == expected


def test_the_identity_of_punkt_s_data_is_of_its_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(DataError, match="punkt_tab"):
        punkt_sha256()
    names = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
    for name in names:
        (folder / name).write_text(name, encoding="utf-8")
    before = punkt_sha256()
    assert before == hashlib.sha256("".join(names).encode()).hexdigest()
    (folder / names[0]).write_text("mr", encoding="utf-8")
    assert punkt_sha256() != before


DOCUMENT = "One is here. Two is there. Three is away. Four."


@pytest.mark.parametrize(
    ("unit", "count", "splitter", "expected"),
    [
        ("sentences", 2, "simple", "One is here.\nTwo is there."),
        ("sentences", 9, "simple", "One is here.\nTwo is there.\nThree is away.\nFour."),
        # A document in one line has no newlines to be split at.
        ("sentences", 1, "newline", "One is here."),
        ("words", 4, "newline", "One is here. Two"),
        ("words", 99, "simple", DOCUMENT),
    ],
)
def test_lead(
    unit: Literal["sentences", "words"], count: int, splitter: Splitter, expected: str
) -> None:
    assert lead(DOCUMENT, unit, count, splitter) == expected


def test_a_document_in_one_line_is_not_one_sentence() -> None:
    assert len(document_sentences(f"{DOCUMENT}\n", "newline")) == 4
    assert len(document_sentences(f"{DOCUMENT}\nFive. Six.", "newline")) == 2


def test_lead_takes_lines_where_the_document_has_them() -> None:
    assert lead("One. Two.\nThree.\nFour.", "sentences", 2, "newline") == "One. Two.\nThree."
