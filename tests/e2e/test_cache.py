"""clean and encode taken from a cache: by content alone, and a miss that says what is another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.files import read_json, record_tree
from stages import text_rules
from stages.clean import cleaned
from stages.fetch import run as fetch_run
from stages.fetch import source
from stages.fetch.local_rows import Found
from tests.conftest import Answer, CommandLine
from tests.launching import TINY

pytestmark = pytest.mark.e2e

torch.set_num_threads(1)

RULES = "clean.rules=[space_period]"


def new_dataset(folder: Path, names: dict[str, str], changed: str = "") -> dict[str, Any]:
    """Write a few rows a split, one of training with other words; gives the setting that reads them."""
    folder.mkdir()
    for split, name in names.items():
        rows = [
            {"document": f"The {split}  story of {n} words{changed}.", "summary": f"Story {n}."}
            for n in range(4)
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        changed = ""
    return {"source": "local", "path": str(folder), "files": names}


NAMES = {split: f"{split}.jsonl" for split in ("train", "valid", "test")}


class Group:
    """People who share a cache."""

    def __init__(self, sumpipe: CommandLine, root: Path) -> None:
        self._sumpipe = sumpipe
        self.root = root

    def __call__(self, command: str, name: str, dataset: dict[str, Any], *more: str) -> Answer:
        """Run or plan up to encode, in a run directory of this name."""
        place = ("--run-dir", self.root / name, "--cache-dir", self.root / "cache")
        settings = (f"fetch.dataset={json.dumps(dataset)}", RULES, *more)
        options = [option for setting in settings for option in ("--set", setting)]
        end = ("--to", "encode") if command == "run" else ()
        answer = self._sumpipe(command, TINY, *place, *end, *options)
        assert answer.code == 0, answer.err
        return answer

    def made(self, name: str) -> dict[str, Any]:
        """Bytes of clean and encode."""
        return {
            f"{stage}/{file}": record
            for stage in ("clean", "encode")
            for file, record in record_tree(self.root / name / stage).items()
        }


@pytest.fixture
def group(sumpipe: CommandLine, tmp_path: Path) -> Group:
    return Group(sumpipe, tmp_path)


def taken(told: str) -> list[bool]:
    """Tell whether a run took clean, and encode, from the cache."""
    return [f"{stage:8s} is linked from the cache" in told for stage in ("clean", "encode")]


def why(planned: str) -> list[str]:
    """What a plan says of clean and encode."""
    return [line for line in planned.splitlines() if line.startswith(("clean ", "encode "))]


def test_content_is_found_again_under_other_names_and_nothing_else_is(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = new_dataset(tmp_path / "data", NAMES)
    group("run", "model", dataset)
    model = tmp_path / "bart"
    (tmp_path / "model" / "fetch" / "model").rename(model)
    own = f"fetch.model={{source: local, path: {model}}}"
    first = group("run", "first", dataset, own)
    assert taken(first.err) == [False, False]

    moved = new_dataset(tmp_path / "moved", {s: f"{s}-of-mine.jsonl" for s in NAMES})
    planned = why(group("plan", "second", moved, own).out)
    assert [line.partition("in the cache, ")[2] for line in planned] == [
        "if fetch brings the same",
        "if fetch and clean bring the same",
    ]
    assert taken(group("run", "second", moved, own).err) == [True, True]
    assert group.made("second") == group.made("first")
    assert not (tmp_path / "first" / ".claims").exists()

    other = new_dataset(tmp_path / "other", NAMES, changed="!")
    for line in why(group("plan", "third", other, own).out):
        assert "nearest entry differs in fetch.config.dataset.path.train.jsonl " in line
    assert taken(group("run", "third", other, own).err) == [False, False]

    with monkeypatch.context() as patched:
        rule = text_rules.RULES["space_period"]
        newer = rule._replace(version=rule.version + 1)
        patched.setitem(text_rules.RULES, "space_period", newer)
        for line in why(group("plan", "fourth", dataset, own).out):
            assert "differs in clean.config.rule_versions.space_period 1 -> 2" in line
        assert taken(group("run", "fourth", dataset, own).err) == [False, False]

    tokenizer = model / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\n")
    for line in why(group("plan", "fifth", dataset, own).out):
        assert "differs in fetch.config.model.path.tokenizer.json " in line
    assert taken(group("run", "fifth", dataset, own).err) == [False, False]


def test_a_branch_that_moved_is_other_content(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe says `main` both times; what it stands for has one row more."""
    dataset = {"source": "hub", "path": "team/set", "revision": "main"}

    def publish(commit: str, rows: int) -> None:
        def hub_rows(_: object, split: str, __: str, ___: Path) -> Iterator[Found]:
            for number in range(rows):
                text = f"Words {number} of {split}"
                yield Found("team/set", f"{split}:{number}", {"document": text, "summary": "S."})

        monkeypatch.setattr(source, "commit_of", lambda *_: commit)
        monkeypatch.setattr(source, "hub_rows", hub_rows)

    publish("a" * 40, 4)
    group("run", "first", dataset)
    assert taken(group("run", "same", dataset).err) == [True, True]
    publish("b" * 40, 5)
    moved = group("run", "moved", dataset)
    assert taken(moved.err) == [False, False]
    assert "fetch.content.content_train" in moved.err
    for run, rows in (("first", 4), ("moved", 5)):
        manifest = read_json(tmp_path / run / "clean" / "manifest.json")
        assert manifest["metrics"]["rows_kept_train"] == rows


def test_a_tokenizer_of_another_library_is_other_content(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = new_dataset(tmp_path / "data", NAMES)
    group("run", "first", dataset)
    train = fetch_run.train_bpe

    def another(texts: Iterator[str], vocab_size: int, folder: Path) -> Any:
        return train((text.upper() for text in texts), vocab_size, folder)

    monkeypatch.setattr(fetch_run, "train_bpe", another)
    second = group("run", "second", dataset)
    assert taken(second.err) == [False, False]
    assert "fetch.content.content_model" in second.err


def test_encode_is_not_taken_where_clean_kept_other_rows(
    group: Group, sumpipe: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one who made clean without the cache, by other tables of Unicode: the fingerprint is the same."""
    dataset = new_dataset(tmp_path / "data", NAMES)
    group("run", "first", dataset)
    with monkeypatch.context() as patched:
        patched.setattr(cleaned, "clean_text", lambda text, *_: text_rules.CleanText(text[1:], ()))
        sets = ("--set", f"fetch.dataset={json.dumps(dataset)}", "--set", RULES)
        alone = sumpipe("run", TINY, "--run-dir", tmp_path / "second", "--to", "clean", *sets)
        assert alone.code == 0, alone.err
    told = "made otherwise: clean.content.content_test"
    assert f"in the cache, but {told}" in why(group("plan", "second", dataset).out)[1]
    assert f"was {told}" in group("run", "second", dataset).err
    made = read_json(tmp_path / "second" / "encode" / "manifest.json")["metrics"]
    assert made["rows_train"] == 4 and group.made("second") != group.made("first")
