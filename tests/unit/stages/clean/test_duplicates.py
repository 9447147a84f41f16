"""Duplicates and leaks: all that were planted are found, and nothing that a full comparison does not find."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import stages.schema as schema
from pipeline.errors import DataError
from stages.clean import signature
from stages.clean.candidates import MOST_PARTNERS
from stages.clean.cleaned import PRIORITY
from stages.clean.config import CleanConfig, DuplicatesConfig
from stages.clean.pairs import candidate_pairs, first_of_each
from stages.clean.run import run, shards
from stages.clean.signature import BANDS, SLOTS, bands_of, estimate, signature_of
from stages.clean.words import digest, jaccard, shingle_hashes, shingles, words_of
from stages.schema import Example, RawRow, read_shards
from tests.unit.stages.clean.test_clean_run import new_context


def rows(split: str, documents: list[str]) -> list[RawRow]:
    return [
        RawRow(f"{split}-{number}", document, "A summary.", f"{split}:{number}")
        for number, document in enumerate(documents)
    ]


def ledger(work: Path) -> dict[str, dict[str, Any]]:
    entries = [e for split in PRIORITY for e in pq.read_table(work / "ledger" / split).to_pylist()]
    return {entry["id"]: entry for entry in entries}


def edited(document: str, share: float, chance: random.Random) -> str:
    """Replace a share of the words."""
    words = document.split()
    for place in chance.sample(range(len(words)), round(share * len(words))):
        words[place] = f"edit{chance.randrange(10**6)}"
    return " ".join(words)


def corpus(chance: random.Random, count: int, words: int) -> list[str]:
    vocabulary = [f"w{number}" for number in range(2000)]
    return [" ".join(chance.choices(vocabulary, k=words)) for _ in range(count)]


def shared(one: set[str], other: set[str]) -> float:
    """Jaccard similarity as it is written."""
    return len(one & other) / len(one | other)


def expected(splits: dict[str, list[RawRow]], limit: float) -> dict[str, tuple[set[str], set[str]]]:
    """By comparing all with all: the earlier rows of its split, and of others, that each row is like."""
    ordered = [(split, row) for split in PRIORITY for row in splits[split]]
    sets = {row.id: set(shingles(words_of(row.document))) for _, row in ordered}
    found: dict[str, tuple[set[str], set[str]]] = {row.id: (set(), set()) for _, row in ordered}
    for (one, earlier), (other, later) in combinations(ordered, 2):
        if shared(sets[earlier.id], sets[later.id]) >= limit:
            found[later.id][one != other].add(earlier.id)
    return found


def test_the_whole_comparison_finds_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SHARD_ROWS", 40)
    chance = random.Random(3)
    train, valid, test = (corpus(chance, count, 60) for count in (150, 30, 30))
    for number in range(60):  # similarities of 1 down to about 0.4
        train.append(edited(chance.choice(train[:150]), number / 600, chance))
        valid.append(edited(chance.choice(train[:150]), number / 600, chance))
        train.append(edited(chance.choice(test[:30]), number / 600, chance))
    splits = {
        "train": rows("train", train),
        "valid": rows("valid", valid),
        "test": rows("test", test),
    }
    context = new_context(tmp_path, **splits)
    run(CleanConfig(), context)
    wanted = expected(splits, 0.8)
    for id_, entry in ledger(context.work).items():
        same, other = wanted[id_]
        assert (entry["duplicate_of"] in same) if same else entry["duplicate_of"] is None, id_
        assert (entry["leak_of"] in other) if other else entry["leak_of"] is None, id_
    assert (
        10 < sum(bool(same) for same, _ in wanted.values()) < 60
    )  # of 60 planted, some below the limit


SPELLINGS = {
    "equal": lambda text: text,
    "blanks": lambda text: f"  {text.replace(' ', chr(10))}\t",
    "case": lambda text: text.upper(),
    "punctuation": lambda text: text.replace(" ", ", ") + " !!",
    "width": lambda text: text.replace(" ", "\u00a0"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("near", [0.8, None])
def test_equal_words_are_equal_documents(spelling: str, near: float | None, tmp_path: Path) -> None:
    train = corpus(random.Random(1), 20, 30)
    splits = {
        "valid": rows("valid", [SPELLINGS[spelling](train[4])]),
        "test": rows("test", ["else"]),
    }
    context = new_context(
        tmp_path, train=rows("train", [*train, SPELLINGS[spelling](train[7])]), **splits
    )
    metrics = run(CleanConfig(duplicates=DuplicatesConfig(near=near)), context)
    found = ledger(context.work)
    assert (metrics["duplicates_train"], metrics["leaks"]) == (1, 1)
    assert found["train-20"]["duplicate_of"] == "train-7"
    leak = found["train-4"]
    assert (leak["leak_of"], leak["leak_split"], leak["leak_similarity"]) == (
        "valid-0",
        "valid",
        1.0,
    )
    told = json.loads((context.work / "duplicates.json").read_text(encoding="utf-8"))
    kinds = {(kind["split"], kind["in"]): (kind["equal"], kind["near"]) for kind in told["found"]}
    assert kinds == {("train", "train"): (1, 0), ("train", "valid"): (1, 0)}


def test_of_equal_rows_the_first_is_named(tmp_path: Path) -> None:
    """In the order of rows, test, valid, train, and not of the ids."""
    same = "the very same words again and again"
    train = [RawRow(name, same, "s", name) for name in ("t2", "t9", "t1")]
    splits = {"valid": rows("valid", [same]), "test": rows("test", [same, same.upper()])}
    context = new_context(tmp_path, train=train, **splits)
    run(CleanConfig(), context)
    found = {
        id_: (entry["duplicate_of"], entry["leak_of"])
        for id_, entry in ledger(context.work).items()
    }
    assert found == {
        "test-0": (None, None),
        "test-1": ("test-0", None),
        "valid-0": (None, "test-0"),
        "t2": (None, "test-0"),
        "t9": ("t2", "test-0"),
        "t1": ("t2", "test-0"),
    }


def leaking(tmp_path: Path) -> Any:
    same, other = (
        "the very same words again and again",
        "some other words of a document that is longer",
    )
    train = rows("train", [same, other, same, "a third document has words of its own"])
    return new_context(
        tmp_path,
        train=train,
        valid=rows("valid", [same, "valid alone"]),
        test=rows("test", [other]),
    )


@pytest.mark.parametrize(
    ("within_split", "on_leak", "kept"),
    [
        ("report", "report", ["train-0", "train-1", "train-2", "train-3"]),
        ("drop", "report", ["train-0", "train-1", "train-3"]),
        ("report", "drop", ["train-3"]),
        ("drop", "drop", ["train-3"]),
    ],
)
def test_copies_are_kept_or_dropped_as_the_recipe_says(
    within_split: Any, on_leak: Any, kept: list[str], tmp_path: Path
) -> None:
    context = leaking(tmp_path)
    duplicates = DuplicatesConfig(within_split=within_split, on_leak=on_leak)
    metrics = run(CleanConfig(duplicates=duplicates), context)
    assert [row.id for row in read_shards(context.work / "train", Example)] == kept
    assert [row.id for row in read_shards(context.work / "valid", Example)] == [
        "valid-0",
        "valid-1",
    ]
    done = {"report": "that leaves none of them out", "drop": "they are left out"}[on_leak]
    assert metrics["warning_leaks"] == (
        f"3 documents are like one of another split; {done} (clean.duplicates.on_leak). "
        "clean/duplicates.json has counts and examples, the ledger all of them"
    )
    outcomes = [ledger(context.work)[f"train-{number}"]["outcome"] for number in range(4)]
    assert outcomes.count("kept") == len(kept) == metrics["rows_kept_train"]
    assert outcomes[2] == {"report": "kept", "drop": "duplicate"}[within_split] or on_leak == "drop"


def test_leaks_may_be_forbidden(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(CleanConfig(duplicates=DuplicatesConfig(on_leak="fail")), leaking(tmp_path))
    assert "3 documents are like one of another split" in str(caught.value)
    assert "clean.duplicates.on_leak to drop" in str(caught.value)
    assert "with --restart-from clean" in str(caught.value)


def test_pairs_are_those_of_equal_values_in_order() -> None:
    values = np.array([7, 9, 7, 3, 7, 9], dtype=np.uint64)
    rows, splits = np.array([2, 3, 5, 7, 11, 13]), np.array([0, 0, 0, 1, 1, 2])
    pairs, in_part = candidate_pairs(values, rows, splits, most=9)
    assert pairs.tolist() == [[2, 5], [2, 11], [5, 11], [3, 13]]
    assert not len(in_part)
    nothing = np.zeros(0, np.int64)
    assert candidate_pairs(nothing.astype(np.uint64), nothing, nothing, most=9)[0].shape == (0, 2)


@pytest.mark.parametrize("most", [1, 2, 50])
def test_pairs_are_with_the_first_of_each_split_and_rows_with_more_are_named(most: int) -> None:
    chance = np.random.default_rng(most)
    splits = np.sort(chance.integers(0, 3, 60))
    values, rows = chance.integers(0, 5, 60).astype(np.uint64), np.arange(60) * 3
    wanted, has_more, seen = [], set(), set()
    for later in range(60):
        for split in range(3):
            alike = [
                earlier
                for earlier in range(later)
                if (values[earlier], splits[earlier]) == (values[later], split)
            ]
            wanted += [[3 * earlier, 3 * later] for earlier in alike[:most]]
            has_more |= {3 * later} if alike[most:] else set()
    pairs, told = candidate_pairs(values, rows, splits, most)
    assert (pairs.tolist(), told.tolist()) == (wanted, sorted(has_more))
    firsts = [
        (pair not in seen, seen.add(pair))[0]
        for pair in zip(values.tolist(), splits.tolist(), strict=True)
    ]
    assert first_of_each(values, splits).tolist() == firsts


def test_however_many_copies_there_are_each_is_found_and_nothing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy is like what the first of its split is like, wherever the file of that one is."""
    monkeypatch.setattr(schema, "SHARD_ROWS", 7)
    chance = random.Random(8)
    text, other, alone = corpus(chance, 3, 60)
    near = edited(text, 0.01, chance)
    splits = {
        "test": rows("test", [near, *[other] * 50]),
        "valid": rows("valid", [alone]),
        "train": rows("train", [*[text] * 40, other, other]),
    }
    context = new_context(tmp_path, **splits)
    run(CleanConfig(), context)
    found = ledger(context.work)
    for number in range(42):
        first = 0 if number < 40 else 40
        entry = found[f"train-{number}"]
        twin = None if number == first else f"train-{first}"
        assert entry["duplicate_of"] == twin, number
        assert entry["leak_of"] == ("test-0" if number < 40 else "test-1"), number
    similarity = found["train-0"]["leak_similarity"]
    assert 0.8 < similarity < 1
    assert {found[f"train-{number}"]["leak_similarity"] for number in range(40)} == {similarity}
    assert found["test-50"]["duplicate_of"] == "test-1"
    told = json.loads((context.work / "duplicates.json").read_text(encoding="utf-8"))
    assert told["rows_compared_in_part"] == 0


