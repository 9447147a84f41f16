"""Rows of local files as they stand there: their columns, or why they cannot be read."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError, storage_error
from stages.fetch.config import Columns, FileReading
from stages.fetch.formats import format_of, partner
from stages.fetch.lines import text_lines
from stages.fetch.refusals import input_errors

_PARQUET_ROWS = 1000
_NO_QUOTES = "; where double quotes enclose nothing, --set fetch.dataset.quoting=none"
_ONE_A_LINE = (
    "; one object a line is expected: of a file that is one list `jq -c '.[]'` makes lines, of objects over "
    "several lines `jq -c .`"
)


class Found(NamedTuple):
    """A row of a source."""

    place: str
    """What comes before `origin` in messages: a folder or a repository."""
    origin: str
    """File and line or row, such as `train.jsonl:12`; no two rows of a split have the same."""
    values: Mapping[str, Any]
    """Its columns."""
    fault: str = ""
    """Why it could not be read; then there are no columns."""


_Numbered = tuple[int, Mapping[str, Any], str]
"""Line or row from 1, columns, fault."""


def found_rows(files: Sequence[Path], columns: Columns, how: FileReading) -> Iterator[Found]:
    """Read files of known formats one after the other.

    Args:
        files: At least one; see `formats` for what their names say.
        columns: Names of the columns that are needed; others may be left out.
        how: Longest line of a text file, and what double quotes are in CSV and TSV.

    Raises:
        DataError: If a file as a whole cannot be read, has no line, or has a needed column twice; or those
            of a pair differ in length.
    """
    common = Path(os.path.commonpath([path.parent for path in files]))
    for path in files:
        name = path.relative_to(common).as_posix()
        for number, values, fault in _numbered(path, columns, how):
            yield Found(str(common), f"{name}:{number}", values, fault)


def _numbered(path: Path, columns: Columns, how: FileReading) -> Iterator[_Numbered]:
    found = format_of(path)
    assert found is not None, "files of other formats are refused before"
    limit = how.max_line_bytes
    match found.kind:
        case "jsonl":
            return _jsonl(path, found.codec, limit, columns)
        case "csv":
            return _csv(path, found.codec, how, ",")
        case "tsv":
            return _csv(path, found.codec, how, "\t")
        case "parquet":
            return _parquet(path, columns)
        case "pairs":
            return _pairs(path, found.codec, limit, columns)


def _jsonl(path: Path, codec: str | None, limit: int, columns: Columns) -> Iterator[_Numbered]:
    for number, line in enumerate(text_lines(path, codec, limit), 1):
        if line.fault:
            yield number, {}, line.fault + (_ONE_A_LINE if line.text.startswith("[") else "")
        elif line.text.strip():
            values, fault = _json_object(line.text, columns)
            yield number, values, fault


def _json_object(text: str, columns: Columns) -> tuple[dict[str, Any], str]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs) and (twice := _twice([name for name, _ in pairs], columns)):
            raise ValueError(f"gives {twice!r} twice")
        return values

    is_part = text.strip() in ("{", "[")
    how = _ONE_A_LINE if is_part else ""
    try:
        values = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        return {}, f"is not valid JSON ({error.msg} at column {error.colno}){how}"
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all bounds
        return {}, f"cannot be read ({error})"
    if not isinstance(values, dict):
        found = type(values).__name__
        return (
            {},
            f"expected a JSON object a line, found {found}{_ONE_A_LINE if found == 'list' else ''}",
        )
    return values, ""


def _twice(names: Sequence[str], columns: Columns) -> str:
    """Return a column that is needed and there twice, so that it is not clear which is meant; or nothing."""
    needed = (columns.document, columns.summary, columns.id)
    return next((name for name in needed if names.count(name) > 1), "")


def _csv(path: Path, codec: str | None, how: FileReading, delimiter: str) -> Iterator[_Numbered]:
    # A limit of the module: a quote that is never closed may not fill the memory.
    csv.field_size_limit(how.max_line_bytes)
    faults: list[str] = []
    header: list[str] = []
    lines = 0
    last = ""  # the newest line
    alike = 0  # lines of a record that have the header's number of fields, each taken alone

    def texts() -> Iterator[str]:
        nonlocal lines, last, alike
        for line in text_lines(path, codec, how.max_line_bytes):
            lines += 1
            last = line.text
            alike += last.count(delimiter) + 1 == len(header)
            if line.fault:
                faults.append(line.fault)
            yield last

    has_quotes = how.quoting != "none"
    unread = texts()
    reader = csv.reader(
        unread,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        header = next(reader, [])
    except csv.Error as error:
        faults.append(f"is not valid CSV ({error})")
    if faults:
        raise DataError(f"{path}: the header {faults[0]}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}: the header gives a column twice: {', '.join(header)}")
    while True:
        faults.clear()
        number, row, alike = lines + 1, [], 0
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(f"is not valid CSV ({error}){_NO_QUOTES if has_quotes else ''}")
            if "field larger" in str(error):
                # The reader forgets that it is within quotes: the rest of the text is no row of its own. No
                # line alone is over the limit, so that the text came into this one from the line before.
                while not _ends_record(last, delimiter) and next(unread, None) is not None:
                    pass
        if row and len(row) != len(header):
            faults.append(
                f"has another number of fields ({len(row)}) than the header ({len(header)})"
            )
        elif delimiter == "\t" and how.quoting is None and alike > 1:
            faults.append(f"looks like several rows{_NO_QUOTES}, and if it is one row, quoting=csv")
        if faults and lines > number:
            faults[0] += f"; lines {number} to {lines} are one record, by their double quotes"
        if faults:
            yield number, {}, faults[0]
        elif row:
            yield number, dict(zip(header, row, strict=True)), ""


def _ends_record(line: str, delimiter: str) -> bool:
    """Whether a CSV line that begins within quotes ends its record: by its quotes, or by a stray one."""
    try:
        next(csv.reader(['"' + line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end" not in str(error)
    return True


def _parquet(path: Path, columns: Columns) -> Iterator[_Numbered]:
    number = 0
    try:
        with input_errors(path), pq.ParquetFile(path) as file:
            if twice := _twice(file.schema_arrow.names, columns):
                raise DataError(
                    f"{path}: has the column {twice!r} twice; rename one, or map another with "
                    "--set fetch.dataset.columns"
                )
            needed = [columns.document, columns.summary, columns.id]
            present = [name for name in needed if name in file.schema_arrow.names]
            is_enough = {columns.document, columns.summary} <= set(present)
            wanted = present if is_enough else None  # all, to be named in the message
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                for values, fault in _batch_rows(batch):
                    number += 1
                    yield number, values, fault
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and storage_error(error):
            raise
        raise DataError(f"{path}: is not a readable Parquet file ({error})") from error


def _batch_rows(batch: Any) -> Iterator[tuple[Mapping[str, Any], str]]:
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:  # Parquet does not check text: find the rows
        if len(batch) > 1:
            for at in range(len(batch)):
                yield from _batch_rows(batch.slice(at, 1))
            return
        rows = [None]
    for row in rows:
        yield ({}, "is not UTF-8") if row is None else (row, "")


def _pairs(path: Path, codec: str | None, limit: int, columns: Columns) -> Iterator[_Numbered]:
    other = partner(path)
    assert other is not None, "the first file of a pair"
    both = itertools.zip_longest(text_lines(path, codec, limit), text_lines(other, codec, limit))
    for number, (document, summary) in enumerate(both, 1):
        if document is None or summary is None:
            longer, shorter = (path, other) if summary is None else (other, path)
            raise DataError(
                f"{longer}:{number}: has no partner, since {shorter.name} ends before; line N of both is "
                "one row: mend the pair"
            )
        fault = document.fault or (
            summary.fault and f"the summary, in {other.name}, {summary.fault}"
        )
        texts = {
            columns.document: document.text.rstrip("\r\n"),
            columns.summary: summary.text.rstrip("\r\n"),
        }
        yield number, {} if fault else texts, fault
