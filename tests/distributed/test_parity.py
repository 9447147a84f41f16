"""The same updates at every ZeRO stage, on any number of processes, under any launcher."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launching import TINY, by_deepspeed, by_hand, by_torchrun, copy_run, losses, sumpipe

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("parity") / "prepared"
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--to", "encode")
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.fixture(scope="module")
def reference(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks at ZeRO-2, started by the `deepspeed` launcher."""
    run_dir = copy_run(prepared, tmp_path_factory.mktemp("deepspeed") / "run")
    done = by_deepspeed(run_dir, "zero2", 2)
    assert done.returncode == 0, done.stderr
    return run_dir


def largest_difference(run_dir: Path, reference: Path) -> float:
    found, expected = losses(run_dir), losses(reference)
    assert len(found) == len(expected) == 20
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def test_losses_fall(reference: Path) -> None:
    found = losses(reference)
    assert found[-1] < 0.9 * found[0]


def test_torchrun_gives_the_same_losses(prepared: Path, reference: Path, tmp_path: Path) -> None:
    run_dir = copy_run(prepared, tmp_path / "run")
    done = by_torchrun(run_dir, "zero2", 2)
    assert done.returncode == 0, done.stderr
    assert losses(run_dir) == losses(reference)


def test_plain_variables_give_the_same_losses(
    prepared: Path, reference: Path, tmp_path: Path
) -> None:
    run_dir = copy_run(prepared, tmp_path / "run")
    ranks = by_hand(run_dir, "zero2", 2)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr
    assert losses(run_dir) == losses(reference)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["zero0", "zero1", "zero3"])
def test_zero_stages_agree(profile: str, prepared: Path, reference: Path, tmp_path: Path) -> None:
    run_dir = copy_run(prepared, tmp_path / "run")
    ranks = by_hand(run_dir, profile, 2)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr
    assert largest_difference(run_dir, reference) <= 2e-6


def test_one_process_agrees_with_two(prepared: Path, reference: Path, tmp_path: Path) -> None:
    run_dir = copy_run(prepared, tmp_path / "run")
    (rank,) = by_hand(run_dir, "zero2", 1)
    assert rank.returncode == 0, rank.stderr
    assert largest_difference(run_dir, reference) <= 2e-5


def test_bf16_follows_fp32(prepared: Path, reference: Path, tmp_path: Path) -> None:
    run_dir = copy_run(prepared, tmp_path / "run")
    changed = ("--set", "finetune.precision=bf16")
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--to", "encode", *changed)
    assert "nothing was run" in done.stdout
    (rank,) = by_hand(run_dir, "zero2", 1)
    assert rank.returncode == 0, rank.stderr
    assert 0 < largest_difference(run_dir, reference) <= 5e-2
