"""Documents from lines of bytes, one after the other; one that cannot be read says why, the others go on."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import DataError

Format = Literal["lines", "document", "jsonl", "csv"]
FIELD_FORMATS: tuple[Format, ...] = ("jsonl", "csv")
"""Formats whose documents have fields."""
FIELDS = ("document", "article", "text", "source")
"""Names of the field with the document, where none is given: the first that is there."""

_BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".txt": "lines",
}
_BOM = b"\xef\xbb\xbf"
_FIELD_CHARACTERS = 1 << 26
"""Longest field of a CSV file: a quote that is never closed must not read in the whole input."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text to summarise."""

    id: str
    text: str
    failure: str = ""
    """Why it could not be read, with its line; then the text is empty."""


def format_of(path: Path) -> Format | None:
    """Return the format that a file's name tells, or None."""
    return _BY_SUFFIX.get(path.suffix.lower())


def sniff(lines: Iterator[bytes]) -> tuple[Format, Iterator[bytes]]:
    """Tell JSONL from plain lines by the first character that is not blank; gives all lines back."""
    seen = []
    for line in lines:
        seen.append(line)
        if start := line.removeprefix(_BOM).lstrip():
            return "jsonl" if start.startswith(b"{") else "lines", itertools.chain(seen, lines)
    return "lines", iter(seen)


def read_documents(lines: Iterator[bytes], form: Format, field: str | None) -> Iterator[Document]:
    """Yield the documents of an input; only the format `document` holds all of it at once.

    Args:
        lines: The input cut after each line feed, in UTF-8, with or without a byte order mark.
        form: `lines`: one document a line, a blank line is an empty one. `document`: the whole input is one.
            `jsonl`: one object a line, blank lines apart. `csv`: with a header, RFC 4180.
        field: The field with the document (jsonl, csv); None for the first of FIELDS that is there.

    Raises:
        DataError: If the header of a CSV file has no such column or cannot be read, or if JSONL begins with
            a list.
    """
    first = next(lines, None)
    if first is None:
        return
    lines = itertools.chain([first.removeprefix(_BOM)], lines)
    if form == "lines":
        for number, line in enumerate(lines, 1):
            text = line.removesuffix(b"\n").removesuffix(b"\r")
            yield _decoded(text, str(number), f"line {number}: ")
    elif form == "document":
        yield _decoded(b"".join(lines).replace(b"\r\n", b"\n"), "1", "")
    elif form == "jsonl":
        for number, line in enumerate(lines, 1):
            if number == 1 and line.lstrip().startswith(b"["):
                raise DataError(
                    "the input begins with a JSON list; expected an object a line, which "
                    "`jq -c '.[]' FILE` makes of a list of objects"
                )
            if line.strip():
                yield _of_json(line, number, field)
    else:
        yield from _of_csv(lines, field)


def _decoded(content: bytes, name: str, where: str) -> Document:
    try:
        return Document(name, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Document(name, "", f"{where}{_not_utf8(content[error.start], error.start)}")


def _not_utf8(byte: int, offset: int) -> str:
    return f"byte 0x{byte:02x} at offset {offset} is not UTF-8"


def _of_json(line: bytes, number: int, field: str | None) -> Document:
    """Read the object of one line; it goes by its number while its id is not known."""
    name, where = str(number), f"line {number}: "
    content = _decoded(line, name, where)
    if content.failure:
        return content
    try:
        values = json.loads(content.text)
    except json.JSONDecodeError as error:
        return Document(name, "", f"{where}is not JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all bounds
        return Document(name, "", f"{where}cannot be read ({error})")
    if not isinstance(values, dict):
        return Document(name, "", f"{where}expected a JSON object, found {_kind(values)}")
    own = values.get("id")
    if isinstance(own, (str, int)) and not isinstance(own, bool):
        name = str(own)
    elif own is not None:
        return Document(name, "", f"{where}id: expected a text or a number, found {_kind(own)}")
    found = _field(values, field)
    if found is None:
        return Document(_writable(name), "", f"{where}has no {_wanted(field)}")
    if not isinstance(text := values[found], str):
        return Document(
            _writable(name), "", f"{where}{found}: expected a text, found {_kind(text)}"
        )
    return _checked(name, text, where)


def _kind(value: object) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a boolean",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")


def _of_csv(lines: Iterator[bytes], field: str | None) -> Iterator[Document]:
    csv.field_size_limit(_FIELD_CHARACTERS)
    # Bytes that are no UTF-8 become lone surrogates here, which only their own record then stumbles over.
    reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in lines), strict=True)
    try:
        header = next(reader)
    except csv.Error as error:
        raise DataError(f"the header of the CSV input cannot be read ({error})") from error
    found = _field(header, field)
    if found is None:
        raise DataError(
            f"the CSV input has no column {_wanted(field)}; it has {', '.join(map(_writable, header))}: "
            "name one with --field"
        )
    for number, record in enumerate(_records(reader), 1):
        where = f"line {reader.line_num}: "
        if isinstance(record, csv.Error):
            yield Document(str(number), "", f"{where}is not valid CSV ({record})")
        elif len(record) != len(header):
            counts = f"has {len(record)} fields, the header {len(header)}"
            yield Document(str(number), "", f"{where}{counts}")
        else:
            values = dict(zip(header, record, strict=True))
            yield _checked(values.get("id") or str(number), values[found], where)


def _records(reader: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    """Yield the records that are not blank; after one that is no CSV the next line begins another."""
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield error
        else:
            if record:
                yield record


def _field(names: Collection[str], field: str | None) -> str | None:
    return next((name for name in ([field] if field else FIELDS) if name in names), None)


def _wanted(field: str | None) -> str:
    return repr(field) if field else f"{', '.join(FIELDS[:-1])} or {FIELDS[-1]}"


def _checked(name: str, text: str, where: str) -> Document:
    """Return a document, or the failure of one that holds a lone surrogate: nobody can write that."""
    try:
        (name + text).encode("utf-8")
    except UnicodeEncodeError as error:
        code, offset = ord(error.object[error.start]), error.start - len(name)
        if 0xDC80 <= code <= 0xDCFF and offset >= 0:  # from surrogateescape: a byte as it came
            before = text[:offset].encode("utf-8", "surrogateescape")
            return Document(_writable(name), "", where + _not_utf8(code - 0xDC00, len(before)))
        return Document(_writable(name), "", f"{where}holds half a surrogate pair, \\u{code:04x}")
    return Document(name, text)


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
