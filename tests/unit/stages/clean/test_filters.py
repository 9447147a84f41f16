"""Which rows clean keeps, by hand-counted cases; what counts as a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import validate
from pipeline.errors import ConfigError
from stages.clean.cleaned import CleanedRows, raw_files
from stages.clean.config import CleanConfig, FilterConfig
from stages.clean.filters import judge
from stages.clean.run import run
from stages.clean.words import words_of
from stages.schema import Example, RawRow, read_shards
from stages.text_rules import PASSES
from tests.unit.stages.clean.test_clean_run import new_context

KEPT = ("kept", "")


@pytest.mark.parametrize(
    ("document", "summary", "limits", "expected"),
    [
        ("one two three", "one", {}, KEPT),
        ("", "one", {}, ("empty_document", "")),
        ("one", "", {}, ("empty_summary", "")),
        ("", "", {"min_document_words": 5}, ("empty_document", "")),
        ("a b", "x", {"min_document_words": 2}, KEPT),
        ("a b", "x", {"min_document_words": 3}, ("short_document", "min_document_words 3")),
        ("a b", "x", {"max_document_words": 2}, KEPT),
        ("a b", "x", {"max_document_words": 1}, ("long_document", "max_document_words 1")),
        ("a", "x y", {"min_summary_words": 2}, KEPT),
        ("a", "x y", {"min_summary_words": 3}, ("short_summary", "min_summary_words 3")),
        ("a", "x y", {"max_summary_words": 2}, KEPT),
        ("a", "x y", {"max_summary_words": 1}, ("long_summary", "max_summary_words 1")),
        ("a b c", "x y", {"summary_is_shorter": True}, KEPT),
        ("a b", "x y", {"summary_is_shorter": True}, ("long_summary", "summary_is_shorter")),
        ("a", "x y", {"summary_is_shorter": True}, ("long_summary", "summary_is_shorter")),
        ("a", "x y", {"summary_is_shorter": False}, KEPT),
        (  # the document is looked at first
            "a",
            "x",
            {"min_document_words": 2, "min_summary_words": 2},
            ("short_document", "min_document_words 2"),
        ),
        ("?!", "...", {}, KEPT),
        ("?!", "x", {"min_document_words": 1}, ("short_document", "min_document_words 1")),
    ],
)
def test_judgements(
    document: str, summary: str, limits: dict[str, Any], expected: tuple[str, str]
) -> None:
    words = (len(words_of(document)), len(words_of(summary)))
    assert judge(document, summary, *words, FilterConfig(**limits)) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("- ... !", 0),
        ("Two words.", 2),
        ("don't", 2),
        ("state-of-the-art", 4),
        ("snake_case x2 #.## 3.5", 4),
        ("caf\u00e9 cafe\u0301 na\u00efve", 3),
        ("\u4f60\u597d world", 3),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902", 2),  # vowel signs within words
        ("\u0627\u0644\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u0651\u0629", 1),
        ("\u043f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", 2),
    ],
)
def test_words(text: str, count: int) -> None:
    assert len(words_of(text)) == count


def test_words_keep_all_their_letters() -> None:
    assert words_of("\u0939\u093f\u0928\u094d\u0926\u0940") != words_of("\u0939\u0928\u0926")
    assert words_of("Stra\u00dfe STRASSE") == ["strasse", "strasse"]


@pytest.mark.parametrize("role", ["document", "summary"])
def test_limits_that_leave_no_row_are_refused(role: str) -> None:
    limits = {f"min_{role}_words": 9, f"max_{role}_words": 8}
    with pytest.raises(
        ConfigError, match=f"filters: min_{role}_words 9 is more than max_{role}_words 8"
    ):
        validate(CleanConfig, {"filters": limits}, "recipe.yaml")


ROWS = [
    RawRow("plain", "A story that is told.", "A story.", "x:1"),
    RawRow("both", "(CNN)A story that is told .", "A story .\nTold .", "x:2"),
    RawRow("emptied", "TL;DR: a story.", "A story.", "x:3"),
    RawRow("shortened", "A story.\nTL;DR: it is told in many words.", "A story.", "x:4"),
    RawRow("unread", "", "", "x:5", "no such field"),
]
RULES = ("cnn_dateline", "space_period", "join_lines", "reddit_tldr")


def test_rules_change_rows_before_filters_judge_them_and_are_recorded(tmp_path: Path) -> None:
    rules = (*RULES, "reddit_markdown")
    config = CleanConfig(rules=rules, filters=FilterConfig(min_document_words=3))
    nested = "[" * (PASSES + 1) + "a" + "](u)" * (PASSES + 1)
    more = [
        RawRow("blank", "A story that is told.", "\t", "x:6"),
        RawRow("missing", "A story that is told.", "", "x:7"),
        RawRow("nested", f"A story  is told {nested}", "A story.", "x:8"),
    ]
    context = new_context(tmp_path, train=[*ROWS, *more])
    raw = raw_files(context.inputs["fetch"].directory("raw"))
    rows = CleanedRows(tmp_path / "rows", config, raw)
    (tmp_path / "rows").mkdir()
    (train,) = [number for number, file in enumerate(raw) if file.split == "train"]
    rows(train)
    names = ("id", "outcome", "rule", "changed_by")
    assert [tuple(row[name] for name in names) for row in rows.table(train).to_pylist()] == [
        ("plain", "kept", "", ""),
        ("both", "kept", "", "cnn_dateline,space_period,join_lines"),
        ("emptied", "empty_document", "reddit_tldr", "reddit_tldr"),
        ("shortened", "short_document", "min_document_words 3", "reddit_tldr"),
        ("unread", "unreadable", "no such field", ""),
        ("blank", "empty_summary", "normalised", "normalised"),
        ("missing", "empty_summary", "", ""),
        ("nested", "kept", "", "normalised,reddit_markdown (given up)"),
    ]


def test_examples_are_cleaned_and_raw_rows_are_not(tmp_path: Path) -> None:
    context = new_context(tmp_path, train=ROWS)
    metrics = run(CleanConfig(rules=RULES), context)
    assert list(read_shards(context.work / "train", Example)) == [
        Example("plain", "A story that is told.", "A story."),
        Example("both", "A story that is told.", "A story. Told."),
        Example("shortened", "A story.", "A story."),
    ]
    raw = context.inputs["fetch"].directory("raw") / "train"
    assert list(read_shards(raw, RawRow)) == ROWS  # what scores compare with
    ledger = pq.read_table(context.work / "ledger" / "train").to_pylist()
    assert [entry["id"] for entry in ledger] == [row.id for row in ROWS]
    assert metrics["rows_kept_train"] == 3
    assert metrics["rows_empty_document_train"] == metrics["rows_unreadable_train"] == 1