def test_rows_that_are_compared_in_part_are_counted_once(tmp_path: Path) -> None:
    """A template of which each row has its own last word: all share the bands, none equals another.

    The first 32 meet all rows before them, and so does the next one; the 7 others do not.
    """
    words = " ".join(corpus(random.Random(2), 1, 90))
    count = MOST_PARTNERS + 8
    context = new_context(tmp_path, test=rows("test", [f"{words} {n}" for n in range(count)]))
    metrics = run(CleanConfig(), context)
    found = ledger(context.work)
    assert all(found[f"test-{number}"]["duplicate_of"] for number in range(1, count))
    told = json.loads((context.work / "duplicates.json").read_text(encoding="utf-8"))
    assert told["rows_compared_in_part"] == metrics["rows_compared_in_part"] == 7
    assert (
        "7 documents share a band with more than 32 others of a split"
        in metrics["warning_candidates"]
    )


def test_rows_without_words_do_not_count_among_the_partners(tmp_path: Path) -> None:
    words = " ".join(corpus(random.Random(2), 1, 90))
    alike = [f"{words} {n}" for n in range(60)]
    splits = {
        "test": rows("test", ["?" * n for n in range(1, 9)] + alike[:30]),
        "valid": rows("valid", alike[30:]),
    }
    metrics = run(CleanConfig(), new_context(tmp_path, **splits))
    assert "rows_compared_in_part" not in metrics
    assert metrics["leaks"] == 30


