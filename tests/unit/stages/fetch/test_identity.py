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
