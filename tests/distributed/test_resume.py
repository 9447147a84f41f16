"""Killed and resumed, on the same ranks or on others: the same training as if nothing had happened."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.distributed.checkpoint import newest_valid
from pipeline.distributed.zero import full_state
from stages.finetune.metrics_log import without_clock
from tests.distributed.training_cases import Fault
from tests.launching import TINY, copy_run, sumpipe
from tests.rank_server import KILLED, RankServer

CASES = "tests.distributed.resume_cases"
UPDATES = 28
SETTINGS = [
    f"updates={UPDATES}",
    *("batch.lanes=6", "batch.lane_tokens=440"),
    *("log_every=3", "checkpoint_every=4", "validate_every=14"),
]

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that fine-tuning needs."""
    run_dir = tmp_path_factory.mktemp("encoded") / "run"
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--to", "encode")
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankServer]:
    with RankServer(CASES) as server:
        yield server


class Training:
    """A copy of the run, trained in one launch or several."""

    def __init__(self, ranks: RankServer, encoded: Path, folder: Path, **settings: Any) -> None:
        self._ranks, self._settings = ranks, settings
        self.run_dir = copy_run(encoded, folder)
        self.rows = folder.with_name(f"{folder.name}.rows")
        self.rows.mkdir()

    def launch(self, size: int, **fault: Any) -> list[dict[str, Any]]:
        """Run or resume on `size` ranks."""
        return self._ranks.results(
            size,
            f"{CASES}:finetune",
            run_dir=self.run_dir,
            rows_folder=self.rows,
            **{**self._settings, **fault},
        )

    def finish(self, size: int) -> None:
        """Run or resume to the end."""
        answers = self.launch(size)
        assert [a["result"]["code"] if "result" in a else a["error"] for a in answers] == [0] * size

    def records(self) -> list[dict[str, float]]:
        """The metrics, without what a clock says."""
        text = (self.run_dir / "finetune" / "metrics.jsonl").read_text(encoding="utf-8")
        return without_clock(map(json.loads, text.splitlines()))

    def weights(self) -> dict[str, torch.Tensor]:
        """The last checkpoint's weights."""
        found = newest_valid(self.run_dir / "finetune" / "checkpoints")
        assert found is not None and found.update == UPDATES
        return full_state(found.folder)


@pytest.mark.parametrize(
    ("stage", "precision"),
    [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (0, "bf16"), (3, "bf16")],
)
def test_three_kills_leave_no_trace(
    stage: int, precision: str, ranks: RankServer, encoded: Path, tmp_path: Path
) -> None:
    """SIGKILL of one rank at two random updates, and of one inside a save; two ranks."""
    settings = {"settings": [*SETTINGS, f"precision={precision}"], "profile": f"zero{stage}"}
    straight = Training(ranks, encoded, tmp_path / "straight", **settings)
    straight.finish(2)
    killed = Training(ranks, encoded, tmp_path / "killed", **settings)
    chance = random.Random(f"{stage}{precision}")
    first, second = chance.randint(2, 10), chance.randint(21, 27)
    kill: Fault = "kill"
    for fault in (
        {"moment": f"update {first}", "fault": kill, "on_rank": chance.randint(0, 1)},
        {"kill_in_save": (chance.choice((12, 16, 20)), 0 if stage == 0 else chance.randint(0, 1))},
        {"moment": f"update {second}", "fault": kill, "on_rank": chance.randint(0, 1)},
    ):
        answers = killed.launch(2, **fault)
        assert {"result": KILLED} in answers, (fault, answers)
    killed.finish(2)
    assert killed.records() == straight.records()
    found, wanted = killed.weights(), straight.weights()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("stage", "precision", "bound"),
    [(1, "fp32", 2e-5), (2, "fp32", 2e-5), (3, "fp32", 2e-5), (3, "bf16", 1e-3)],
)
def test_other_numbers_of_ranks_go_on_as_if_nothing_had_happened(
    stage: int, precision: str, bound: float, ranks: RankServer, encoded: Path, tmp_path: Path
) -> None:
    """Two ranks, then one, then three: the losses of two ranks throughout, each row once an epoch."""
    settings = {"settings": [*SETTINGS, f"precision={precision}"], "profile": f"zero{stage}"}
    straight = Training(ranks, encoded, tmp_path / "straight", **settings)
    straight.finish(2)
    moved = Training(ranks, encoded, tmp_path / "moved", **settings)
    for size, moment in ((2, "update 9"), (1, "update 18")):
        for answer in moved.launch(size, moment=moment):
            assert answer["result"]["code"] == 75, answer
    moved.finish(3)
    for found, wanted in zip(moved.records(), straight.records(), strict=True):
        assert found.keys() == wanted.keys()
        for name in ("loss", "valid/nll"):
            if name in wanted:
                assert found[name] == pytest.approx(wanted[name], abs=bound), (found, wanted)
    seen: dict[int, Counter[str]] = {}
    updates: Counter[int] = Counter()
    for file in moved.rows.glob("rows-*.jsonl"):
        size, rank = map(int, file.stem.split("-")[1:])
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            seen.setdefault(record["epoch"], Counter()).update(record["ids"])
            updates[record["update"]] += rank == 0
    assert updates == Counter(range(UPDATES))
    whole = seen[0]
    assert len(whole) == 240 and set(whole.values()) == {1}
    assert all(max(counts.values()) == 1 for counts in seen.values())
