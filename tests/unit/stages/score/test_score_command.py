"""`sumpipe score` on bare files: figures, files, and one line for each mistake."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rouge_score.rouge_scorer import RougeScorer

from pipeline.errors import EXIT_FAILED, EXIT_USAGE
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe
from stages.score import scoring
from stages.score.command import add_score
from tests.conftest import CommandLine

PREDICTIONS = ["The mayors opened bridges.", "Nobody came to see it."]
REFERENCES = ["A mayor opened the bridge.", "Many people came to see the bridge."]


@pytest.fixture
def sumpipe(command_line: Any) -> CommandLine:
    found: CommandLine = command_line(STAGES, SummarizationRecipe, (add_score,))
    return found


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    predictions, references = tmp_path / "system.txt", tmp_path / "gold.txt"
    predictions.write_text("\n".join(PREDICTIONS), encoding="utf-8")
    references.write_text("\n".join(REFERENCES), encoding="utf-8")
    return predictions, references


def test_line_pairs(sumpipe: CommandLine, files: tuple[Path, Path], tmp_path: Path) -> None:
    answer = sumpipe(
        "score", *files, "--json", "--out", tmp_path / "out", "--profile", "rouge-score"
    )
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    scorer = RougeScorer(["rouge2"], use_stemmer=True)
    expected = [
        scorer.score(*pair)["rouge2"].recall for pair in zip(REFERENCES, PREDICTIONS, strict=True)
    ]
    model = found["profiles"]["rouge-score"]["systems"]["model"]
    assert model["rouge2"]["recall"]["mean"] == pytest.approx(sum(expected) / 2)
    assert (found["rows"], found["split"], found["decoding"]) == (2, None, None)
    assert found["dataset"] == {"predictions": "system.txt", "references": "gold.txt"}
    assert list(found["systems"]) == ["model"]  # no documents, no baselines of them
    assert found["measures"]["model"].keys() == {"length_ratio", "repetition"}
    assert json.loads((tmp_path / "out" / "rouge.json").read_text(encoding="utf-8")) == found
    rows = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    assert [row["rouge2_recall"] for row in rows] == expected
    assert [(row["profile"], row["system"], row["id"]) for row in rows] == [
        ("rouge-score", "model", "1"),
        ("rouge-score", "model", "2"),
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("rouge.json", "scores.parquet", "measures.parquet"),
    }


def test_documents_bring_baselines_and_measures(sumpipe: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    row = {"id": "a", "prediction": "Two came.", "reference": "Nine came. Two came."}
    path.write_text(json.dumps({**row, "document": "One. Two came. Three. Nine came."}))
    answer = sumpipe("score", path, path, "--json", "--profile", "unicode", "--sentences", "simple")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert list(found["systems"]) == ["model", "lead", "oracle"]
    scores = found["profiles"]["unicode"]["systems"]
    assert scores["oracle"]["rouge1"]["fmeasure"]["mean"] == 1.0
    assert scores["lead"]["rouge1"]["precision"]["mean"] == pytest.approx(2 / 4)
    assert found["measures"]["model"]["coverage"]["mean"] == 1.0
    assert "stopped_by_length" not in found["measures"]["model"]


def test_people_get_a_table_and_warnings(sumpipe: CommandLine, files: tuple[Path, Path]) -> None:
    files[0].write_text("\n\n", encoding="utf-8")
    answer = sumpipe("score", *files, "--profile", "unicode", "--profile", "rouge-score")
    assert answer.code == 0, answer.err
    assert re.search(r"^unicode +rouge1 +rouge2 +rougeL +rougeLsum$", answer.out, re.MULTILINE)
    assert re.search(r"^Model +0\.00 \[0\.00, 0\.00\]", answer.out, re.MULTILINE)
    assert "2 rows, mean F x 100 [95 % interval], exact match 0.00 %" in answer.out
    assert answer.err.splitlines() == [
        "sumpipe: 2 rows are few: 95 % intervals of fewer than 30 cover less often than that",
        "sumpipe: 2 of 2 predictions are empty and score 0",
    ]


def test_names_that_are_not_text(
    sumpipe: CommandLine, files: tuple[Path, Path], tmp_path: Path
) -> None:
    odd = files[0].rename(tmp_path / os.fsdecode(b"\xff.txt"))
    answer = sumpipe("score", odd, files[1], "--json", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["dataset"]["predictions"] == "\\xff.txt"
    answer = sumpipe("score", *[files[1]] * 2, "--out", tmp_path / os.fsdecode(b"\xff"))
    assert answer.code == EXIT_USAGE and "\\xff: this name is not UTF-8" in answer.err
    assert answer.err.count("\n") == 1 and not (tmp_path / os.fsdecode(b"\xff")).exists()


def test_one_row_promises_no_interval(sumpipe: CommandLine, files: tuple[Path, Path]) -> None:
    for path in files:
        path.write_text("one row\n", encoding="utf-8")
    answer = sumpipe("score", *files)
    assert "1 row, mean F x 100, exact match 100.00 %" in answer.out and "[" not in answer.out


def test_worker_processes_change_no_byte(
    sumpipe: CommandLine, files: tuple[Path, Path], tmp_path: Path
) -> None:
    for path, lines in zip(files, (PREDICTIONS, REFERENCES), strict=True):
        path.write_text("\n".join(f"{line} {n}" for n in range(400) for line in lines))
    answers = [
        sumpipe("score", *files, "--json", "--processes", count, "--out", tmp_path / count)
        for count in ("1", "2")
    ]
    assert [answer.code for answer in answers] == [0, 0], answers[1].err
    for name in ("rouge.json", "scores.parquet", "measures.parquet"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (
            ("--profile", "rouge"),
            EXIT_USAGE,
            "--profile rouge: unknown; known are rouge-score, rouge155",
        ),
        (("--out", "{here}"), EXIT_USAGE, "is there already; name a new folder or an empty one"),
        (("--profile", "rouge155", "--wordnet", "{here}"), EXIT_FAILED, "has no adj.exc"),
        (
            ("--wordnet", "{here}"),
            EXIT_USAGE,
            "no profile among rouge-score reads it; leave it out, or add one that does: rouge155",
        ),
        (
            ("--out", "{here}/gold.txt/x"),
            EXIT_FAILED,
            "gold.txt/x: cannot be written (Not a directory)",
        ),
    ],
)
def test_mistakes_are_one_line(
    sumpipe: CommandLine,
    files: tuple[Path, Path],
    tmp_path: Path,
    more: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    answer = sumpipe("score", *files, *(text.format(here=tmp_path) for text in more))
    assert (answer.code, answer.out, answer.err.count("\n")) == (code, "", 1)
    assert said in answer.err and "--run-dir" not in answer.err


def test_a_failure_leaves_nothing_and_a_killed_one_s_rest_is_in_nobody_s_way(
    sumpipe: CommandLine, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    files[0].write_bytes(b"caf\xe9\n")
    failed = sumpipe("score", *files, "--out", out)
    assert failed.code == EXIT_FAILED and "not UTF-8" in failed.err
    assert list(out.iterdir()) == []
    rest = out / ".sumpipe-score-killed"
    rest.mkdir()
    (rest / ".scores.parquet.tmp").touch()
    files[0].write_text("\n".join(PREDICTIONS), encoding="utf-8")
    assert sumpipe("score", *files, "--out", out).code == 0
    assert (out / "rouge.json").is_file()
    assert sumpipe("score", *files, "--out", out).code == EXIT_USAGE, "there are scores now"


def test_a_disk_that_is_full_names_out(
    sumpipe: CommandLine,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scoring, "publish", full)
    answer = sumpipe("score", *files, "--out", tmp_path / "out")
    assert answer.code == EXIT_FAILED
    assert answer.err.endswith("out: cannot be written (No space left on device); name another\n")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["-", "fifo"])
def test_predictions_come_through_a_pipe(
    sumpipe: CommandLine,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    expected = json.loads(sumpipe("score", *files, "--json").out)
    content = files[0].read_bytes()
    if name == "fifo":
        name = str(tmp_path / "fifo")
        os.mkfifo(name)
        threading.Thread(target=Path(name).write_bytes, args=(content,)).start()
    else:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    answer = sumpipe("score", name, files[1], "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["profiles"] == expected["profiles"]


def test_jsonl_of_blank_lines_is_empty(sumpipe: CommandLine, tmp_path: Path) -> None:
    blank, full = tmp_path / "blank.jsonl", tmp_path / "full.jsonl"
    blank.write_text("\n  \n", encoding="utf-8")
    full.write_text('{"text": "x"}\n', encoding="utf-8")
    for files in ((blank, blank), (blank, full), (full, blank)):
        answer = sumpipe("score", *files)
        assert answer.code == EXIT_FAILED
        assert answer.err == f"sumpipe: {blank}: is empty; expected JSONL or one text a line\n"


def test_stdin_is_read_once(sumpipe: CommandLine) -> None:
    answer = sumpipe("score", "-", "-")
    assert answer.code == EXIT_USAGE and "stdin can be read once" in answer.err


def test_one_row_has_no_interval(sumpipe: CommandLine, files: tuple[Path, Path]) -> None:
    for path in files:
        path.write_text("One line.\n", encoding="utf-8")
    answer = sumpipe("score", *files)
    assert re.search(r"^Model +100\.00 +100\.00 +100\.00 +100\.00$", answer.out, re.MULTILINE)
    assert "1 row, mean F" in answer.out
    assert answer.err == "sumpipe: one row: there is no interval\n"


def test_a_measure_says_of_how_many_rows_it_is(
    sumpipe: CommandLine, files: tuple[Path, Path]
) -> None:
    files[0].write_text(f"{PREDICTIONS[0]} {PREDICTIONS[1]}\n\n", encoding="utf-8")
    answer = sumpipe("score", *files)
    assert re.search(r"^repetition +0\.000 of 1 row$", answer.out, re.MULTILINE)


def test_a_measure_of_few_rows_is_told(sumpipe: CommandLine, files: tuple[Path, Path]) -> None:
    files[0].write_text("\n".join([*PREDICTIONS, *["word"] * 38]), encoding="utf-8")
    files[1].write_text("\n".join(REFERENCES * 20), encoding="utf-8")
    answer = sumpipe("score", *files)
    assert answer.code == 0
    assert answer.err.startswith(
        "sumpipe: few rows have a value of repetition (2): 95 % intervals of"
    )


def test_files_of_different_lengths_say_both_counts(
    sumpipe: CommandLine, files: tuple[Path, Path]
) -> None:
    files[0].write_text("one\n", encoding="utf-8")
    answer = sumpipe("score", *files)
    assert answer.code == EXIT_FAILED
    assert f"{files[0]} has 1 row, {files[1]} 2" in answer.err