def test_documents_without_words_are_equal_by_their_characters_alone(tmp_path: Path) -> None:
    splits = {"valid": rows("valid", ["???", "!!!"]), "test": rows("test", ["\u2764\u2764\u2764"])}
    train = rows("train", ["\U0001f600\U0001f600", "!!!", "words", "some more of them"])
    context = new_context(tmp_path, train=train, **splits)
    run(CleanConfig(duplicates=DuplicatesConfig(on_leak="drop", within_split="drop")), context)
    found = ledger(context.work)
    assert [id_ for id_, entry in found.items() if entry["outcome"] != "kept"] == ["train-1"]
    assert found["train-1"]["leak_of"] == "valid-1"


def test_equal_sets_of_5_grams_are_near_where_the_words_differ(tmp_path: Path) -> None:
    part = "a b c d e f "
    splits = {"valid": rows("valid", [part * 3]), "test": rows("test", ["something else"])}
    context = new_context(tmp_path, train=rows("train", [part * 4, part * 3]), **splits)
    run(CleanConfig(), context)
    entry = ledger(context.work)["train-0"]
    assert (entry["leak_of"], entry["leak_similarity"]) == ("valid-0", 1.0)
    assert entry["leak_is_equal"] is False
    told = json.loads((context.work / "duplicates.json").read_text(encoding="utf-8"))
    kinds = {(kind["split"], kind["in"]): (kind["equal"], kind["near"]) for kind in told["found"]}
    assert kinds == {("train", "train"): (0, 1), ("train", "valid"): (1, 1)}
    (leaks,) = (kind["examples"] for kind in told["found"] if kind["in"] == "valid")
    assert [(leak["similarity"], leak["is_equal"]) for leak in leaks] == [(1.0, False), (1.0, True)]


