"""The Hub's loading code, on local files: `datasets` reads a folder as it reads a repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import DataError
from stages.fetch.config import Columns, HubDataset, HubModel
from stages.fetch.hub import commit_of, hub_rows
from stages.fetch.rows import checked_rows
from stages.schema import RawRow


def repository(folder: Path, rows: list[dict[str, object]]) -> HubDataset:
    """A dataset folder with the Hub's usual split names and the columns article, highlights, id."""
    folder.mkdir()
    for split in ("train", "validation", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    columns = Columns(document="article", summary="highlights")
    return HubDataset(source="hub", path=str(folder), revision="0" * 40, columns=columns)


def read(dataset: HubDataset, split: str, cache: Path) -> list[RawRow]:
    return list(
        checked_rows(
            lambda: hub_rows(dataset, split, dataset.revision, cache),
            split,
            dataset.columns,
            dataset.on_bad_row,
        )
    )


def row(number: int, **changed: object) -> dict[str, object]:
    return {
        "article": f"text {number}",
        "highlights": f"short {number}",
        "id": str(number),
    } | changed


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_rows_come_in_order_with_mapped_columns(split: str, tmp_path: Path) -> None:
    dataset = repository(tmp_path / "data", [row(0), row(1)])
    assert read(dataset, split, tmp_path / "cache") == [
        RawRow("0", "text 0", "short 0", f"{split}:1"),
        RawRow("1", "text 1", "short 1", f"{split}:2"),
    ]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([row(0), row(0)], "given before"),
        ([row(0, article=["a", "b"])], "expected text"),
        ([{"text": "a", "highlights": "b"}], "columns here: text, highlights"),
    ],
)
def test_bad_rows_are_named(rows: list[dict[str, object]], told: str, tmp_path: Path) -> None:
    dataset = repository(tmp_path / "data", rows)
    with pytest.raises(DataError, match=told):
        read(dataset, "test", tmp_path / "cache")


def test_a_missing_split_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    dataset = repository(tmp_path / "data", [row(0)])
    (tmp_path / "data" / "test.jsonl").unlink()
    with pytest.raises(DataError, match="split test"):
        read(dataset, "test", tmp_path / "cache")


def test_a_model_that_cannot_be_reached_is_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = HubModel(source="hub", path="nobody/nothing", revision="0" * 40)
    with pytest.raises(DataError, match=r"nobody/nothing.*--only fetch"):
        commit_of("model", model.path, model.revision)
