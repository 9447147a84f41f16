"""Read rows from local JSONL, CSV and Parquet files; a bad row is named by file and line."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from stages.fetch.config import Columns
from stages.fetch.rows import checked_rows
from stages.schema import RawRow


def read_rows(path: Path, split: str, columns: Columns) -> Iterator[RawRow]:
    """Read the rows of one split.

    Args:
        path: A .jsonl, .csv or .parquet file.
        split: The split, for ids of rows that have none.
        columns: Names of the columns to read.

    Raises:
        DataError: At the first row that is malformed or lacks a column, with file, line and what to do.
    """
    read = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[path.suffix]
    yield from checked_rows(read(path), str(path.parent), split, columns)


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: is not UTF-8 ({error.reason})") from error
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: is not valid JSON ({error.msg} at column {error.colno}); "
                    "mend or remove the line"
                ) from error
            except (ValueError, RecursionError) as error:  # a number or a nesting beyond all bounds
                raise DataError(f"{path}, line {number}: cannot be read ({error})") from error
            if not isinstance(values, dict):
                raise DataError(
                    f"{path}, line {number}: expected a JSON object, found {type(values).__name__}"
                )
            yield f"{path.name}:{number}", values


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses documents of 128 KiB
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for values in reader:
                origin = f"{path.name}:{reader.line_num}"
                if None in values or None in values.values():
                    raise DataError(
                        f"{path.parent / origin}: has another number of fields than the header's "
                        f"{len(reader.fieldnames or ())}"
                    )
                yield origin, values
    except csv.Error as error:
        raise DataError(f"{path}: is not valid CSV ({error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason})") from error


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path.name}:{number}", values
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: is not a readable Parquet file ({error})") from error
