"""Rows as they come from any source, checked one by one; a bad one is named by its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.errors import DataError
from stages.fetch.config import Columns
from stages.schema import RawRow


def checked_rows(
    found: Iterable[tuple[str, dict[str, Any]]], place: str, split: str, columns: Columns
) -> Iterator[RawRow]:
    """Turn columns into rows.

    Args:
        found: Where each row stands in its source, such as `train.jsonl:12`, and its columns.
        place: What comes before that in messages: a folder or a repository.
        split: The split, for ids of rows that have none.
        columns: Names of the columns to read.

    Raises:
        DataError: At the first row that lacks a column, holds no text in it, or repeats an id.
    """
    seen: dict[str, str] = {}
    for number, (origin, values) in enumerate(found):
        where = f"{place}/{origin}"
        document = _text(values, columns.document, "document", where)
        summary = _text(values, columns.summary, "summary", where)
        given = values.get(columns.id)
        id_ = f"{split}-{number:07d}" if given is None else str(given)
        _require_whole(id_, columns.id, where)
        if id_ in seen:
            raise DataError(
                f"{where}: id {id_!r} was given before, in {seen[id_]}; ids must be unique within a split"
            )
        seen[id_] = origin
        yield RawRow(id_, document, summary, origin)


def _text(values: dict[str, Any], column: str, role: str, where: str) -> str:
    if column not in values:
        present = ", ".join(map(str, values)) or "none"
        raise DataError(
            f"{where}: has no column {column!r}; columns here: {present}. Map yours with "
            f"--set fetch.dataset.columns.{role}=NAME"
        )
    text = values[column]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError(
            f"{where}: column {column!r} holds {type(text).__name__} ({str(text)[:40]}), expected text"
        )
    _require_whole(text, column, where)
    return text


def _require_whole(text: str, column: str, where: str) -> None:
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise DataError(
            f"{where}: column {column!r} holds half of a surrogate pair (a broken \\u escape), which is "
            "no text; mend or remove the row"
        )
