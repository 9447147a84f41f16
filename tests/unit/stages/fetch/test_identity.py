"""What fetched material is identified by: contents, never paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import JSON, canonical_json
from pipeline.errors import DataError
from pipeline.files import sha256_file
from stages.fetch.config import FetchConfig
from stages.fetch.identity import identity
from stages.fetch.needs import hub_needs, local_needs


def new_dataset(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "valid", "test"):
        row = {"document": f"a {split} text", "summary": "s"}
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def new_model_folder(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def identify(
    dataset: Path | None = None, model: dict[str, Any] | None = None, seed: int = 1
) -> JSON:
    config = FetchConfig.model_validate(
        {
            "dataset": {"source": "local", "path": dataset} if dataset else {"source": "demo"},
            "model": model or {"source": "scratch"},
        }
    )
    return identity(config, seed, sha256_file)


def test_paths_are_left_out_and_hashes_are_in(tmp_path: Path) -> None:
    dataset, model = new_dataset(tmp_path / "data"), new_model_folder(tmp_path / "model")
    text = canonical_json(identify(dataset, {"source": "local", "path": model}))
    assert str(tmp_path) not in text
    for file in [*dataset.iterdir(), *model.iterdir()]:
        assert sha256_file(file) in text


def test_a_copy_elsewhere_is_the_same(tmp_path: Path) -> None:
    one, two = (
        identify(
            new_dataset(tmp_path / f"data-{name}"),
            {"source": "local", "path": new_model_folder(tmp_path / f"model-{name}")},
        )
        for name in ("one", "two")
    )
    assert one == two


def local_identity(path: Path, **more: Any) -> JSON:
    dataset = {"source": "local", "path": path, **more}
    config = FetchConfig.model_validate({"dataset": dataset, "model": {"source": "scratch"}})
    found: JSON = identity(config, 1, sha256_file)["dataset"]
    canonical_json(found)
    return found


def test_the_same_content_under_other_names_is_the_same(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path / "data")
    files = {"train": "train.jsonl", "valid": "valid.jsonl", "test": "test.jsonl"}
    before = local_identity(dataset, files=files)
    assert before == local_identity(dataset)
    moved = dataset.rename(tmp_path / "moved")
    for number, split in enumerate(files):
        (moved / f"{split}.jsonl").rename(moved / f"part-{number}.ndjson.jsonl")
    files = {split: f"part-{number}*" for number, split in enumerate(files)}
    assert local_identity(moved, files=files) == before


def test_order_and_format_of_files_count(tmp_path: Path) -> None:
    """Bytes that are read in another order, or as another format, give other rows."""
    for name, text in (("a", "one"), ("b", "two")):
        (tmp_path / f"{name}.csv").write_text(f"document,summary\n{text},s\n", encoding="utf-8")
    derive = {"valid": 0.1, "test": 0.1}
    before = local_identity(tmp_path, derive=derive)
    assert list(before["path"]) == ["all.1.csv", "all.2.csv"]
    (tmp_path / "a.csv").rename(tmp_path / "c.csv")
    assert local_identity(tmp_path, derive=derive) != before
    (tmp_path / "c.csv").rename(tmp_path / "a.tsv")
    (tmp_path / "b.csv").rename(tmp_path / "b.tsv")
    assert local_identity(tmp_path, derive=derive) != before


def test_both_files_of_a_pair_count(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for end in ("source", "target"):
            (tmp_path / f"{split}.{end}").write_text(f"{split} {end}\n", encoding="utf-8")
    before = local_identity(tmp_path)
    assert set(before["path"]) == {
        f"{split}.{end}" for split in ("train", "valid", "test") for end in ("source", "target")
    }
    (tmp_path / "valid.target").write_text("other\n", encoding="utf-8")
    assert local_identity(tmp_path) != before


@pytest.mark.parametrize(
    "more",
    [
        {"on_bad_row": "record"},
        {"max_line_bytes": 100},
        {"columns": {"document": "text"}},
        {"derive": {"valid": 0.1, "test": 0.1}},
    ],
)
def test_settings_of_reading_count(more: dict[str, Any], tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path / "data")
    assert local_identity(dataset, **more) != local_identity(dataset)


@pytest.mark.parametrize("file", ["data/valid.jsonl", "model/model.safetensors"])
def test_an_edited_file_is_another_identity(tmp_path: Path, file: str) -> None:
    dataset, model = new_dataset(tmp_path / "data"), new_model_folder(tmp_path / "model")
    before = identify(dataset, {"source": "local", "path": model})
    path = tmp_path / file
    path.write_bytes(path.read_bytes() + b"\n")
    assert identify(dataset, {"source": "local", "path": model}) != before


def test_files_that_are_not_read_do_not_count(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path / "data")
    before = identify(dataset)
    (dataset / "README.md").write_text("notes", encoding="utf-8")
    assert identify(dataset) == before


def test_bpe_files_count_by_content(tmp_path: Path) -> None:
    bpe = tmp_path / "bpe"
    bpe.mkdir()
    for name in ("encoder.json", "vocab.bpe"):
        (bpe / name).write_text("{}", encoding="utf-8")
    before = identify(model={"source": "scratch", "bpe": bpe})
    assert str(tmp_path) not in canonical_json(before)
    (bpe / "vocab.bpe").write_text("a b", encoding="utf-8")
    assert identify(model={"source": "scratch", "bpe": bpe}) != before


def test_settings_count() -> None:
    assert identify(model={"source": "scratch", "layers": 2}) != identify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "valid.jsonl").unlink(), "no file for the valid split"),
        (lambda folder: (folder / "test.csv").write_text("x"), "2 files for the test split"),
    ],
    ids=["missing", "twice"],
)
def test_a_split_needs_exactly_one_file(tmp_path: Path, change: Any, message: str) -> None:
    dataset = new_dataset(tmp_path / "data")
    change(dataset)
    with pytest.raises(DataError, match=message):
        identify(dataset)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        identify(tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, missing: str) -> None:
    model = new_model_folder(tmp_path / "model")
    (model / missing).unlink()
    with pytest.raises(DataError, match=missing.replace("model.", "[*].")):
        identify(model={"source": "local", "path": model})


def test_the_seed_counts_where_it_is_used_only(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path / "data")
    model = {"source": "local", "path": new_model_folder(tmp_path / "model")}
    assert identify(dataset, model, seed=1) == identify(dataset, model, seed=2)
    assert identify(dataset, None, seed=1) != identify(dataset, None, seed=2)
    assert identify(None, model, seed=1) != identify(None, model, seed=2)


def test_needs_are_known_before_anything_is_read(tmp_path: Path) -> None:
    hub = {"source": "hub", "path": "team/bart", "revision": "abc"}
    catalogue = {"source": "catalogue", "name": "cnn_dailymail"}
    config = FetchConfig.model_validate({"dataset": catalogue, "model": hub})
    dataset, model = hub_needs(config)
    assert dataset[:2] == ("dataset", "abisee/cnn_dailymail") and len(dataset[2]) == 40
    assert model == ("model", "team/bart", "abc")
    local_needs(config)
    elsewhere = {**catalogue, "path": str(tmp_path)}
    config = FetchConfig.model_validate({"dataset": elsewhere, "model": {"source": "scratch"}})
    assert hub_needs(config) == []
    with pytest.raises(DataError, match="none of the layouts"):
        local_needs(config)
