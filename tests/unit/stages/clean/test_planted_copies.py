"""Copies planted in real documents, within and across splits: each is found, and no other but real ones."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.clean.cleaned import PRIORITY
from stages.clean.config import CleanConfig
from stages.clean.run import run
from stages.clean.words import shingles, words_of
from stages.schema import RawRow
from tests.unit.stages.clean.test_clean_run import new_context
from tests.unit.stages.clean.test_duplicates import edited, ledger, rows, shared

DATA = os.environ.get("SUMPIPE_TEST_DATA")
PLACES = [(one, to) for at, one in enumerate(PRIORITY) for to in PRIORITY[at:]]
"""Where the original stands, and where its copy: of two splits the copy is in the later one."""
EACH = 5
"""Copies of a kind that are planted at a place."""


def grams(text: str) -> set[str]:
    return set(shingles(words_of(text)))


def near(text: str, chance: random.Random) -> str:
    """Change as many words as leave a similarity of 0.8: in a headline's sentence the last one alone."""
    last = f"{text.rsplit(maxsplit=1)[0]} edit{chance.randrange(10**6)}"
    tried = [*(edited(text, share, chance) for share in (0.02, 0.01)), last]
    return next(one for one in tried if one != text and shared(grams(one), grams(text)) >= 0.8)


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "equal": lambda text, _: text,
    "blanks": lambda text, _: f" {text.replace(' ', chr(10), 3).replace(' ', '  ')}\t",
    "case": lambda text, _: text.upper(),
    "near": near,
}


@pytest.mark.skipif(DATA is None, reason="SUMPIPE_TEST_DATA names no folder of real documents")
@pytest.mark.parametrize(
    "name",
    [
        *("cnndm", "gigaword1k", "reddit_tifu_long"),
        pytest.param("giga_like", marks=pytest.mark.slow),
        pytest.param("reddit_tldr", marks=pytest.mark.slow),
    ],
)
def test_planted_copies_are_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    assert DATA is not None
    splits: dict[str, list[RawRow]] = {}
    for split in PRIORITY:
        lines = (Path(DATA) / name / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
        splits[split] = rows(split, [json.loads(line)["document"] for line in lines if line])
    chance, planted = random.Random(11), {}
    free = {
        split: chance.sample([row for row in own if len(words_of(row.document)) > 14], 80)
        for split, own in splits.items()
    }
    for one, to in PLACES:
        for kind, copy in KINDS.items():
            for number in range(EACH):
                id_, original = f"{kind}-{one}-{to}-{number}", free[one].pop()
                planted[id_] = original, RawRow(id_, copy(original.document, chance), "x", "p")
    for id_, (_, row) in planted.items():
        splits[id_.split("-")[2]].append(row)
    context = new_context(tmp_path, **splits)
    metrics = run(CleanConfig(), context)
    found, documents = (
        ledger(context.work),
        {row.id: row.document for own in splits.values() for row in own},
    )
    assert len(found) == sum(map(len, splits.values())) == len(documents)
    assert metrics["rows_kept_train"] == len(splits["train"])
    for id_, (original, row) in planted.items():
        kind, one, to, _ = id_.split("-")
        entry, how = found[id_], "duplicate" if one == to else "leak"
        other = entry[f"{how}_of"]
        assert other is not None, id_
        if other != original.id:  # the set has the original, or one still more alike, twice
            similar = [
                shared(grams(row.document), grams(documents[o])) for o in (original.id, other)
            ]
            assert similar[1] >= similar[0], id_
        assert entry[f"{how}_is_equal"] == (kind != "near"), id_
    for id_, entry in found.items():
        for other in (entry["duplicate_of"], entry["leak_of"]):
            if other is not None and id_ not in planted:
                assert shared(grams(documents[id_]), grams(documents[other])) >= 0.8, (id_, other)
    if name == "cnndm":
        assert sum(bool(entry["duplicate_of"] or entry["leak_of"]) for entry in found.values()) <= (
            len(planted) + 5
        )
