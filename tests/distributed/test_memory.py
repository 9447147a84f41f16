"""The forecast of memory by ZeRO stage, against every storage that ranks hold while they train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stages.finetune.memory import CPU, Shape, Sharding, device_memory, host_bytes
from stages.finetune.sizes import BartSizes
from tests.distributed.memory_cases import SIZES, SLOTS, settings
from tests.rank_server import RankServer

pytestmark = pytest.mark.distributed

SMALL = Shape(2, 8, 4)
"""AdamW's step, or the reduction before it, takes more than its activations."""
LARGE = Shape(6, 100, 30)
"""Its activations take most."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankServer]:
    with RankServer("tests.distributed.memory_cases") as server:
        yield server


def profile(stage: int, offload: bool = False) -> dict[str, Any]:
    sizes = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
    zero: dict[str, Any] = {"stage": stage, **dict.fromkeys(sizes, 500_000)}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        return {"zero_optimization": zero, "zero_force_ds_cpu_optimizer": False}
    return {"zero_optimization": zero}


def measured(
    ranks: RankServer, size: int, given: dict[str, Any], precision: str
) -> dict[Shape, int]:
    """Return what the busiest rank held at most, for each shape."""
    function, shapes = "tests.distributed.memory_cases:peaks", [SMALL, LARGE]
    plain = [list(shape) for shape in shapes]
    found = ranks.run(size, function, profile=given, precision=precision, shapes=plain)
    return {shape: max(rank[i] for rank in found) for i, shape in enumerate(shapes)}


@pytest.mark.parametrize(
    ("stage", "size", "precision"),
    [
        *((stage, 2, "fp32") for stage in (0, 2)),
        (3, 2, "bf16"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *((1, 2, "fp32"), (3, 2, "fp32"), (2, 2, "bf16")),
                *((2, 1, "fp32"), (3, 1, "bf16")),
            )
        ),
    ],
)
def test_the_peak_is_what_the_busiest_rank_holds(
    stage: int, size: int, precision: str, ranks: RankServer
) -> None:
    given, sizes = profile(stage), BartSizes(**SIZES)
    sharding = Sharding.of_profile(given, size, SLOTS)
    for shape, held in measured(ranks, size, given, precision).items():
        predicted = device_memory(sizes, shape, settings(precision), sharding, CPU).peak
        # A little more, at ZeRO-2: new gradients come while activations go.
        assert 0.95 * held < predicted < 1.1 * held, shape


def test_what_is_offloaded_is_held_on_the_host(ranks: RankServer) -> None:
    """On a CPU both are the same memory, so their sum is what can be seen."""
    given, sizes = profile(2, offload=True), BartSizes(**SIZES)
    held = measured(ranks, 2, given, "fp32")[LARGE]
    sharding = Sharding.of_profile(given, 2, SLOTS)
    on_device = device_memory(sizes, LARGE, settings("fp32"), sharding, CPU).peak
    assert on_device + host_bytes(sizes, sharding) == pytest.approx(held, rel=0.1)
