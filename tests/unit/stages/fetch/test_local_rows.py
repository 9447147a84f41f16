"""Local files: the same rows from every format, and a bad row named by file and line."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import validate
from pipeline.errors import ConfigError, DataError
from stages.fetch.config import Columns, FetchConfig, FileReading
from stages.fetch.local_rows import found_rows
from stages.fetch.rows import checked_rows
from stages.schema import RawRow

ROWS: list[dict[str, Any]] = [
    {"id": "a", "document": "One, two.\nThree.", "summary": "Numbers"},
    {"id": "b", "document": 'A "quoted" word', "summary": "caf\u00e9 \u4f60\u597d \U0001f600"},
    {"id": "c", "document": "", "summary": "without a document"},
    {"id": "d", "document": "line\u2028separator", "summary": " blanks kept "},
]
FORMATS = ("jsonl", "csv", "tsv", "parquet", "jsonl.gz", "jsonl.zst", "csv.gz", "tsv.zst")
LINES_BEFORE = {"csv": 1, "tsv": 1, "csv.gz": 1, "tsv.zst": 1}
"""The header is line 1."""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of the file's name."""
    if path.suffix in (".gz", ".zst"):
        content = write(path.with_suffix(""), rows).read_bytes()
        codec = {".gz": gzip.compress, ".zst": zstd}[path.suffix]
        path.write_bytes(codec(content))
    elif path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = "," if path.suffix == ".csv" else "\t"
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def read(path: Path, limit: int = 1 << 23, **columns: str) -> list[RawRow]:
    names, how = Columns(**columns), FileReading(max_line_bytes=limit)
    return list(checked_rows(lambda: found_rows([path], names, how), "train", names, "fail"))


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
    before = LINES_BEFORE.get(suffix, 0)
    first, second = before + 1, before + 3
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


@pytest.mark.parametrize("suffix", FORMATS)
def test_origin_names_file_and_line(tmp_path: Path, suffix: str) -> None:
    rows = [{"document": f"d{number}", "summary": "s"} for number in range(3)]
    found = read(write(tmp_path / f"train.{suffix}", rows))
    first = LINES_BEFORE.get(suffix, 0) + 1
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
    assert f"{path}:3: " in message and reason in message


@pytest.mark.parametrize(
    "text",
    [
        '[\n  {"document": "d", "summary": "s"}\n]\n',
        '{\n  "document": "d",\n  "summary": "s"\n}\n',
        '[{"document": "d", "summary": "s"}]',
    ],
    ids=["list over lines", "object over lines", "list"],
)
def test_json_that_is_not_one_object_a_line_says_how_to_make_it_so(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "train.json"
    path.write_text(text, encoding="utf-8")
    for limit in (1 << 20, 30):
        with pytest.raises(
            DataError, match=r"one object a line is expected: .*`jq -c '\.\[\]'`"
        ) as caught:
            read(path, limit)
        assert f"{path}:1: " in str(caught.value)


def test_a_needed_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Whichever was taken, it would be a guess."""
    table = pa.table([["d"], ["s"], ["other"]], names=["document", "summary", "document"])
    pq.write_table(table, tmp_path / "train.parquet")
    assert "has the column 'document' twice" in refusal(tmp_path / "train.parquet")
    path = tmp_path / "train.jsonl"
    path.write_text('{"document": "d", "summary": "s", "document": "other"}\n', encoding="utf-8")
    assert f"{path}:1: cannot be read (gives 'document' twice)" in refusal(path)
    path.write_text('{"document": "d", "summary": "s", "x": {"y": 1, "y": 2}}\n', encoding="utf-8")
    assert read(path)[0].document == "d"


@pytest.mark.parametrize(
    "columns",
    [{"document": "t", "summary": "t"}, {"summary": "document"}, {"id": "summary"}],
)
def test_two_columns_of_one_name_are_refused(columns: dict[str, str]) -> None:
    dataset = {"source": "local", "path": "x", "columns": columns}
    with pytest.raises(ConfigError, match=r"columns.*is given for two of them"):
        validate(FetchConfig, {"dataset": dataset, "model": {"source": "scratch"}}, "test")


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "parquet", "source"])
@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EACCES, "let this user read it"), (errno.ENOENT, "bring it again")],
)
def test_a_file_that_may_not_be_read_is_the_one_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, number: int, told: str
) -> None:
    """Tests may run as root, to whom nothing is forbidden: the system's answer is put in its place."""
    path = (
        write(tmp_path / f"train.{suffix}", ROWS) if suffix != "source" else tmp_path / "x.source"
    )
    for name in ("x.source", "x.target"):
        (tmp_path / name).write_text("d\n", encoding="utf-8")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(pa, "OSFile", refuse)
    monkeypatch.setattr(pq, "ParquetFile", refuse)
    message = refusal(path)
    assert message.startswith(f"{path}: cannot be read ({os.strerror(number)}); ")
    assert told in message and "--run-dir" not in message


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_passing_failure_of_the_file_system_keeps_its_own_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = write(tmp_path / f"train.{suffix}", ROWS)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(pq, "ParquetFile", refuse)
    with pytest.raises(OSError, match="Stale"):
        read(path)


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


def test_half_of_a_surrogate_pair_is_refused_in_words(tmp_path: Path) -> None:
    """JSON may hold one (emoji cut by a length limit do); it has no UTF-8 form of its own."""
    path = tmp_path / "train.jsonl"
    path.write_text('{"document": "cut \\ud83d", "summary": "s"}\n', encoding="ascii")
    message = refusal(path)
    assert f"{path}:1" in message and "surrogate" in message