def test_signatures_estimate_the_similarity_of_sets() -> None:
    for share in (0.2, 0.5, 0.9):
        common = {f"c{number}" for number in range(round(600 * share))}
        rest = 600 - len(common)
        one, other = (common | {f"{side}{n}" for n in range(rest // 2)} for side in "ab")
        signatures = [
            np.stack([signature_of({f"{s}/{k}" for s in side}) for k in range(40)])
            for side in (one, other)
        ]
        found = estimate(*signatures)
        assert found.mean() == pytest.approx(shared(one, other), abs=0.03)
        assert found.std() == pytest.approx((share * (1 - share) / SLOTS) ** 0.5, rel=0.5)


def test_bands_are_equal_where_their_slots_are() -> None:
    one = signature_of({"a", "b", "c"})
    other = one.copy()
    other[5] += 1  # of band 1
    bands = bands_of(np.stack([one, other]))
    assert bands.shape == (2, BANDS)
    assert np.flatnonzero(bands[0] != bands[1]).tolist() == [1]


def test_words_of_several_scripts() -> None:
    assert words_of("Caf\u00e9's 2nd_floor \u2014 STRASSE stra\u00dfe") == [
        *("caf\u00e9", "s", "2nd_floor", "strasse", "strasse")
    ]
    assert words_of("\u4e2d\u6587 ok") == ["\u4e2d", "\u6587", "ok"]
    assert digest("?!", []) != digest("...", [])
    assert list(shingles(["a", "b"])) == ["a b"]
    assert list(shingles(list("abcdef"))) == ["a b c d e", "b c d e f"]


def test_hashes_of_shingles_stand_for_them() -> None:
    """Few words and many repetitions: as many hashes as shingles, and equal similarities."""
    chance = random.Random(7)
    texts = [chance.choices("abcd", k=chance.randrange(40)) for _ in range(150)]
    texts += [["a"], ["a", "b"], ["b", "a"], ["ab"], [], list("abcde"), list("edcba"), ["a"] * 9]
    sets = [set(shingles(words)) for words in texts]
    hashes = [shingle_hashes(words) for words in texts]
    assert [len(found) for found in hashes] == [len(found) for found in sets]
    for one, other in combinations(range(len(texts)), 2):
        assert jaccard(hashes[one], hashes[other]) == shared(sets[one], sets[other])


def test_a_signature_is_of_the_set_whatever_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    words = random.Random(2).choices("abcdef", k=500)
    whole = signature_of(set(shingles(words)))
    monkeypatch.setattr(signature, "_PORTION", 7)
    assert signature_of(shingles(words)).tolist() == whole.tolist()


def test_a_long_document_takes_no_set_of_its_shingles() -> None:
    """The words are held and what is told of them; of 5-grams, each of 30 bytes and more, 10,000."""
    words = [f"w{number % 997}" for number in range(400_000)]
    tracemalloc.start()
    try:
        signature_of(shingles(words))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_each_candidate_comes_once_and_those_of_a_row_together(tmp_path: Path) -> None:
    """So that the documents a row is compared with are at hand, as they are for the next row."""
    template = corpus(random.Random(4), 1, 80)[0]
    alike = [edited(template, 0.02, random.Random(number)) for number in range(30)]
    context = new_context(tmp_path, train=rows("train", alike))
    *steps, last = shards(CleanConfig(), context)
    for step in steps:
        context.share(step)
    verdicts: Any = last.work
    offsets = verdicts.rows.offsets()
    found = verdicts.candidates.alike(np.arange(offsets[-1])).tolist()
    assert len(found) > 300
    assert found == sorted(found, key=lambda pair: (pair[1], pair[0]))
    assert len(found) == len({tuple(pair) for pair in found})
