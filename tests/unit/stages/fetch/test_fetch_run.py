"""The fetch stage: rows and model in the run directory, whole or refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, BartForConditionalGeneration, BertConfig

from pipeline.errors import DataError, Preempted, RunDirInUse
from pipeline.files import record_tree
from pipeline.preemption import StopFlag
from stages.fetch import run as fetch_run
from stages.fetch.catalogue import packaged
from stages.fetch.config import FetchConfig
from stages.fetch.run import run
from stages.schema import RawRow, read_shards, write_shards
from tests.conftest import CommandLine
from tests.privileges import modes_respected
from tests.unit.stages.fetch.contexts import new_context

torch.set_num_threads(1)

SCRATCH = {"source": "scratch", "vocab_size": 300, "d_model": 16, "layers": 1, "heads": 2}
SMALL = {**SCRATCH, "ffn": 16, "max_positions": 32}
DEMO = {"source": "demo", "train_rows": 12, "valid_rows": 2, "test_rows": 3}


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
    rows = list(read_shards(tmp_path / "work" / "raw" / "train", RawRow))
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
    shutil.rmtree(tmp_path / "work" / "raw" / "valid")
    leftovers = [tmp_path / "work" / ".model.0.tmp", tmp_path / "work" / "raw" / ".valid.0.tmp"]
    (tmp_path / "work" / "model").rename(leftovers[0])  # not published yet
    leftovers[1].mkdir()
    (tmp_path / "work" / ".left_out.parquet.0.tmp").touch()
    assert run(settings(DEMO, SMALL), context) == metrics
    assert record_tree(tmp_path / "work") == before


def test_local_rows_keep_their_origin(tmp_path: Path) -> None:
    run(settings(local(tmp_path / "data"), SMALL), new_context(tmp_path / "work"))
    (row,) = read_shards(tmp_path / "work" / "raw" / "valid", RawRow)
    assert row == RawRow("valid-0000000", "a valid text", "s", "valid.jsonl:1")


def test_what_is_not_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = local(tmp_path / "data")
    assert "files_not_read" not in run(settings(dataset, SMALL), new_context(tmp_path / "one"))
    (tmp_path / "data" / "old").mkdir()
    (tmp_path / "data" / os.fsdecode(b"caf\xe9.md")).touch()
    metrics = run(settings(dataset, SMALL), new_context(tmp_path / "two"))
    assert metrics["files_not_read"] == r"caf\udce9.md, old"
    assert f"not read: {metrics['files_not_read']}" in caplog.text


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


@pytest.mark.parametrize(
    ("split", "kept", "told"),
    [
        ("train", [], r"(?<!kept, )train begins anew"),
        ("valid", ["train"], "splits before valid are kept, valid begins anew"),
    ],
)
def test_a_stop_is_heard_within_a_split_and_the_splits_before_it_are_kept(
    split: str, kept: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, read = StopFlag(), []

    def jsonable(row: RawRow) -> dict[str, object]:
        read.append(row.id)
        if len(read) == 3:
            stop.request("SIGTERM")
        return asdict(row)

    dataset = local(tmp_path / "data", **{"train": GOOD, split: GOOD * 5})
    monkeypatch.setattr("stages.schema.asdict", jsonable)
    context = new_context(tmp_path / "work", stop)
    with pytest.raises(Preempted, match=told):
        run(settings(dataset, SMALL), context)
    assert len(read) < 6
    assert [path.name for path in (context.work / "raw").iterdir()] == kept
    assert (context.progress.latest or {}).get("done", 0) == len(kept)


BAD = '{"document": 5, "summary": "s"}\n'
GOOD = '{"document": "d", "summary": "s"}\n'


def test_unreadable_rows_are_kept_and_counted(tmp_path: Path) -> None:
    dataset = {**local(tmp_path / "data", train=GOOD + BAD + GOOD + BAD), "on_bad_row": "record"}
    metrics = run(settings(dataset, SMALL), new_context(tmp_path / "work"))
    assert [metrics[f"rows_{split}"] for split in ("train", "valid", "test")] == [4, 1, 1]
    assert [metrics[f"rows_unreadable_{split}"] for split in ("train", "valid", "test")] == [
        2,
        0,
        0,
    ]
    rows = list(read_shards(tmp_path / "work" / "raw" / "train", RawRow))
    assert [bool(row.fault) for row in rows] == [False, True, False, True]
    assert metrics["dataset"] == "local" and metrics["split_choice"] == "as given"


def test_a_split_without_one_row_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    """A column mapped wrongly makes every row a bad one; that is no data."""
    dataset = {**local(tmp_path / "data", valid=BAD * 3), "on_bad_row": "record"}
    with pytest.raises(
        DataError, match=r"valid split has no row.*valid\.jsonl:1: column 'document'"
    ):
        run(settings(dataset, SMALL), new_context(tmp_path / "work"))


def test_one_source_is_cut_to_the_row(tmp_path: Path) -> None:
    """Every row is in one split, equal documents in the same; the choice can be found again."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"document": f"Text {number % 70}", "summary": f"s{number}"} for number in range(200)]
    for name, part in (("a", rows[:120]), ("b", rows[120:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    dataset = {"source": "local", "path": folder, "derive": {"valid": 0.2, "test": 0.2}}
    metrics = run(settings(dataset, SMALL), new_context(tmp_path / "work"))
    raw = {
        split: list(read_shards(tmp_path / "work" / "raw" / split, RawRow))
        for split in ("train", "valid", "test")
    }
    assert sum(metrics[f"rows_{split}"] for split in raw) == 200 and metrics["rows_left_out"] == 0
    assert sorted(row.summary for rows in raw.values() for row in rows) == sorted(
        str(row["summary"]) for row in rows
    )
    assert len({row.id for rows in raw.values() for row in rows}) == 200
    documents = [{row.document for row in rows} for rows in raw.values()]
    assert sum(map(len, documents)) == 70 == len(set.union(*documents))
    assert metrics["split_choice"] == "derived by document: valid 0.2, test 0.2, seed 1"


def catalogue(folder: Path, **rows: int) -> dict[str, Any]:
    """Three files of Gigaword's layout, and a catalogue that says how many rows they should have."""
    folder.mkdir()
    entry = yaml.safe_load(packaged().read_text(encoding="utf-8"))["gigaword"]
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"mine": {**entry, "rows": rows}}), encoding="utf-8")
    for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        for end in ("src", "tgt"):
            (folder / f"{name}.{end}.txt").write_text(f"{split}\n" * 2, encoding="utf-8")
    return {"source": "catalogue", "name": "mine", "catalogue": path, "path": folder}


