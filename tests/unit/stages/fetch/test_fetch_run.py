"""The fetch stage: rows and model in the run directory, whole or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BartForConditionalGeneration, BertConfig

from pipeline.distributed.world import World
from pipeline.errors import DataError, Preempted
from pipeline.files import record_tree
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, StageContext
from stages.fetch.config import FetchConfig
from stages.fetch.run import run
from stages.schema import RawRow, read_jsonl

torch.set_num_threads(1)

SCRATCH = {"source": "scratch", "vocab_size": 300, "d_model": 16, "layers": 1, "heads": 2}
SMALL = {**SCRATCH, "ffn": 16, "max_positions": 32}
DEMO = {"source": "demo", "train_rows": 12, "valid_rows": 2, "test_rows": 3}


def new_context(work: Path, stop: StopFlag | None = None) -> StageContext:
    work.mkdir(parents=True, exist_ok=True)
    execution = Execution(processes=1, threads=1, ds_profile=Path("zero0.json"))
    progress = Progress("fetch", None, console=False)
    stop = stop or StopFlag()
    return StageContext({}, work, 1, World(), execution, stop, progress, guard=lambda: None)


def settings(dataset: dict[str, Any], model: dict[str, Any]) -> FetchConfig:
    return FetchConfig.model_validate({"dataset": dataset, "model": model})


def local(folder: Path, **splits: str) -> dict[str, Any]:
    """A local dataset of one row a split; a keyword gives a split's text instead."""
    folder.mkdir()
    for split in ("train", "valid", "test"):
        row = json.dumps({"document": f"a {split} text", "summary": "s"}) + "\n"
        (folder / f"{split}.jsonl").write_text(splits.get(split, row), encoding="utf-8")
    return {"source": "local", "path": folder}


def test_demo_rows_and_a_new_model_are_brought(tmp_path: Path) -> None:
    metrics = run(settings(DEMO, SMALL), new_context(tmp_path / "work"))
    assert [metrics[f"rows_{split}"] for split in ("train", "valid", "test")] == [12, 2, 3]
    assert metrics["max_positions"] == 32
    rows = list(read_jsonl(tmp_path / "work" / "raw" / "train.jsonl", RawRow))
    assert len({row.document for row in rows}) == 12
    folder = tmp_path / "work" / "model"
    model = BartForConditionalGeneration.from_pretrained(folder)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(folder))
    assert model.config.vocab_size == metrics["vocabulary_size"]


def test_two_runs_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(settings(DEMO, SMALL), new_context(tmp_path / name))
    assert record_tree(tmp_path / "one") == record_tree(tmp_path / "two")


def test_a_rerun_keeps_what_is_whole(tmp_path: Path) -> None:
    context = new_context(tmp_path / "work")
    metrics = run(settings(DEMO, SMALL), context)
    before = record_tree(tmp_path / "work")
    (tmp_path / "work" / "raw" / "valid.jsonl").unlink()
    (tmp_path / "work" / "model").rename(tmp_path / "work" / "model.partial")  # not published yet
    assert run(settings(DEMO, SMALL), context) == metrics
    assert record_tree(tmp_path / "work") == before


def test_local_rows_keep_their_origin(tmp_path: Path) -> None:
    run(settings(local(tmp_path / "data"), SMALL), new_context(tmp_path / "work"))
    (row,) = read_jsonl(tmp_path / "work" / "raw" / "valid.jsonl", RawRow)
    assert row == RawRow("valid-0000000", "a valid text", "s", "valid.jsonl:1")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_an_empty_split_is_refused(tmp_path: Path, split: str) -> None:
    dataset = local(tmp_path / "data", **{split: "\n"})
    for _ in range(2):  # a rerun must not take the empty file for work done
        with pytest.raises(DataError, match=f"{split} split is empty"):
            run(settings(dataset, SMALL), new_context(tmp_path / "work"))


def test_a_local_model_is_copied_as_it_is(tmp_path: Path) -> None:
    run(settings(DEMO, SMALL), new_context(tmp_path / "first"))
    folder = tmp_path / "first" / "model"
    run(
        settings(DEMO, {"source": "local", "path": folder}),
        new_context(tmp_path / "second"),
    )
    assert record_tree(tmp_path / "second" / "model") == record_tree(folder)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    BertConfig(hidden_size=8, num_attention_heads=1).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="bert model; only bart"):
        run(settings(DEMO, {"source": "local", "path": folder}), new_context(tmp_path / "work"))


def test_a_stop_is_heard(tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request("SIGTERM")
    with pytest.raises(Preempted, match="SIGTERM"):
        run(settings(DEMO, SMALL), new_context(tmp_path / "work", stop))
