"""Cutting one source into splits."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from stages.fetch.catalogue import Cut
from stages.fetch.config import Derive
from stages.normalize import normalize
from stages.schema import SPLITS, RawRow

Assign = Callable[[int, RawRow], str | None]
"""Gives the split of a row, by its number in the source and by itself; None if it is in none."""

_WORDS = re.compile(r"[^\W_]+")
_SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}


def by_document(derive: Derive) -> Assign:
    """Assign rows by their documents: those of equal words go to one split, wherever they stand.

    A document's words, case folded and without punctuation and blanks, are hashed with the seed (SHA-256) to
    a number uniform in [0, 1): below `test` is test, below `test` + `valid` validation. What clean takes for
    equal without rules, in any Unicode form, is equal here; documents that its rules make equal, as one with
    a dateline and one without, may be in two splits, and clean reports such leaks. Of a document without
    words the characters count, normalised. Rows that could not be read are left in train.
    """

    def assign(_: int, row: RawRow) -> str:
        if row.fault:
            return "train"
        place = _hash64(f"{derive.seed}\0{content_of(row.document)}") / 2**64
        if place < derive.test:
            return "test"
        return "valid" if place < derive.test + derive.valid else "train"

    return assign


def content_of(document: str) -> str:
    """Return what a document is known by: its words without case, or if it has none its characters."""
    words = _WORDS.findall(_folded(normalize(document, "NFC")))
    return "".join(words) or normalize(document, "NFKC")


def by_order(rows: Iterable[RawRow], cut: Cut, is_member: Callable[[RawRow], bool]) -> Assign:
    """Assign rows by their places in an order: 8 bytes a row are kept.

    Args:
        rows: The whole source.
        cut: The order, and at how many percent of its rows it is cut, to the nearest row as TFDS does.
        is_member: Whether a row is part of the set; rows that could not be read are, and left in train.
    """
    assert cut.valid_from is not None and cut.test_from is not None, "checked with the catalogue"

    def key(number: int, row: RawRow) -> int:
        match cut.by:
            case "tfds_order":
                return tfds_key(int(row.origin.rpartition(":")[2]) - 1)
            case "random_order":
                return _hash64(f"{cut.seed}\0{number}")
            case _:
                return number

    counted = (pair for pair in enumerate(rows) if not pair[1].fault and is_member(pair[1]))
    keys = np.sort(np.fromiter((key(number, row) for number, row in counted), np.uint64))
    starts = [round(percent * len(keys) / 100) for percent in (cut.valid_from, cut.test_from)]
    valid_from, test_from = (int(keys[start]) if start < len(keys) else 2**64 for start in starts)

    def assign(number: int, row: RawRow) -> str | None:
        if row.fault:
            return "train"
        if not is_member(row):
            return None
        place = key(number, row)
        return "train" if place < valid_from else "valid" if place < test_from else "test"

    return assign


def tfds_key(number: int, split: str = "train") -> int:
    """Return what TFDS sorts the rows of a split by, its first 64 of 128 bits.

    It is MD5 of the split's name and then the row's key, which for reddit_tifu is the number of the line
    from 0. Reconstructed from tensorflow/datasets: core/shuffle.py at 4b76376, core/hashing.py at 0d456ae
    (MD5 with a salt), core/split_builder.py at 0428a9c (the salt is the split's name) and
    summarization/reddit_tifu.py at 0056b63 (the key). Not compared with a set that TFDS wrote.
    """
    return int.from_bytes(hashlib.md5(f"{split}{number}".encode()).digest()[:8], "big")


def listed_ids(path: Path) -> dict[str, str]:
    """Return the split of each id of a file `{"train": [...], "validation": [...], "test": [...]}`.

    Raises:
        DataError: If the file is not of that form, or has an id twice.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"fetch.dataset.split_ids: {path} is not readable JSON ({error})"
        ) from error
    names = {_SPLIT_NAMES.get(name) for name in lists} if isinstance(lists, dict) else set()
    if names != set(SPLITS) or not all(isinstance(ids, list) for ids in lists.values()):
        raise DataError(
            f"fetch.dataset.split_ids: {path}: expected an object with lists of ids by train, validation "
            "and test"
        )
    split_of: dict[str, str] = {}
    for name, ids in lists.items():
        for id_ in map(str, ids):
            if id_ in split_of:
                raise DataError(f"fetch.dataset.split_ids: {path}: gives id {id_!r} twice")
            split_of[id_] = _SPLIT_NAMES[name]
    return split_of


def by_ids(split_of: Mapping[str, str], is_member: Callable[[RawRow], bool]) -> Assign:
    """Assign rows by lists of ids.

    Args:
        split_of: The split of each id.
        is_member: Whether a row is part of the set; rows that could not be read are, and left in train where
            their id, which may be a made one, is in no list.
    """

    def assign(_: int, row: RawRow) -> str | None:
        if row.fault:
            return split_of.get(row.id, "train")
        return split_of.get(row.id) if is_member(row) else None

    return assign


def _folded(text: str) -> str:
    """Fold case and compatibility forms of text in NFC: Unicode's compatibility caseless match (D146)."""
    folded = unicodedata.normalize("NFKC", text.casefold())
    return unicodedata.normalize("NFKC", folded.casefold())


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
