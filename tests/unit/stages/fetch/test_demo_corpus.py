"""The demo corpus: large enough, no overlap, every fact of a summary stands in its document."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys

import pytest

from stages.fetch.demo_corpus import POOLS, demo_rows

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def splits() -> dict[str, Rows]:
    counts = {"train": 5000, "valid": 200, "test": 200}
    return {split: list(demo_rows(split, count, 1)) for split, count in counts.items()}


def test_five_thousand_training_documents_are_distinct(splits: dict[str, Rows]) -> None:
    assert len({row["document"] for row in splits["train"]}) == 5000
    assert all(row["document"] and row["summary"] for row in splits["train"])


def test_ids_are_unique(splits: dict[str, Rows]) -> None:
    ids = [row["id"] for rows in splits.values() for row in rows]
    assert len(set(ids)) == len(ids) == 5400


def test_no_document_stands_in_two_splits(splits: dict[str, Rows]) -> None:
    documents = [row["document"] for rows in splits.values() for row in rows]
    assert len(set(documents)) == len(documents)


def test_names_and_numbers_of_a_summary_stand_in_its_document(splits: dict[str, Rows]) -> None:
    facts = {word for pool in POOLS.values() for word in pool.split()}
    for row in splits["test"]:
        used = facts & set(re.findall(r"[A-Za-z]+|\d+", row["summary"]))
        assert len(used) >= 3
        assert used <= set(re.findall(r"[A-Za-z]+|\d+", row["document"]))


def test_the_beginning_does_not_give_the_facts_away(splits: dict[str, Rows]) -> None:
    """The opening sentence is background, so a model has to read on."""
    facts = {word for pool in POOLS.values() for word in pool.split()}
    shared = 0
    for row in splits["test"]:
        opening, _, rest = row["document"].partition(". ")
        assert rest
        words = set(re.findall(r"[A-Za-z]+|\d+", opening))
        shared += bool(words & facts & set(re.findall(r"[A-Za-z]+|\d+", row["summary"])))
    assert shared < 0.05 * len(splits["test"])


def test_fewer_rows_are_a_prefix_of_more(splits: dict[str, Rows]) -> None:
    assert list(demo_rows("train", 10, 1)) == splits["train"][:10]
    assert [row["document"] for row in demo_rows("train", 10, 2)] != [
        row["document"] for row in splits["train"][:10]
    ]


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_another_process_draws_the_same_rows(splits: dict[str, Rows], hash_seed: str) -> None:
    code = (
        "import hashlib; from stages.fetch.demo_corpus import demo_rows; "
        "print(hashlib.sha256(repr(list(demo_rows('valid', 200, 1))).encode()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert done.stdout.strip() == hashlib.sha256(repr(splits["valid"]).encode()).hexdigest()
