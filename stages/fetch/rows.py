"""Rows of any source, checked one by one: a bad one ends the stage, or is kept with its fault."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pipeline.errors import DataError
from stages.fetch.config import Columns, OnBadRow
from stages.fetch.local_rows import Found
from stages.fetch.seen import Seen, hash_of
from stages.schema import RawRow

Read = Callable[[], Iterable[Found]]
"""Reads a source from its start, as often as it is called."""


def checked_rows(
    read: Read, prefix: str, columns: Columns, on_bad_row: OnBadRow
) -> Iterator[RawRow]:
    """Turn columns into rows, none more and none less, each with an id of its own.

    A row without an id gets one from `prefix` and its number. With `record`, a row whose id was given
    before gets that id with `#2` or a later number behind it, and is a bad row.

    Args:
        read: Gives the rows; read again from the start where an id comes twice, so that memory holds
            8 bytes of each id and no more.
        prefix: The split, for ids of rows that have none.
        columns: Names of the columns to read.
        on_bad_row: Whether a bad row is an error.

    Raises:
        DataError: At the first bad row, with `fail`: one that cannot be read, lacks a column, holds no text
            in it, or repeats an id.
    """
    seen, repeats = Seen(), None
    for number, found in enumerate(read()):
        id_, fault = _id(found, prefix, number, columns)
        document, summary = (_text(found, columns, role) for role in ("document", "summary"))
        fault = found.fault or document.fault or summary.fault or fault
        if not seen.add(id_):
            repeats = repeats or _repeats(read, prefix, columns)
            first = repeats.first.get(id_, found.origin)
            if first != found.origin:
                told = f"id {id_!r} was given before, in {first}; ids must be unique within a split"
                fault, id_ = fault or told, repeats.unused(id_)
        origin, fault = printable(found.origin), printable(fault)
        if not fault:
            yield RawRow(id_, document.text, summary.text, origin)
        elif on_bad_row == "record":
            yield RawRow(id_, "", "", origin, fault)
        else:
            raise DataError(
                f"{printable(found.place)}/{origin}: {fault}. Mend or remove the row, or keep a record of "
                "such rows with --set fetch.dataset.on_bad_row=record"
            )


def printable(text: str) -> str:
    """Return a text that can be written, a name of a file or column that is not UTF-8 in escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Text(NamedTuple):
    text: str
    fault: str = ""


def _text(found: Found, columns: Columns, role: str) -> _Text:
    column = getattr(columns, role)
    if column not in found.values:
        present = ", ".join(map(str, found.values)) or "none"
        return _Text(
            "",
            f"has no column {column!r}; columns here: {present} (map yours with "
            f"--set fetch.dataset.columns.{role}=NAME)",
        )
    text = found.values[column]
    if text is None:
        return _Text("")
    if not isinstance(text, str):
        return _Text(
            "", f"column {column!r} holds {type(text).__name__} ({str(text)[:40]}), expected text"
        )
    return _Text(text, _no_text(text, column))


def _no_text(text: str, column: str) -> str:
    if "\0" in text:
        return f"column {column!r} holds a NUL character, which is no text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"column {column!r} holds half of a surrogate pair (a broken \\u escape), which is no text"
    return ""


def _id(found: Found, prefix: str, number: int, columns: Columns) -> _Text:
    """Return the id that the row gives, or one made for it; and what is wrong with the given one."""
    given, made = found.values.get(columns.id), f"{prefix}-{number:07d}"
    if given is None or given == "":
        return _Text(made)
    if not isinstance(given, (str, int)):
        return _Text(
            made,
            f"column {columns.id!r} holds {type(given).__name__} ({str(given)[:40]}), expected an id",
        )
    fault = _no_text(str(given), columns.id)
    return _Text(made, fault) if fault else _Text(str(given))


class _Repeats(NamedTuple):
    """What a source's ids are, once one of them came twice."""

    first: dict[str, str]
    """Where ids that come twice (and, by chance, few others) stand first."""
    every: Seen

    def unused(self, id_: str) -> str:
        """Return an id that no row has."""
        return next(
            own for own in (f"{id_}#{count}" for count in itertools.count(2)) if self.every.add(own)
        )


def _repeats(read: Read, prefix: str, columns: Columns) -> _Repeats:
    every, twice = Seen(), set()
    for number, found in enumerate(read()):
        id_ = _id(found, prefix, number, columns).text
        if not every.add(id_):
            twice.add(hash_of(id_))
    first: dict[str, str] = {}
    for number, found in enumerate(read()):
        id_ = _id(found, prefix, number, columns).text
        if hash_of(id_) in twice:
            first.setdefault(id_, found.origin)
    return _Repeats(first, every)
