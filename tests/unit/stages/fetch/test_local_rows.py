"""Local files: the same rows from every format, and a bad row named by file and line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from stages.fetch.config import Columns
from stages.fetch.local_rows import read_rows
from stages.schema import RawRow, read_jsonl, write_jsonl

ROWS: list[dict[str, Any]] = [
    {"id": "a", "document": "One, two.\nThree.", "summary": "Numbers"},
    {"id": "b", "document": 'A "quoted" word', "summary": "caf\u00e9 \u4f60\u597d \U0001f600"},
    {"id": "c", "document": "", "summary": "without a document"},
    {"id": "d", "document": "line\u2028separator", "summary": " blanks kept "},
]
FORMATS = ("jsonl", "csv", "parquet")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of the file's name."""
    if path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path: Path, **columns: str) -> list[RawRow]:
    return list(read_rows(path, "train", Columns(**columns)))


def contents(rows: list[RawRow]) -> list[tuple[str, str, str]]:
    return [(row.id, row.document, row.summary) for row in rows]


def refusal(path: Path, **columns: str) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **columns)
    return str(caught.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    found = read(write(tmp_path / f"train.{suffix}", ROWS))
    assert contents(found) == [(row["id"], row["document"], row["summary"]) for row in ROWS]


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_without_ids_get_them_from_split_and_number(tmp_path: Path, suffix: str) -> None:
    rows = [{"document": f"text {number}", "summary": "s"} for number in range(3)]
    found = read(write(tmp_path / f"train.{suffix}", rows))
    assert [row.id for row in found] == ["train-0000000", "train-0000001", "train-0000002"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_numbers_may_be_ids(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": number, "document": "d", "summary": "s"} for number in (7, 8)]
    assert [row.id for row in read(write(tmp_path / f"train.{suffix}", rows))] == ["7", "8"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_of_other_names_are_mapped(tmp_path: Path, suffix: str) -> None:
    rows = [{"key": "k", "article": "d", "highlights": "s", "extra": "x"}]
    path = write(tmp_path / f"train.{suffix}", rows)
    found = read(path, id="key", document="article", summary="highlights")
    assert contents(found) == [("k", "d", "s")]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_missing_column_is_named_beside_those_present(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"train.{suffix}", [{"id": "a", "article": "d", "summary": "s"}])
    message = refusal(path)
    assert f"{path}:" in message
    assert "no column 'document'" in message
    assert "id, article, summary" in message
    assert "fetch.dataset.columns.document" in message


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_duplicate_id_names_both_places(tmp_path: Path, suffix: str) -> None:
    rows = [{**ROWS[0], "id": name, "document": "d"} for name in ("a", "b", "a")]
    path = write(tmp_path / f"train.{suffix}", rows)
    # CSV counts its header as line 1.
    first, second = (2, 4) if suffix == "csv" else (1, 3)
    message = refusal(path)
    assert f"{path.name}:{first}" in message and f"{path}:{second}" in message
    assert "'a'" in message


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(("value", "kind"), [(12, "int"), (["a", "b"], "list"), (1.5, "float")])
def test_a_value_that_is_not_text_is_refused(
    tmp_path: Path, suffix: str, value: object, kind: str
) -> None:
    path = write(tmp_path / f"train.{suffix}", [{"document": value, "summary": "s"}])
    message = refusal(path)
    assert f"{path}:1" in message and "'document'" in message and kind in message


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_null_is_an_empty_text(tmp_path: Path, suffix: str) -> None:
    rows = [{"document": "d", "summary": "s"}, {"document": None, "summary": "s"}]
    assert [row.document for row in read(write(tmp_path / f"train.{suffix}", rows))] == ["d", ""]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"train.{suffix}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert contents(read(path)) == [(row["id"], row["document"], row["summary"]) for row in ROWS]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_document_over_128_kib_is_read_whole(tmp_path: Path, suffix: str) -> None:
    text = "word " * 60_000
    path = write(tmp_path / f"train.{suffix}", [{"document": text, "summary": "s"}])
    assert read(path)[0].document == text


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_origin_names_file_and_line(tmp_path: Path, suffix: str) -> None:
    rows = [{"document": f"d{number}", "summary": "s"} for number in range(3)]
    found = read(write(tmp_path / f"train.{suffix}", rows))
    first = 2 if suffix == "csv" else 1
    assert [row.origin for row in found] == [f"train.{suffix}:{first + n}" for n in range(3)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"document": "cut sho', "not valid JSON"),
        (b'["a", "list"]', "expected a JSON object"),
        (b'"just text"', "expected a JSON object"),
        (b'{"document": "\xff", "summary": "s"}', "not UTF-8"),
    ],
    ids=["cut short", "list", "string", "latin-1"],
)
def test_a_malformed_jsonl_line_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "train.jsonl"
    good = b'{"document": "d", "summary": "s"}\n'
    path.write_bytes(good + b"\n" + line + b"\n" + good)  # a blank line counts as a line
    message = refusal(path)
    assert f"{path}, line 3" in message and reason in message


@pytest.mark.parametrize("line", ["only one field", "one,two,three"])
def test_a_csv_row_of_another_width_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(f"document,summary\nd,s\n{line}\nd,s\n", encoding="utf-8")
    message = refusal(path)
    assert f"{path}:3" in message and "number of fields" in message


def test_a_csv_that_ends_inside_quotes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('document,summary\n"never closed,s\n', encoding="utf-8")
    assert str(path) in refusal(path)


def test_a_csv_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(b"document,summary\ncaf\xe9,s\n")
    assert "not UTF-8" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing like Parquet PAR1"])
def test_a_broken_parquet_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(content)
    assert str(path) in refusal(path)


def test_half_of_a_surrogate_pair_is_carried_or_refused_in_words(tmp_path: Path) -> None:
    """JSON may hold one (emoji cut by a length limit do); it has no UTF-8 form of its own."""
    path = tmp_path / "train.jsonl"
    path.write_text('{"document": "cut \\ud83d", "summary": "s"}\n', encoding="ascii")
    try:
        rows = read(path)
    except DataError as error:
        assert f"{path}:1" in str(error)
        return
    write_jsonl(tmp_path / "raw.jsonl", rows)
    assert list(read_jsonl(tmp_path / "raw.jsonl", RawRow)) == rows