def test_other_counts_than_the_published_are_an_error_or_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = catalogue(tmp_path / "data", train=2, valid=3000, test=2)
    told = "the valid split has 2 rows, the catalogue says 3,000"
    for _ in range(2):  # also where the rows are there already
        with pytest.raises(DataError, match=f"{told}.*check_rows=false"):
            run(settings(dataset, SMALL), new_context(tmp_path / "work"))
    metrics = run(settings({**dataset, "check_rows": False}, SMALL), new_context(tmp_path / "work"))
    assert metrics["rows_valid"] == 2
    assert told in caplog.text
    assert (metrics["dataset"], metrics["split_choice"]) == ("mine", "published")


def test_a_restart_does_not_ask_for_files_whose_rows_are_there(tmp_path: Path) -> None:
    """Those of the Hub would be downloaded, compared and unpacked once more, or could not be had."""
    dataset = catalogue(tmp_path / "data", train=2, valid=2, test=2)
    metrics = run(settings(dataset, SMALL), new_context(tmp_path / "work"))
    shutil.rmtree(tmp_path / "work" / "model")
    for path in (tmp_path / "data").glob("*.txt"):
        path.unlink()
    assert run(settings(dataset, SMALL), new_context(tmp_path / "work")) == metrics
    changed = yaml.safe_load(dataset["catalogue"].read_text(encoding="utf-8"))
    changed["mine"]["rows"]["test"] = 3
    dataset["catalogue"].write_text(yaml.safe_dump(changed), encoding="utf-8")
    with pytest.raises(DataError, match="test split has 2 rows, the catalogue says 3:"):
        run(settings(dataset, SMALL), new_context(tmp_path / "work"))


class Killed(BaseException):
    """In place of SIGKILL: nothing handles it."""


def superseded(work: Path, after: list[bool]) -> Any:
    """A context whose process has lost the run once something is in `after`."""

    def guard() -> None:
        if after:
            raise RunDirInUse("lost")

    return dataclasses.replace(new_context(work), guard=guard)


