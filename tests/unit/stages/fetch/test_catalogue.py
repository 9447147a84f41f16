"""The catalogue: well-formed, told of by name, and each set's published layout is read to the row."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config import canonical_json
from pipeline.errors import ConfigError, DataError
from pipeline.files import sha256_file
from stages.fetch import catalogue
from stages.fetch.config import CatalogueDataset, FetchConfig
from stages.fetch.identity import identity
from stages.fetch.source import Source, source_of
from stages.schema import SPLITS, RawRow
from tests.launching import CHECKOUT
from tests.unit.stages.fetch.contexts import new_context
from tests.unit.stages.fetch.published import (
    WHOLE,
    WRITERS,
    parquet,
    reddit_tifu,
    reddit_tifu_parquet,
    texts,
)

ENTRIES = catalogue.load(catalogue.packaged())


def settings(name: str, **more: Any) -> CatalogueDataset:
    return CatalogueDataset.model_validate({"source": "catalogue", "name": name, **more})


def source(tmp_path: Path, name: str, **more: Any) -> Source:
    return source_of(settings(name, **more), new_context(tmp_path / "work"))


def rows_of(found: Source) -> dict[str, list[RawRow]]:
    return {split: list(found.rows(split)) for split in SPLITS}


# --- what is in it ---


def test_the_sets_are_those_of_the_paper_and_two_more() -> None:
    assert list(ENTRIES) == ["cnn_dailymail", "gigaword", "reddit_tifu_long", "xsum", "samsum"]


@pytest.mark.parametrize("name", ENTRIES)
def test_every_set_is_pinned_to_a_commit(name: str) -> None:
    hub = ENTRIES[name].hub
    assert hub is not None and re.fullmatch("[0-9a-f]{40}", hub.revision)


def test_row_counts_are_the_published_ones() -> None:
    """Hub cards; PEGASUS' table for the splits of Reddit TIFU (42,139 posts)."""
    published = {name: entry.rows for name, entry in ENTRIES.items()}
    assert {name: tuple(dict(rows).values()) for name, rows in published.items() if rows} == {
        "cnn_dailymail": (287_113, 13_368, 11_490),
        "gigaword": (3_803_957, 189_651, 1_951),
        "xsum": (204_045, 11_332, 11_334),
        "samsum": (14_732, 818, 819),
    }
    for cut in ENTRIES["reddit_tifu_long"].cuts.values():
        assert cut.rows is not None and sum(dict(cut.rows).values()) == 42_139
        if cut.valid_from and cut.test_from:
            starts = [round(42_139 * percent / 100) for percent in (cut.valid_from, cut.test_from)]
            assert [cut.rows.train, cut.rows.train + cut.rows.valid] == starts


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"name": "cnn_dm"}, r"'cnn_dm'.*did you mean cnn_dailymail\?.*gigaword, reddit_tifu_long"),
        ({"name": "reddit_tifu_long"}, "fetch.dataset.split: .*choose one of pegasus .*hub_order"),
        ({"name": "reddit_tifu_long", "split": "80_10_10"}, "'80_10_10' is no way.*random_95_5"),
        ({"name": "xsum", "split": "pegasus"}, "has splits of its own: leave it null"),
        ({"name": "reddit_tifu_long", "split": "pegasus_ids"}, "split_ids: .*long_splits.json"),
        ({"name": "xsum", "split_ids": "x.json"}, "split_ids: is of no use"),
    ],
)
def test_a_choice_that_cannot_be_made_is_told(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        catalogue.choose(CatalogueDataset.model_validate({"source": "catalogue", **more}))


# --- one's own ---


def own(**changed: Any) -> dict[str, Any]:
    return {
        "title": "Mine",
        "homepage": "https://example.org",
        "licence": "mine",
        "citation": "none",
        "get": "Ask me.",
        "layouts": [{"files": {"train": "t.jsonl", "valid": "v.jsonl", "test": "e.jsonl"}}],
        "evaluation": {"rouge_l": "rougeL", "sentences": "lines", "limits": "none"},
        "notes": "none",
    } | changed


def write_catalogue(path: Path, **entries: Any) -> Path:
    path.write_text(yaml.safe_dump(entries), encoding="utf-8")
    return path


def test_a_catalogue_of_one_s_own_is_read(tmp_path: Path) -> None:
    for name in "tve":
        (tmp_path / f"{name}.jsonl").write_text('{"document": "d", "summary": "s"}\n')
    path = write_catalogue(
        tmp_path / "mine.yaml", mine=own(rows={"train": 1, "valid": 1, "test": 1})
    )
    found = source(tmp_path, "mine", catalogue=path, path=tmp_path)
    assert [len(rows) for rows in rows_of(found).values()] == [1, 1, 1]
    assert found.facts == {
        "dataset": "mine",
        "split_choice": "published",
        "licence": "mine",
        "citation": "none",
        "rouge_l": "rougeL",
    }
    with pytest.raises(ConfigError, match=r"mine is not on the Hub; Ask me\. Then give the folder"):
        source(tmp_path, "mine", catalogue=path)


def test_the_readme_s_entry_is_one(tmp_path: Path) -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall("```yaml\n(my_set:.*?)```", readme, re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(block, encoding="utf-8")
    row = gzip.compress(b'{"text": "d", "minutes": "s", "key": "1"}\n')
    for name in ("train-1", "dev", "test"):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(row)
    found = source(tmp_path, "my_set", catalogue=path, path=tmp_path)
    assert found.expected() == {"train": 9000, "valid": 500, "test": 500}
    assert rows_of(found)["valid"] == [RawRow("1", "d", "s", "dev.jsonl.gz:1")]


def test_every_mistake_in_a_catalogue_is_told_at_once(tmp_path: Path) -> None:
    bad_cut = {"by": "row_order", "valid_from": 90, "test_from": 80, "about": "x"}
    good_cut, rows = {**bad_cut, "test_from": 95}, {"train": 1, "valid": 1, "test": 1}
    path = write_catalogue(
        tmp_path / "mine.yaml",
        one=own(rows={"train": 0, "valid": 1, "test": 1}, licens="x"),
        two=own(cuts={"mine": bad_cut}, evaluation={"rouge_l": "L"}),
        three=own(layouts=[{"files": {"train": "a", "test": "b"}}]),
        four=own(layouts=[{"files": {"all": "a"}}]),
        five=own(both_texts=True),
        six=own(layouts=[{"files": {"all": "a"}, "cuts": ["x"]}], cuts={"y": good_cut}),
        seven=own(layouts=[own()["layouts"][0], {"files": {"all": "a"}}], cuts={"y": good_cut}),
        eight=own(layouts=[{"files": {"all": "./"}}], cuts={"y": good_cut}),
        nine=own(layouts=[{"files": {"all": "a"}, "rows": rows}], cuts={"y": good_cut}),
        ten=own(layouts=[{"files": {"all": "a"}}], rows=rows, cuts={"y": good_cut}),
        **{"2004": own(title="")},
    )
    path.write_text(path.read_text().replace("'2004':", "2004:"))
    with pytest.raises(ConfigError) as caught:
        catalogue.load(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 15 mistakes"
    for told in (
        "one.rows.train: ",
        "one.licens: ",
        "two.cuts.mine: give valid_from and test_from in percent, the former less",
        "two.evaluation.rouge_l: ",
        "two.evaluation.sentences: ",
        "two.evaluation.limits: ",
        "three.layouts.0: files: give train, valid and test, or all",
        "four: cuts: are for sets",
        "five: both_texts: is for sets that are cut",
        "six: layouts: cuts: x is not among the set's cuts",
        "seven: layouts: a set is cut or has splits",
        "eight.layouts.0: files: './' is no name or glob of files",
        "nine: rows: of a set that is cut are given with each of its cuts",
        "ten: rows: of a set that is cut",
        "2004.title: ",
    ):
        assert sum(told in line for line in lines) == 1, told


def test_a_catalogue_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fetch\.dataset\.catalogue: .* is not a file"):
        catalogue.load(tmp_path / "gone.yaml")


# --- each set as it is published ---


@pytest.mark.parametrize("name", WRITERS)
def test_a_published_layout_is_read_to_the_row(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    WRITERS[name](folder, texts())
    found = rows_of(source(tmp_path, name.partition(":")[0], path=folder))
    end = "\r\n" if name == "samsum" else " " if name == "gigaword" else "\n"
    summary_end = " " if name == "gigaword" else "\n"
    for split, expected in texts().items():
        assert [(row.document, row.summary) for row in found[split]] == [
            (document.replace("\n", end), summary.replace("\n", summary_end))
            for document, summary in expected
        ]
        assert not any(row.fault for row in found[split])
        assert len({row.id for row in found[split]}) == len({row.origin for row in found[split]})


@pytest.mark.parametrize("name", ENTRIES)
def test_a_folder_of_another_layout_says_where_the_files_are(name: str, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    more = {"split": "pegasus"} if name.startswith("reddit") else {}
    with pytest.raises(DataError) as caught:
        rows_of(source(tmp_path, name, path=tmp_path, **more))
    assert "has none of the layouts of this set" in str(caught.value)
    assert ENTRIES[name].get in str(caught.value)


def test_other_columns_may_be_named(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        parquet(tmp_path / "3.0.0" / f"{name}-0.parquet", [{"text": "d", "short": "s"}])
    columns = {"document": "text", "summary": "short"}
    found = rows_of(source(tmp_path, "cnn_dailymail", path=tmp_path, columns=columns))
    assert found["test"] == [RawRow("test-0000000", "d", "s", "test-0.parquet:1")]


@pytest.fixture
def tifu(tmp_path: Path) -> Path:
    return reddit_tifu(tmp_path)


def ids(rows: list[RawRow]) -> list[int]:
    return [int(row.id[1:]) for row in rows]


@pytest.mark.parametrize("given", ["file", "folder", "above"])
def test_reddit_in_tfds_order(tifu: Path, given: str, tmp_path: Path) -> None:
    """PEGASUS' train[:80%], train[80%:90%], train[90%:] of rows sorted by MD5 of `train` and the line."""
    path = {"file": tifu, "folder": tifu.parent, "above": tifu.parent.parent}[given]
    found = rows_of(source(tmp_path, "reddit_tifu_long", path=path, split="pegasus"))
    order = sorted(WHOLE, key=lambda line: hashlib.md5(f"train{line}".encode()).digest())
    first, second = round(0.8 * 66), round(0.9 * 66)
    assert {split: set(ids(rows)) for split, rows in found.items()} == {
        "train": set(order[:first]),
        "valid": set(order[first:second]),
        "test": set(order[second:]),
    }
    assert found["test"][0].document == f"text {ids(found['test'])[0]}"
    notes = json.loads((tmp_path / "work" / "notes.json").read_text())
    assert notes == {"rows_left_out": 34}
    left_out = pq.read_table(tmp_path / "work" / "left_out.parquet").to_pylist()
    assert [int(row["id"][1:]) for row in left_out] == sorted(set(range(100)) - set(WHOLE))
    assert left_out[0] == {
        "id": "p1",
        "origin": f"{tifu.name}:2",
        "reason": "has no document or no summary",
    }


def test_reddit_in_other_orders_is_another_split(tifu: Path, tmp_path: Path) -> None:
    cuts = {
        split: rows_of(source(tmp_path, "reddit_tifu_long", path=tifu, split=split))
        for split in ("pegasus", "hub_order", "random_95_5")
    }
    assert ids(cuts["hub_order"]["test"]) == WHOLE[round(0.9 * 66) :]
    assert [len(rows) for rows in cuts["random_95_5"].values()] == [59, 4, 3]
    for rows in cuts.values():
        assert sorted(number for split in SPLITS for number in ids(rows[split])) == WHOLE
    assert len({canonical_json(ids(rows["test"])) for rows in cuts.values()}) == 3


def test_reddit_by_published_ids(
    tifu: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = {"train": ["p0", "p2", "p1", "gone"], "validation": ["p99"], "test": ["p50", "p3"]}
    path = tmp_path / "reddit_tifu_long_splits.json"
    path.write_text(json.dumps(listed))
    found = source(tmp_path, "reddit_tifu_long", path=tifu, split="pegasus_ids", split_ids=path)
    assert {split: ids(rows) for split, rows in rows_of(found).items()} == {
        "train": [0, 2],  # 1 has no TL;DR
        "valid": [99],
        "test": [3, 50],
    }
    notes = json.loads((tmp_path / "work" / "notes.json").read_text())
    assert notes == {"listed_ids_not_found": 1, "rows_left_out": 95}
    assert "split_ids: 1 ids are not in the source: gone" in caplog.text
    left_out = pq.read_table(tmp_path / "work" / "left_out.parquet").to_pydict()
    assert left_out["id"][:3] == ["p1", "p4", "p5"]
    assert left_out["reason"][1:3] == ["has no document or no summary", "its id is in no list"]
    assert not list((tmp_path / "work").glob(".*.tmp"))
    assert found.facts["split_choice"] == "pegasus_ids"
    assert found.expected() == {"train": 33_711, "valid": 4_214, "test": 4_214}


def test_reddit_of_the_parquet_conversion_is_cut_in_its_order_alone(tmp_path: Path) -> None:
    """It has neither ids nor the posts between, by which the other ways go: they would be other splits."""
    folder = reddit_tifu_parquet(tmp_path / "branch")
    for path in (folder, folder / "long"):
        found = source(tmp_path, "reddit_tifu_long", path=path, split="hub_order")
        rows = rows_of(found)
        documents = [row.document for split in SPLITS for row in rows[split]]
        assert documents == [f"text {number}" for number in WHOLE]
        assert [len(rows[split]) for split in SPLITS] == [53, 6, 7]
    part = folder / "long" / "train" / "0000.parquet"
    whole = rows_of(source(tmp_path, "reddit_tifu_long", path=part, split="hub_order"))
    assert sum(map(len, whole.values())) == 33
    for split, more in (("pegasus", {}), ("random_95_5", {}), ("pegasus_ids", {"split_ids": part})):
        for path, place in (
            (folder, r"branch/long/train/\*\.parquet"),
            (part, r"train/0000\.parquet"),
        ):
            told = f"split: {split} cannot be told from [^*]*{place}, which allows hub_order"
            with pytest.raises(DataError, match=told):
                rows_of(source(tmp_path, "reddit_tifu_long", path=path, split=split, **more))


def test_rows_are_counted_as_the_layout_has_them(tmp_path: Path) -> None:
    """The Hub's SAMSum lacks a dialogue without text, wherever its files lie; corpus.7z has it."""
    WRITERS["samsum"](tmp_path / "csv", texts())
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"id": "1", "dialogue": "d", "summary": "s"}\n')
    counts = [
        source(work, "samsum", path=path).expected()["train"]
        for work, path in ((tmp_path / "one", tmp_path / "csv"), (tmp_path / "two", tmp_path))
    ]
    assert counts == [14_731, 14_732]


# --- identity ---


def identify(dataset: dict[str, Any]) -> dict[str, Any]:
    config = {"dataset": {"source": "catalogue", **dataset}, "model": {"source": "scratch"}}
    found: dict[str, Any] = identity(FetchConfig.model_validate(config), 1, sha256_file)["dataset"]
    canonical_json(found)
    return found


def test_identity_is_the_commit_or_the_contents(tifu: Path, tmp_path: Path) -> None:
    hub = identify({"name": "cnn_dailymail"})
    assert (hub["path"], hub["revision"][:7]) == ("abisee/cnn_dailymail", "96df5e6")
    local = identify({"name": "reddit_tifu_long", "split": "pegasus", "path": tifu})
    assert local["path"] == {"all.json.gz": sha256_file(tifu)}
    moved = tmp_path / "elsewhere" / "tifu.json.gz"
    moved.parent.mkdir()
    moved.write_bytes(tifu.read_bytes())
    assert identify({"name": "reddit_tifu_long", "split": "pegasus", "path": moved}) == local
    other = identify({"name": "reddit_tifu_long", "split": "hub_order", "path": tifu})
    assert {key for key in other if other[key] != local[key]} == {"split", "cut"}


def test_words_for_people_and_counts_are_no_part_of_it(tmp_path: Path) -> None:
    entry = own(hub={"path": "a/b", "revision": "c", "files": ["*"]})
    one = write_catalogue(tmp_path / "one.yaml", mine=entry)
    two = write_catalogue(
        tmp_path / "two.yaml",
        mine={**entry, "notes": "other", "rows": {"train": 5, "valid": 1, "test": 1}},
    )
    three = write_catalogue(
        tmp_path / "three.yaml", mine={**entry, "hub": {**entry["hub"], "revision": "d"}}
    )
    found = [
        identify({"name": "mine", "catalogue": path, "check_rows": path != two})
        for path in (one, two, three)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "change", [{"files": ["other/*"]}, {"unzip": True}, {"revision": "d"}, {"path": "a/c"}], ids=str
)
def test_what_is_downloaded_counts(change: dict[str, Any], tmp_path: Path) -> None:
    entry = own(hub={"path": "a/b", "revision": "c", "files": ["data/*"]})
    one = write_catalogue(tmp_path / "one.yaml", mine=entry)
    two = write_catalogue(tmp_path / "two.yaml", mine={**entry, "hub": {**entry["hub"], **change}})
    first, second = (identify({"name": "mine", "catalogue": path}) for path in (one, two))
    assert first != second
