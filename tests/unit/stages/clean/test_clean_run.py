"""The clean stage: every row is accounted for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.artifact import RunDir
from pipeline.distributed.world import World
from pipeline.errors import DataError, Preempted
from pipeline.files import record_tree
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, StageContext
from stages.clean.config import CleanConfig
from stages.clean.run import run, shards
from stages.schema import Example, RawRow, read_shards, write_shards

ROWS = [
    RawRow("one", "A  document\r\nof two lines", "A\tsummary", "train.jsonl:1"),
    RawRow("two", " \u200b ", "Without a document", "train.jsonl:2"),
    RawRow("three", "Without a summary", "\n", "train.jsonl:4"),
    RawRow("four", "", "", "train.jsonl:5"),
    RawRow("five", "caf\u00e9", "cafe\u0301", "train.jsonl:6"),
]
GOOD = [RawRow("good", "text", "summary", "x:1")]
TEST = [RawRow("test", "another", "summary", "y:1")]


def new_context(
    root: Path,
    train: list[RawRow] = ROWS,
    valid: list[RawRow] = GOOD,
    test: list[RawRow] = TEST,
    stop: StopFlag | None = None,
) -> StageContext:
    """The context of clean in a run whose fetch committed these rows."""
    run_dir, payload = RunDir(root), {"stage": "fetch"}
    raw = run_dir.open_partial("fetch", payload) / "raw"
    raw.mkdir()
    for split, rows in (("train", train), ("valid", valid), ("test", test)):
        write_shards(raw / split, rows)
    inputs = {"fetch": run_dir.commit("fetch", payload, {}, {})}
    work = run_dir.open_partial("clean", {"stage": "clean"})
    execution = Execution(processes=1, threads=1, ds_profile=Path("zero0.json"))
    progress = Progress("clean", None, console=False)
    stop = stop or StopFlag()
    return StageContext(inputs, work, 1, World(), execution, stop, progress, guard=lambda: None)


def test_every_row_stands_in_the_ledger_once(tmp_path: Path) -> None:
    context = new_context(tmp_path)
    run(CleanConfig(), context)
    ledger = pq.read_table(context.work / "ledger" / "train").to_pylist()
    assert [(entry["id"], entry["origin"]) for entry in ledger] == [
        (row.id, row.origin) for row in ROWS
    ]
    assert [entry["outcome"] for entry in ledger] == [
        "kept",
        "empty_document",
        "empty_summary",
        "empty_document",
        "kept",
    ]
    assert {entry["split"] for entry in ledger} == {"train"}


def test_kept_rows_are_the_examples_in_order(tmp_path: Path) -> None:
    context = new_context(tmp_path)
    run(CleanConfig(), context)
    assert list(read_shards(context.work / "train", Example)) == [
        Example("one", "A document\nof two lines", "A summary"),
        Example("five", "caf\u00e9", "caf\u00e9"),
    ]


def test_metrics_count_each_outcome(tmp_path: Path) -> None:
    metrics = run(CleanConfig(), new_context(tmp_path))
    assert {name: n for name, n in metrics.items() if not name.startswith("content_")} == {
        "rows_kept_train": 2,
        "rows_empty_document_train": 2,
        "rows_empty_summary_train": 1,
        "rows_kept_valid": 1,
        "rows_kept_test": 1,
    }


def test_content_is_of_the_examples_that_are_kept_and_of_nothing_else(tmp_path: Path) -> None:
    other = [
        dataclasses.replace(ROWS[0], origin="moved.jsonl:1"),
        dataclasses.replace(ROWS[4], summary=" cafe\u0301"),
    ]
    found = [
        run(CleanConfig(), new_context(tmp_path / name, train=train))
        for name, train in (("a", ROWS), ("same", other), ("fewer", ROWS[:4]))
    ]
    assert len({metrics["content_valid"] for metrics in found}) == 1
    first, same, fewer = (metrics["content_train"] for metrics in found)
    assert first == same != fewer


def test_ledger_has_lengths_before_and_after(tmp_path: Path) -> None:
    context = new_context(tmp_path)
    run(CleanConfig(), context)
    ledger = pq.read_table(context.work / "ledger" / "train").to_pylist()
    names = [
        f"{role}_{unit}{when}"
        for unit in ("chars", "words")
        for role in ("document", "summary")
        for when in ("_raw", "")
    ]
    assert [tuple(entry[name] for name in names) for entry in ledger] == [
        (25, 23, 9, 9, 5, 5, 2, 2),
        (3, 0, 18, 18, 0, 0, 3, 3),
        (17, 17, 1, 0, 3, 3, 0, 0),
        (0, 0, 0, 0, 0, 0, 0, 0),
        (4, 4, 5, 4, 1, 1, 1, 1),
    ]


def test_words_are_counted_before_the_rules_too(tmp_path: Path) -> None:
    context = new_context(
        tmp_path, train=[RawRow("a", "LONDON (CNN) -- It rained.", "Rain.", "x:1")]
    )
    run(CleanConfig(rules=("cnn_dateline",)), context)
    (entry,) = pq.read_table(context.work / "ledger" / "train").to_pylist()
    assert (entry["document_words_raw"], entry["document_words"]) == (4, 2)


def test_the_unicode_form_is_that_of_the_recipe(tmp_path: Path) -> None:
    context = new_context(tmp_path, train=[RawRow("a", "\ufb01re", "\u2460", "x:1")])
    run(CleanConfig(unicode_form="NFKC"), context)
    assert list(read_shards(context.work / "train", Example)) == [Example("a", "fire", "1")]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_without_usable_rows_is_refused_with_the_reasons(
    tmp_path: Path, split: str
) -> None:
    context = new_context(tmp_path, **{split: ROWS[1:4]})
    with pytest.raises(DataError, match=f"the {split} split has no usable row") as caught:
        run(CleanConfig(), context)
    assert "2 empty_document, 1 empty_summary" in str(caught.value)


def test_two_runs_give_equal_bytes(tmp_path: Path) -> None:
    contexts = [new_context(tmp_path / name) for name in ("one", "two")]
    for context in contexts:
        run(CleanConfig(), context)
    trees = [record_tree(context.work) for context in contexts]
    assert trees[0] == trees[1]


def test_a_stop_is_heard(tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request("SIGTERM")
    with pytest.raises(Preempted, match="SIGTERM"):
        run(CleanConfig(), new_context(tmp_path, stop=stop))


def test_each_step_tells_its_progress_by_another_name(tmp_path: Path) -> None:
    """Or a stop early in the last would seem to be further back than one late in the first."""
    units = [step.unit for step in shards(CleanConfig(), new_context(tmp_path))]
    assert units == ["shard of rows", "shard of candidates", "shard of verdicts"]
