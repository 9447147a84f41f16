"""The drill on this machine: everything is stopped and killed for real, and comes out as undisturbed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.drill import CHECKPOINT_EVERY, EXERCISES
from tests.launching import sumpipe

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.slow]

QUICK = {f"stop in {stage}" for stage in ("fetch", "clean", "encode", "export", "score", "report")}
"""Stages of a moment, which a busy machine may finish before it delivers a signal."""


@pytest.mark.timeout(700)
def test_the_drill_passes_here(tmp_path: Path) -> None:
    folder = tmp_path / "drill"
    done = sumpipe(
        "drill", "--dir", folder, "--processes", "2", "--json", timeout=690
    )  # alone it takes less than 4 minutes
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((folder / "drill.json").read_text(encoding="utf-8"))
    assert (report["passed"], report["ranks"], report["fewer_ranks"]) == (True, 2, 1)
    found = {item["disturbance"]: item for item in report["disturbances"]}
    assert found.keys() == {item.name for one in EXERCISES for item in one.disturbances}
    assert {name for name, item in found.items() if item["status"] != "passed"} <= QUICK
    lost = {name: item["updates_lost"] for name, item in found.items() if "in training" in name}
    assert set(lost.values()) == {0}
    # The checkpoint that was being written is gone, and the one before it holds.
    assert found["SIGKILL inside a checkpoint"]["updates_lost"] == CHECKPOINT_EVERY
    assert "losses of 27 records bit for bit" in found["SIGKILL of a rank"]["compared"]
    assert all(item["seconds_to_resume"] > 0 for name, item in found.items() if name not in QUICK)
