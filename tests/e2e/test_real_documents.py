"""The pipeline on real text, shortened in training only: every document comes out at its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

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


@pytest.mark.parametrize("name", ["cnndm", "gigaword1k", "reddit_tifu_long"])
def test_every_real_document_is_accounted_for(name: str, tmp_path: Path) -> None:
    folder, run_dir = real_set(name), tmp_path / "run"
    source = ("--set", f"fetch.dataset.path={folder}")
    done = sumpipe("run", "small", "--run-dir", run_dir, "--processes", 2, *source, *SHORT)
    assert done.returncode == 0, done.stderr
    for split in ("train", "valid", "test"):
        text = (folder / f"{split}.jsonl").read_text(encoding="utf-8")
        ids = [str(json.loads(line)["id"]) for line in text.split("\n") if line]
        ledger = pq.read_table(run_dir / "clean" / "ledger" / f"{split}.parquet")
        assert ledger["id"].to_pylist() == ids
        kept = [
            id_ for id_, outcome in zip(ids, ledger["outcome"].to_pylist(), strict=True)
            if outcome == "kept"
        ]  # fmt: skip
    predictions = (run_dir / "generate" / "predictions.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["id"] for line in predictions.split("\n") if line] == kept
    references = (run_dir / "fetch" / "raw" / "test.jsonl").read_text(encoding="utf-8")
    wanted = (folder / "test.jsonl").read_text(encoding="utf-8")
    for found, given in zip(references.split("\n"), wanted.split("\n"), strict=True):
        if given:
            assert json.loads(found)["summary"] == json.loads(given)["summary"]
