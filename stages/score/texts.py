"""Texts from bare files, one after the other: JSONL with fields, or one text a line, plain or compressed."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.errors import DataError

PREDICTION_FIELDS = ("prediction", "summary", "text")
REFERENCE_FIELDS = ("reference", "summary", "text")
"""Where a text is looked for: the first of them that the first row has."""
STDIN = Path("-")
_EMPTY = "{}: is empty; expected JSONL or one text a line"
_NO_JSONL = (
    "; a file whose first line begins with { is taken for JSONL: if it has one text a line, make objects "
    "of them by jq -cR '{text: .}' FILE > FILE.jsonl"
)
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_JSON_NAMES = {".jsonl", ".json", ".ndjson"}


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a file."""

    line: int
    text: str
    id: str | None = None
    """None in files that are no JSONL, and in lines that give none."""
    document: str | None = None


def read_texts(path: Path, fields: Sequence[str]) -> Generator[Text, None, None]:
    """Read the texts of a file, each line when it is asked for.

    A file is JSONL, whose blank lines are passed over, if its name says so or its first line that is not
    blank begins with `{`; in any other a line is a text, and a blank line an empty one. Names that end in
    .gz, .bz2, .zst or .lz4 are unpacked. The first object of a JSONL file says in which field the text is,
    and whether there are ids; all others have to agree.

    Args:
        path: The file, in UTF-8; a pipe, or stdin as `-`.
        fields: Of a JSONL object, where the text may be; `id` and `document` may stand beside it.

    Raises:
        DataError: If the file cannot be read, or a line is not what it should be; names the line.
    """
    with contextlib.closing(_lines(path)) as read:  # an error leaves no file open
        lines = enumerate(read, 1)
        begin: list[tuple[int, str]] = []
        for number, line in lines:
            begin.append((number, line))
            if line.strip():
                break
        if not begin:
            raise DataError(_EMPTY.format(path))
        is_named = not _JSON_NAMES.isdisjoint(path.suffixes[-2:])  # the last may be .gz
        is_json = is_named or begin[-1][1].lstrip().startswith("{")
        rest = itertools.chain(begin, lines)
        if not is_json:
            yield from itertools.starmap(Text, rest)
            return
        first: Text | None = None
        for number, line in rest:
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            field, found = _of_json(
                line, fields, where, number, "" if first or is_named else _NO_JSONL
            )
            first, fields = first or found, (field,)
            if (first.id is None) is not (found.id is None):
                raise DataError(
                    f"{path}, line {number}: has {'no' if found.id is None else 'an'} id, unlike line "
                    f"{first.line}; give one in each row or in none"
                )
            yield found
        if first is None:
            raise DataError(_EMPTY.format(path))


def _lines(path: Path) -> Generator[str, None, None]:
    number = 0
    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                yield text.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: is not UTF-8 text ({error.reason} at byte {error.start + 1})"
        ) from error
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, unpacked as its name says, a pipe, or stdin."""
    if path == STDIN:
        if sys.stdin is None:
            raise DataError("-: stdin is closed; name a file, or pipe the texts in")
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:  # by Python: pyarrow opens no pipes
        if (codec := _CODECS.get(path.suffix)) is None:
            yield file
            return
        with io.BufferedReader(pa.input_stream(file, compression=codec)) as stream:
            yield stream


def _of_json(
    line: str, fields: Sequence[str], where: str, number: int, way_out: str
) -> tuple[str, Text]:
    """Return the field that has the text, and what the line holds.

    `way_out` ends the error of a line that is not JSON.
    """
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        told = f"is not JSON ({error.msg} at column {error.colno})"
        raise DataError(f"{where}: {told}{way_out}") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all bounds
        raise DataError(f"{where}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(values).__name__}")
    field = next((name for name in fields if name in values), None)
    if field is None:
        wanted = (
            f"none of the fields {', '.join(fields)}" if fields[1:] else f"no field {fields[0]}"
        )
        raise DataError(f"{where}: has {wanted}; it has {', '.join(values) or 'none'}")
    id_ = values.get("id")
    if isinstance(id_, float) and id_.is_integer():  # as pandas writes whole numbers with gaps
        id_ = int(id_)
    if isinstance(id_, bool) or not isinstance(id_, (str, int, type(None))):
        raise DataError(f"{where}: id: expected a text or a number, found {id_!r}")
    document = values.get("document")
    for name, value in ((field, values[field]), ("document", document)):
        if not isinstance(value, str) and not (name == "document" and value is None):
            raise DataError(f"{where}: {name}: expected a text, found {type(value).__name__}")
    if isinstance(id_, str) and any("\ud800" <= char <= "\udfff" for char in id_):
        raise DataError(f"{where}: id: {id_!r} is no Unicode text (half of a surrogate pair)")
    return field, Text(number, values[field], None if id_ is None else str(id_), document)
