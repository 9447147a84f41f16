"""Bare files: what is read of them, and what is said of what cannot be."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import DataError
from stages.score.bare import paired
from stages.score.texts import PREDICTION_FIELDS, REFERENCE_FIELDS, Text, read_texts


def written(path: Path, content: str | bytes) -> Path:
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
def test_a_line_is_a_text(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "\ufeffcaf\u00e9 one\r\n\nthree \n four")
    assert list(read_texts(path, PREDICTION_FIELDS)) == [
        *(Text(1, "caf\u00e9 one"), Text(2, ""), Text(3, "three "), Text(4, " four")),
    ]


@pytest.mark.parametrize("begin", ["\n\n", "  ", "\n\t"])
def test_json_is_not_scored_as_text(tmp_path: Path, begin: str) -> None:
    path = written(tmp_path / "x", f'{begin}{{"id": 1, "prediction": "one"}}\n')
    assert [(one.id, one.text) for one in read_texts(path, PREDICTION_FIELDS)] == [("1", "one")]
    named = written(tmp_path / "x.jsonl.gz", '[{"prediction": "one"}]\n')
    with pytest.raises(DataError, match="line 1: expected a JSON object, found list"):
        list(read_texts(named, PREDICTION_FIELDS))


def test_fields_of_jsonl(tmp_path: Path) -> None:
    lines = [
        {"id": 7, "prediction": "one\ntwo", "summary": "not this", "document": "long"},
        {"id": "a", "prediction": "", "more": [1]},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines)
    path = written(tmp_path / "x.jsonl.gz", text)
    assert list(read_texts(path, PREDICTION_FIELDS)) == [
        *(Text(1, "one\ntwo", "7", "long"), Text(3, "", "a")),
    ]
    assert next(read_texts(path, REFERENCE_FIELDS)).text == "not this"


def test_ids_that_pandas_made_floats_are_whole_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "x", '{"id": 7.0, "text": "x"}\n{"id": 8, "text": "y"}')
    assert [one.id for one in read_texts(path, PREDICTION_FIELDS)] == ["7", "8"]


@pytest.mark.parametrize("suffix", ["gz", "bz2", "zst", "lz4"])
def test_packed_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    with pa.output_stream(str(path), compression="detect") as stream:
        stream.write("caf\u00e9\ntwo\n".encode())
    assert [one.text for one in read_texts(path, PREDICTION_FIELDS)] == ["caf\u00e9", "two"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty; expected JSONL or one text a line"),
        ('{"text": "x"}\n{"text": ', "line 2: is not JSON"),
        ('{"text": "x"}\n[1]', "line 2: expected a JSON object, found list"),
        (
            '{"document": "x"}',
            "line 1: has none of the fields prediction, summary, text; it has document",
        ),
        ("{}", "line 1: has none of the fields prediction, summary, text; it has none"),
        ('{"text": null}', "line 1: text: expected a text, found NoneType"),
        ('{"text": "x", "id": [1]}', r"line 1: id: expected a text or a number, found \[1\]"),
        ('{"text": "x", "id": 1.5}', "line 1: id: expected a text or a number, found 1.5"),
        ('{"text": "x", "id": Infinity}', "line 1: id: expected a text or a number, found inf"),
        ('{"text": "x", "id": true}', "line 1: id: expected a text or a number, found True"),
        ('{"text": "x", "document": 3}', "line 1: document: expected a text, found int"),
        ('{"text": ' + "[" * 100_000, "line 1: cannot be read"),
        (b"fine\ncaf\xe9\n", "line 2: is not UTF-8 text"),
        (
            '{"summary": "x", "id": 1}\n{"text": "y", "id": 2}',
            "line 2: has no field summary; it has text, id",
        ),
        ('{"text": "x", "id": 1}\n{"text": "y"}', "line 2: has no id, unlike line 1; give one"),
        ('{"text": "x"}\n\n{"text": "y", "id": 1}', "line 3: has an id, unlike line 1; give one"),
        ('{"text": "x", "id": "a\\ud800"}', r"line 1: id: 'a\\ud800' is no Unicode text"),
    ],
)
def test_what_cannot_be_read_names_the_line(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    path = written(tmp_path / "x", content)
    with pytest.raises(DataError, match=said) as caught:
        list(read_texts(path, PREDICTION_FIELDS))
    assert str(path) in str(caught.value)


def test_text_that_begins_as_json_does_is_told_the_way_out(tmp_path: Path) -> None:
    way_out = r"taken for JSONL: .* jq -cR '\{text: \.\}' FILE > FILE\.jsonl"
    for name, content, is_told in (
        ("x.txt", "{laughs} He came.\nShe went.", True),
        ("x.txt", '{"text": "x"}\n{laughs}', False),
        ("x.jsonl", "{laughs}", False),
    ):
        path = written(tmp_path / name, content)
        with pytest.raises(DataError, match="is not JSON") as caught:
            list(read_texts(path, PREDICTION_FIELDS))
        assert bool(re.search(way_out, str(caught.value))) is is_told


def test_a_file_that_is_missing_or_cut_short(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no: cannot be read"):
        list(read_texts(tmp_path / "no", PREDICTION_FIELDS))
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"one line\n" * 9)[:-12])
    with pytest.raises(DataError, match=r"cut\.gz: cannot be read"):
        list(read_texts(path, PREDICTION_FIELDS))


def pair(folder: Path, predictions: str, references: str) -> tuple[Path, Path]:
    return written(folder / "p", predictions), written(folder / "r", references)


def jsonl(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_are_paired_in_order(tmp_path: Path) -> None:
    references = jsonl(
        {"id": "a", "summary": "one", "document": "d"},
        {"id": 2, "summary": "two", "document": ""},
    )
    one, two = paired(*pair(tmp_path, "x\ny\n", references))
    assert (one.id, one.prediction, one.reference, one.document) == ("a", "x", "one", "d")
    assert (two.id, two.prediction, two.reference, two.document) == ("2", "y", "two", "")


def test_documents_may_stand_beside_predictions(tmp_path: Path) -> None:
    (row,) = paired(*pair(tmp_path, jsonl({"text": "x", "document": "d"}), "one"))
    assert row.document == "d"


@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ("x\n", "one\ntwo\nthree\n", "p has 1 row, .*r 3; give a prediction for each reference"),
        ("x\ny\nz\n", "one\ntwo\n", "p has 3 rows, .*r 2; give"),
        (
            jsonl({"id": "b", "text": "x"}),
            jsonl({"id": "a", "text": "one"}),
            r"row 1: its id is 'b' in .*p \(line 1\) and 'a' in .*r \(line 1\)",
        ),
        ("x\ny", jsonl({"id": 1, "text": "a"}, {"id": 1, "text": "b"}), "r, line 2: the id '1' is"),
        (jsonl({"id": 1, "text": "a"}, {"id": 1, "text": "b"}), "x\ny", "p, line 2: the id '1' is"),
        ("x\ny", jsonl({"text": "one", "document": "d"}, {"text": "two"}), "r, line 2: has no document"),
        (jsonl({"text": "one", "document": "d"}, {"text": "two"}), "x\ny", "p, line 2: has no document"),
        (jsonl({"text": "one"}, {"text": "two", "document": "d"}), "x\ny", "p, line 2: has a document"),
        ("x\ny", jsonl({"text": "one"}, {"text": "two", "document": "d"}), "line 2: has a document"),
    ],
)  # fmt: skip
def test_files_that_are_not_of_the_same_rows(
    tmp_path: Path, predictions: str, references: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        list(paired(*pair(tmp_path, predictions, references)))
