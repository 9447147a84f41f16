"""The pipeline on real text, shortened in training only: every document comes out at its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.schema import RawRow, read_shards
from tests.launching import sumpipe

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SHORT = (
    *("--set", "finetune.updates=12", "--set", "finetune.schedule.warmup_updates=2"),
    *("--set", "generate.num_beams=1", "--set", "generate.max_length=24"),
)


def real_set(name: str) -> Path:
    root = os.environ.get("SUMPIPE_TEST_DATA")
    if root is None:
        pytest.skip("SUMPIPE_TEST_DATA is not set: no real documents")
    return Path(root) / name


def kept_ids(folder: Path, run_dir: Path, split: str) -> list[str]:
    """Return the ids of the rows that clean kept, once its ledger is found to have every row in its place."""
    text = (folder / f"{split}.jsonl").read_text(encoding="utf-8")
    ids = [str(json.loads(line)["id"]) for line in text.split("\n") if line]
    ledger = pq.read_table(run_dir / "clean" / "ledger" / split)
    assert ledger["id"].to_pylist() == ids
    outcomes = ledger["outcome"].to_pylist()
    return [id_ for id_, outcome in zip(ids, outcomes, strict=True) if outcome == "kept"]


def test_every_real_document_is_accounted_for(tmp_path: Path) -> None:
    folder, run_dir = real_set("cnndm"), tmp_path / "run"
    source = ("--set", f"fetch.dataset.path={folder}")
    done = sumpipe("run", "small", "--run-dir", run_dir, "--processes", 2, *source, *SHORT)
    assert done.returncode == 0, done.stderr
    kept = [kept_ids(folder, run_dir, split) for split in ("train", "valid", "test")][-1]
    predictions = (run_dir / "generate" / "predictions.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["id"] for line in predictions.split("\n") if line] == kept
    references = [row.summary for row in read_shards(run_dir / "fetch" / "raw" / "test", RawRow)]
    wanted = (folder / "test.jsonl").read_text(encoding="utf-8").split("\n")
    assert references == [json.loads(line)["summary"] for line in wanted if line]


@pytest.mark.parametrize("name", ["giga_like", "gigaword1k", "reddit_tifu_long", "reddit_tldr"])
def test_every_real_row_is_cleaned_and_encoded(name: str, tmp_path: Path) -> None:
    folder, run_dir = real_set(name), tmp_path / "run"
    source = ("--set", f"fetch.dataset.path={folder}")
    done = sumpipe(
        "run", "small", "--run-dir", run_dir, "--processes", 2, *source, "--to", "encode"
    )
    assert done.returncode == 0, done.stderr
    for split in ("train", "valid", "test"):
        encoded = [
            id_
            for path in sorted((run_dir / "encode" / split).glob("*.arrow"))
            for id_ in pa.ipc.open_file(pa.memory_map(str(path))).read_all()["id"].to_pylist()
        ]
        assert encoded == kept_ids(folder, run_dir, split)
