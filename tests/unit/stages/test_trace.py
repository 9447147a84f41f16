"""`sumpipe trace`: what each artifact says of a row, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifact import RunDir
from pipeline.errors import EXIT_FAILED
from pipeline.files import write_json
from stages.clean.verdicts import LEDGER_SCHEMA
from stages.fetch.left_out import left_out_rows
from stages.schema import Prediction, RawRow, write_jsonl, write_shards
from tests.conftest import CommandLine
from tests.unit.stages.fetch.contexts import new_context

ROWS = {
    "train": [
        RawRow("a", "long " * 100, "short", "train.csv:1"),
        RawRow("b", "", "x", "train.csv:2"),
    ],
    "valid": [RawRow("c", "document", "summary", "v.jsonl:1")],
    "test": [RawRow('"a"', "not it", "y", "t.jsonl:1"), RawRow("a", "other", "z", "t.jsonl:2")],
}


def entry(row: RawRow, split: str, **more: object) -> dict[str, object]:
    lengths = {name: 7 for name in LEDGER_SCHEMA.names if "chars" in name}
    return {
        "id": row.id,
        "split": split,
        "origin": row.origin,
        "outcome": "kept",
        **lengths,
        **more,
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run up to the scores, of which each stage has what trace reads."""
    run_dir = RunDir(tmp_path / "run")
    for split, rows in ROWS.items():
        write_shards(run_dir.open_partial("fetch", {}) / "raw" / split, rows)
    ledger = {split: [entry(row, split) for row in rows] for split, rows in ROWS.items()}
    ledger["train"][1] |= {"outcome": "empty_document"}
    ledger["train"][0] |= {"leak_of": "a", "leak_split": "test", "leak_similarity": 0.875}
    for split, entries in ledger.items():
        folder = run_dir.open_partial("clean", {}) / "ledger" / split
        folder.mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(entries, schema=LEDGER_SCHEMA), folder / "00000.parquet"
        )
        encoded = {
            "id": [row.id for row in ROWS[split] if row.document],
            "source_ids": [[0, 5, 2] for row in ROWS[split] if row.document],
            "target_ids": [[0, 2] for row in ROWS[split] if row.document],
            "source_tokens_lost": [4 for row in ROWS[split] if row.document],
            "target_tokens_lost": [0 for row in ROWS[split] if row.document],
        }
        folder = run_dir.open_partial("encode", {}) / split
        folder.mkdir()
        table = pa.table(encoded)
        with (
            pa.OSFile(str(folder / "00000.arrow"), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)
    generate = run_dir.open_partial("generate", {"config": {"split": "test"}})
    write_jsonl(generate / "predictions.jsonl", [Prediction("a", "a summary", -0.5, 4, "eos")])
    figures = {
        "profile": ["unicode", "rouge-score", "rouge-score"],
        "system": ["model", "lead", "model"],
        "id": ["a"] * 3,
        "rouge1_precision": [0.1, 0.2, 0.5],
        "rouge1_fmeasure": [0.3, 0.4, 0.25],
    }
    score = run_dir.open_partial("score", {})
    pq.write_table(pa.table(figures), score / "scores.parquet")
    write_json(score / "rouge.json", {"profile": "rouge-score"})
    run_dir.recipe.write_text("name: x\n", encoding="utf-8")
    for stage in ("fetch", "clean", "encode", "score"):
        run_dir.commit(stage, {}, {}, {})
    run_dir.commit("generate", {"config": {"split": "test"}}, {}, {})
    return run_dir


def test_a_row_is_followed_through_every_stage(sumpipe: CommandLine, run_dir: RunDir) -> None:
    found = sumpipe("trace", run_dir.root, "a", "--json")
    assert found.code == 0, found.err
    train, test = json.loads(found.out)
    assert (train["split"], test["split"]) == ("train", "test")
    assert train["fetch"]["origin"] == "train.csv:1"
    assert (train["clean"]["leak_of"], train["clean"]["leak_similarity"]) == ("a", 0.875)
    assert train["encode"] == {
        "source_tokens": 3,
        "target_tokens": 2,
        "source_tokens_lost": 4,
        "target_tokens_lost": 0,
    }
    assert train.keys() == {"split", "fetch", "clean", "encode"}  # nothing is generated of it
    assert test["fetch"]["document"] == "other"
    assert test["generate"] == {
        "prediction": "a summary",
        "score": -0.5,
        "tokens": 4,
        "stop": "eos",
    }
    assert test["score"] == {"profile": "rouge-score", "rouge1_fmeasure": 0.25}


def test_a_row_that_was_left_out_says_where(sumpipe: CommandLine, run_dir: RunDir) -> None:
    (way,) = json.loads(sumpipe("trace", run_dir.root, "b", "--json").out)
    assert way["clean"]["outcome"] == "empty_document"
    assert way["encode"] is None
    told = sumpipe("trace", run_dir.root, "b").out
    assert "encode    no such row: it was left out before" in told


def test_a_row_that_is_no_part_of_the_set_says_why(sumpipe: CommandLine, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    fetch = run_dir.open_partial("fetch", {})
    for split, rows in ROWS.items():
        write_shards(fetch / "raw" / split, rows)
    with left_out_rows(new_context(fetch)) as keep:
        keep(RawRow("p1", "", "s", "tifu.json:2"), "has no document or no summary")
    run_dir.commit("fetch", {}, {}, {})
    run_dir.recipe.write_text("name: x\n", encoding="utf-8")
    told = sumpipe("trace", run_dir.root, "p1").out
    assert told == (
        "none: p1\n  fetch     origin tifu.json:2, left out has no document or no summary\n"
    )


def test_people_read_the_beginning_of_long_texts(sumpipe: CommandLine, run_dir: RunDir) -> None:
    told = sumpipe("trace", run_dir.root, "a").out
    assert "train: a\n  fetch     origin train.csv:1\n" in told
    assert "(500 characters)" in told
    assert "leak of a, leak split test, leak similarity 0.875" in told


def test_an_id_that_no_split_has_is_an_error(sumpipe: CommandLine, run_dir: RunDir) -> None:
    found = sumpipe("trace", run_dir.root, "nobody")
    assert found.code == EXIT_FAILED
    assert "no split has a row 'nobody'" in found.err and "train-0000012" in found.err


def test_a_run_without_rows_is_an_error(sumpipe: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x\n", encoding="utf-8")
    found = sumpipe("trace", tmp_path, "a")
    assert found.code == EXIT_FAILED and "fetch is not done yet" in found.err