def test_a_superseded_process_publishes_nothing_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is paused as it copies the model, its successor killed as it does: the third finds no half one."""
    work, lost = tmp_path / "work", list[bool]()
    run(settings(DEMO, SMALL), new_context(tmp_path / "first"))
    model = tmp_path / "first" / "model"
    config = settings(DEMO, {"source": "local", "path": model})
    copyfile = shutil.copyfile

    def killed(source: Path, target: Path) -> None:
        Path(target).write_bytes(source.read_bytes()[:10])
        raise Killed

    def paused(source: Path, target: Path) -> None:
        if not lost:
            lost.append(True)
            monkeypatch.setattr(shutil, "copyfile", killed)
            with pytest.raises(Killed):
                run(config, new_context(work))
            monkeypatch.setattr(shutil, "copyfile", paused)
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", paused)
    with pytest.raises((RunDirInUse, FileNotFoundError)):
        run(config, superseded(work, lost))
    assert not (work / "model").exists()
    run(config, new_context(work))
    assert record_tree(work / "model") == record_tree(model)
    assert not [*work.rglob("*.tmp")]


def test_a_superseded_process_leaves_the_download_to_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = list[bool]()

    def half_there(_: object, __: str, target: Path) -> None:
        (target / ".cache").mkdir(parents=True)
        lost.append(True)

    monkeypatch.setattr(fetch_run, "commit_of", lambda *_: "0" * 40)
    monkeypatch.setattr(fetch_run, "hub_model", half_there)
    model = {"source": "hub", "path": "team/bart", "revision": "main"}
    with pytest.raises(RunDirInUse):
        run(settings(DEMO, model), superseded(tmp_path, lost))
    assert (tmp_path / "download" / "model" / ".cache").is_dir()
    assert not (tmp_path / "model").exists()


def test_a_superseded_process_publishes_no_rows(tmp_path: Path) -> None:
    def rows(text: str) -> Iterator[RawRow]:
        for number in range(3):
            yield RawRow(f"{number}", text, "s", "a:1")

    def paused() -> Iterator[RawRow]:
        yield from rows("older")
        write_shards(tmp_path / "train", rows("newer"))
        lost.append(True)

    lost = list[bool]()
    with pytest.raises(RunDirInUse):
        write_shards(tmp_path / "train", paused(), superseded(tmp_path, lost).guard)
    with pytest.raises(RunDirInUse):
        write_shards(tmp_path / "valid", rows("older"), superseded(tmp_path, lost).guard)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    assert {row.document for row in read_shards(tmp_path / "train", RawRow)} == {"newer"}


def test_content_is_of_rows_and_model_whatever_the_files_are_called(tmp_path: Path) -> None:
    def content(name: str, dataset: dict[str, Any], model: dict[str, Any] = SMALL) -> list[str]:
        metrics = run(settings(dataset, model), new_context(tmp_path / name))
        return [metrics[f"content_{part}"] for part in ("train", "valid", "test", "model")]

    dataset = local(tmp_path / "data")
    first = content("first", dataset)
    names = {split: f"{split}-0.jsonl" for split in ("train", "valid", "test")}
    for split, name in names.items():
        (tmp_path / "data" / f"{split}.jsonl").rename(tmp_path / "data" / name)
    assert content("renamed", {**dataset, "files": names}) == first
    path = tmp_path / "data" / names["valid"]
    path.write_text(path.read_text(encoding="utf-8").replace("text", "tent"), encoding="utf-8")
    changed = content("changed", {**dataset, "files": names}, {**SMALL, "layers": 2})
    assert [one == other for one, other in zip(first, changed, strict=True)] == [
        *(True, False, True),
        False,
    ]


@pytest.mark.parametrize("name", ["data/train.jsonl", "model/model.safetensors"])
def test_a_file_that_may_not_be_read_is_named(
    name: str, sumpipe: CommandLine, tmp_path: Path
) -> None:
    dataset = local(tmp_path / "data")
    run(settings(dataset, SMALL), new_context(tmp_path / "work"))
    (tmp_path / "work" / "model").rename(tmp_path / "model")
    file = tmp_path / name
    file.chmod(0)
    sources = {"data": dataset["path"], "model": tmp_path / "model"}
    given = (
        *("--set", f"fetch.dataset={{source: local, path: {sources['data']}}}"),
        *("--set", f"fetch.model={{source: local, path: {sources['model']}}}"),
    )
    with modes_respected():
        refused = sumpipe("run", "small", "--run-dir", tmp_path / "run", "--to", "fetch", *given)
    assert refused.code == 1
    assert f"{file}: cannot be read (Permission denied); let this user read it" in refused.err
    assert "--run-dir" not in refused.err
