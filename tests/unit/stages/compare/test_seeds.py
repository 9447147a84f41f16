"""Several seeds of one recipe: their spread in place of tests."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from stages.compare.folders import compare_folders
from tests.unit.stages.compare.scored_folders import write_run, write_scores

MEANS = {1: 0.2, 2: 0.5, 3: 0.3, 4: 0.35}


def run(root: Path, mean: float, **more: Any) -> Path:
    return write_run(root, {"model": {"rouge1": [mean - 0.1, mean + 0.1]}}, **more)


def runs(root: Path) -> list[Path]:
    return [run(root / f"seed-{seed}", mean, seed=seed) for seed, mean in MEANS.items()]


def test_runs_that_differ_in_their_seed_only_show_their_spread(tmp_path: Path) -> None:
    found = compare_folders(runs(tmp_path))
    one = found.spreads[0]
    values = list(MEANS.values())
    assert (one.metric, one.runs) == ("rouge1", 4)
    assert one.mean == pytest.approx(statistics.fmean(values))
    assert one.deviation == pytest.approx(statistics.stdev(values))
    assert (one.low, one.median, one.high) == pytest.approx((0.2, 0.325, 0.5))
    assert found.pairs == ()
    assert [system.seed for system in found.systems] == [1, 2, 3, 4]
    assert any("differ in their seed only" in note for note in found.notes)


def test_pairs_of_seeds_can_be_asked_for(tmp_path: Path) -> None:
    found = compare_folders(runs(tmp_path)[:2], as_seeds=False)
    assert len(found.pairs) == 1
    assert found.pairs[0].settings == ()
    assert found.spreads == ()


def test_runs_that_differ_in_more_are_tested_unless_asked_otherwise(tmp_path: Path) -> None:
    pair = [run(tmp_path / "a", 0.2), run(tmp_path / "b", 0.3, seed=2, settings={"lr": 3e-5})]
    assert compare_folders(pair).pairs
    found = compare_folders(pair, as_seeds=True)
    assert found.spreads[0].runs == 2
    assert "But they differ in more: finetune.lr 1e-05 -> 3e-05." in found.notes


def test_runs_of_one_seed_are_tested(tmp_path: Path) -> None:
    assert compare_folders([run(tmp_path / "a", 0.2), run(tmp_path / "b", 0.3)]).pairs
    three = [run(tmp_path / f"{n}", 0.2, seed=seed) for n, seed in enumerate((1, 2, 1))]
    assert len(compare_folders(three).pairs) == 2


def test_what_a_run_no_longer_knows_is_told_and_not_guessed(tmp_path: Path) -> None:
    first, second, *_ = runs(tmp_path)
    shutil.rmtree(second / "finetune")
    found = compare_folders([first, second])
    assert found.pairs  # whether only the seed differs is not known
    assert f"{second}: the settings of finetune are not known" in " ".join(found.notes)


def test_bare_folders_can_be_taken_for_seeds(tmp_path: Path) -> None:
    folders = [
        write_scores(tmp_path / str(seed), {"model": {"rouge1": [mean, mean]}})
        for seed, mean in MEANS.items()
    ]
    assert compare_folders(folders).pairs
    assert compare_folders(folders, as_seeds=True).spreads[0].high == pytest.approx(0.5)
