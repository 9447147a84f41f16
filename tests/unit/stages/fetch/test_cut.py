"""Cutting one source: TFDS' order against its figures, places against sorting, documents kept together."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any
from unicodedata import category

import pytest

from pipeline.errors import DataError
from stages.clean.words import words_of
from stages.fetch.catalogue import Cut
from stages.fetch.config import Derive
from stages.fetch.cut import by_document, by_ids, by_order, content_of, listed_ids, tfds_key
from stages.normalize import normalize
from stages.schema import RawRow


def row(number: int, document: str = "d", fault: str = "") -> RawRow:
    return RawRow(f"id{number}", document, "s", f"a.json:{number + 1}", fault)


def cut(by: str, valid_from: int = 80, test_from: int = 90, **more: Any) -> Cut:
    return Cut(by=by, valid_from=valid_from, test_from=test_from, about="x", **more)  # type: ignore[arg-type]


def has_text(row: RawRow) -> bool:
    return bool(row.document)


@pytest.mark.parametrize(
    ("number", "salt", "digest"),
    [
        # tensorflow/datasets, core/hashing_test.py at 2217cbd
        (0, "", 276215275525073243129443018166533317850),
        (123455678901234567890, "", 6876359009333865997613257802033240610),
        # md5sum of train0, train1, train12
        (0, "train", 0x9318F9213195AC5C50B1DDB3C7D5AACD),
        (1, "train", 0xBC4E69093CDFD6AA4AAACD2F8ED0E730),
        (12, "train", 0x1E21E8753593BD546BEBD89C3BEDF6C1),
    ],
)
def test_keys_are_those_of_tfds(number: int, salt: str, digest: int) -> None:
    assert tfds_key(number, salt) == digest >> 64


def test_the_first_rows_of_tfds_order_by_hand() -> None:
    """Of lines 0, 1 and 12 the digests begin with 93, bc and 1e: line 12 comes first, then 0, then 1."""
    rows = [row(number) for number in (0, 1, 12)]
    assign = by_order(rows, cut("tfds_order", 33, 67), has_text)
    assert [assign(n, one) for n, one in enumerate(rows)] == ["valid", "test", "train"]


@pytest.mark.parametrize("by", ["tfds_order", "row_order", "random_order"])
@pytest.mark.parametrize("count", [10, 42, 1000, 4213])
def test_splits_are_slices_of_the_sorted_rows(by: str, count: int) -> None:
    """Brute force: sort the rows that count, and slice at percentages as TFDS rounds them."""
    rows = [row(n, "" if n % 7 == 3 else "d") for n in range(count)]
    members = [n for n in range(count) if rows[n].document]
    keys = {
        "tfds_order": lambda n: int(hashlib.md5(b"train%d" % n).hexdigest(), 16),
        "row_order": lambda n: n,
        "random_order": lambda n: hashlib.sha256(b"3\0%d" % n).hexdigest(),
    }
    members.sort(key=keys[by])
    first, second = (round(percent * len(members) / 100.0) for percent in (80, 90))
    expected = dict.fromkeys(members[:first], "train")
    expected |= dict.fromkeys(members[first:second], "valid")
    expected |= dict.fromkeys(members[second:], "test")
    assign = by_order(rows, cut(by, seed=3), has_text)
    assert [assign(n, one) for n, one in enumerate(rows)] == [expected.get(n) for n in range(count)]


def test_another_seed_draws_others() -> None:
    rows = [row(n) for n in range(200)]
    one, two = (by_order(rows, cut("random_order", seed=seed), has_text) for seed in (1, 2))
    assert [one(n, r) for n, r in enumerate(rows)] != [two(n, r) for n, r in enumerate(rows)]


def test_unreadable_rows_count_for_nothing_and_stay_in_train() -> None:
    rows = [row(n, "", "bad") if n % 2 else row(n) for n in range(20)]
    assign = by_order(rows, cut("row_order"), has_text)
    split = Counter(assign(n, one) for n, one in enumerate(rows) if not one.fault)
    assert split == {"train": 8, "valid": 1, "test": 1}
    assert {assign(n, one) for n, one in enumerate(rows) if one.fault} == {"train"}
    assert by_document(Derive(valid=0.4, test=0.4))(0, rows[1]) == "train"


def test_equal_words_are_in_one_split() -> None:
    """Case, blanks, punctuation, the Unicode form and the place do not move a document."""
    words = ["Caf\u00e9", "NOIR", "stra\u00dfe", "eins", "zwei", "drei", "\u4f60\u597d"]
    draw = random.Random(1)
    for seed in range(50):
        assign = by_document(Derive(valid=0.3, test=0.3, seed=seed))
        text = " ".join(draw.sample(words, 4))
        variants = [
            text,
            text.replace("\u00e9", "e\u0301").upper(),
            text.casefold().replace(" ", "\n\n"),
            f"\u201c{text.replace(' ', ', ')}!\u201d ",
        ]
        assert len({assign(n, row(n, variant)) for n, variant in enumerate(variants)}) == 1


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_what_clean_takes_for_equal_is_one_document(form: Any) -> None:
    """Each character of Unicode: mathematical capitals, circled ones and units among them."""
    texts = [char for char in map(chr, range(0x110000)) if category(char) not in ("Cn", "Co", "Cs")]
    texts += [
        f"{one}{unseen}\u0308" for one in "aou" for unseen in ("\ufeff", "\u200b", "\x01", "")
    ]
    contents: dict[tuple[str, ...], set[str]] = {}
    for text in texts:
        words = tuple(words_of(normalize(text, form)))
        contents.setdefault(words, set()).add(content_of(text))
    contents.pop((), None)  # without words, to clean: its characters count
    assert not [words for words, known in contents.items() if len(known) > 1]


def test_shares_are_about_those_asked_for() -> None:
    assign = by_document(Derive(valid=0.05, test=0.1))
    counts = Counter(assign(n, row(n, f"document {n}")) for n in range(20_000))
    # four standard deviations of a binomial
    assert abs(counts["valid"] - 1000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5
    assert abs(counts["test"] - 2000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5
    other = by_document(Derive(valid=0.05, test=0.1, seed=2))
    assert any(assign(n, row(n, f"{n}")) != other(n, row(n, f"{n}")) for n in range(1000))


def test_texts_without_words_are_told_apart_by_their_characters() -> None:
    assign = by_document(Derive(valid=0.3, test=0.3))
    assert len({assign(n, row(n, "?" * n)) for n in range(1, 40)}) == 3


def test_a_text_without_words_is_normalised_first() -> None:
    """As clean does before it compares: blanks, line breaks and what nobody sees do not move it."""
    for seed in range(30):
        assign = by_document(Derive(valid=0.3, test=0.3, seed=seed))
        variants = ["? !", "?\u00a0\t!\n", "\ufeff ?\u200b !"]
        assert len({assign(n, row(n, variant)) for n, variant in enumerate(variants)}) == 1


def test_ids_name_the_split(tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({"train": ["id1"], "validation": ["id2"], "test": ["id0"]}))
    assign = by_ids(listed_ids(path), has_text)
    assert [assign(n, row(n)) for n in range(4)] == ["test", "train", "valid", None]
    assert assign(1, row(1, "")) is None


def test_a_row_that_cannot_be_read_is_never_left_out(tmp_path: Path) -> None:
    """Its id is often a made one, which no list has."""
    assign = by_ids({"id0": "test"}, has_text)
    assert [assign(n, row(n, "", "bad")) for n in range(2)] == ["test", "train"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "expected an object"),
        ('{"train": [], "test": []}', "expected an object"),
        ('{"train": "a", "valid": [], "test": []}', "expected an object"),
        ('{"train": ["a"], "valid": ["a"], "test": []}', "'a' twice"),
        ('{"train"', "not readable JSON"),
    ],
)
def test_a_wrong_list_of_ids_is_told(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        listed_ids(path)
