"""The same update has the same gradient on any number of ranks, at every ZeRO stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.rank_server import RankServer

CASES = "tests.distributed.gradient_cases"

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(
    "sizes", [(1, 2, 4), pytest.param((1, 3, 6), marks=pytest.mark.slow)], ids=str
)
def test_gradients_depend_neither_on_ranks_nor_on_zero_stage(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    """Six lanes of ragged targets, R3F and dropout on; on four ranks two repeat a lane for nothing."""
    with RankServer(CASES) as ranks:
        ranks.run(1, f"{CASES}:make_bart", folder=tmp_path / "model")
        losses = {
            size: ranks.run(size, f"{CASES}:gradients", model=tmp_path / "model", folder=tmp_path)
            for size in sizes
        }
    expected = torch.load(tmp_path / "stage0_ranks1.pt")
    assert len(expected) > 50
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    loss = losses[1][0]["0"]
    for size in sizes:
        for stage in range(4):
            assert losses[size][0][str(stage)] == pytest.approx(loss, rel=1e-6)
            found = torch.load(tmp_path / f"stage{stage}_ranks{size}.pt")
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                difference = float((found[name] - gradient).abs().max())
                assert difference < 1e-5 * largest, (
                    size,
                    stage,
                    name,
                )
