"""The engine against plain torch: clipping, loss scaling, updates not applied, partitioned loading."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rank_server import RankServer

pytestmark = pytest.mark.distributed

CASES = "tests.distributed.engine_cases"
STAGES = ["zero0", "zero1", "zero2", "zero3"]
PROFILES = [*STAGES, "zero2_offload", "zero3_offload"]
PRECISIONS = ["fp32", "bf16", "fp16"]
BAD = 9
"""Number of the batch whose loss is made infinite or not a number."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankServer]:
    with RankServer(CASES) as server:
        yield server


@pytest.fixture(scope="module")
def oracle(ranks: RankServer) -> dict[str, dict[str, Any]]:
    return {
        precision: ranks.run(1, f"{CASES}:plain", precision=precision)[0]
        for precision in PRECISIONS
    }


def train(ranks: RankServer, profile: str, precision: str, **settings: Any) -> dict[str, Any]:
    """What two ranks found in training, once both agree on it."""
    first, second = ranks.run(2, f"{CASES}:train", profile=profile, precision=precision, **settings)
    for agreed in ("weights", "norms", "applied", "scales"):
        assert first[agreed] == second[agreed], agreed
    result: dict[str, Any] = first
    return result


def largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    assert found["weights"].keys() == expected["weights"].keys()
    return max(
        abs(a - b)
        for name, values in expected["weights"].items()
        for a, b in zip(found["weights"][name], values, strict=True)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_clipped_step_is_plain_torch_s(
    profile: str, precision: str, ranks: RankServer, oracle: dict[str, dict[str, Any]]
) -> None:
    found, expected = train(ranks, profile, precision), oracle[precision]
    assert min(expected["norms"]) > 1.0  # so that the bound of 0.5 matters
    assert found["norms"] == pytest.approx(
        expected["norms"], rel=2e-6 if precision == "fp32" else 2e-3
    )
    assert largest_difference(found, expected) < (1e-6 if precision == "fp32" else 1e-4)
    assert found["applied"] == [True] * 4
    assert found["scales"] == [65536.0 if precision == "fp16" else 1.0] * 4
    assert found["parameters"] == sum(map(len, expected["weights"].values()))


@pytest.mark.parametrize("profile", STAGES)
def test_the_norm_is_known_without_clipping(profile: str, ranks: RankServer) -> None:
    for precision in ("fp32", "fp16"):
        (expected,) = ranks.run(
            1, f"{CASES}:plain", precision=precision, clip_norm=0.0, data=[0, 1]
        )
        found = train(ranks, profile, precision, clip_norm=0.0, data=[0, 1])
        assert found["norms"] == pytest.approx(expected["norms"], rel=2e-3)
        assert largest_difference(found, expected) < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("profile", PROFILES)
def test_an_update_that_is_not_finite_is_dropped(
    profile: str, precision: str, ranks: RankServer
) -> None:
    bad = {"data": [0, BAD, 1, 2], "factors": {str(BAD): math.inf}}
    found = train(ranks, profile, precision, **bad)
    (expected,) = ranks.run(1, f"{CASES}:plain", precision=precision, **bad)
    assert found["applied"] == [True, False, True, True]
    assert found["norms"][1] == math.inf
    assert largest_difference(found, expected) < 1e-4
    assert found["scales"] == ([65536.0] + [32768.0] * 3 if precision == "fp16" else [1.0] * 4)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("factor", [math.nan, 1.0])
def test_a_discarded_update_leaves_no_trace(factor: float, profile: str, ranks: RankServer) -> None:
    clean = train(ranks, profile, "fp16", data=[0, 1, 2])
    found = train(
        ranks, profile, "fp16", data=[0, BAD, 1, 2], factors={str(BAD): factor}, discarded=[BAD]
    )
    assert found["weights"] == clean["weights"]
    assert found["norms"] == [clean["norms"][0], math.inf, *clean["norms"][1:]]
    assert found["scales"] == [65536.0] * 4


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_nothing_travels_in_16_bits(stage: int, ranks: RankServer, tmp_path: Path) -> None:
    sharding = {"stage": stage}
    if stage == 3:
        sharding["stage3_param_persistence_threshold"] = 0  # gather even the smallest
    profile = tmp_path / "mine.json"
    profile.write_text(json.dumps({"zero_optimization": sharding}), encoding="utf-8")
    found = ranks.run(2, f"{CASES}:travelling", profile=profile, precision="bf16")
    assert found == [{"weight": False, "gradient": False}] * 2


def test_partitioned_loading_changes_memory_and_nothing_else(
    ranks: RankServer, tmp_path: Path
) -> None:
    folder = tmp_path / "bart"
    (total,) = ranks.run(1, f"{CASES}:make_bart", folder=folder)
    case = {"folder": folder, "profile": "zero3"}
    whole = ranks.run(2, f"{CASES}:bart", is_partitioned=False, **case)
    partitioned = ranks.run(2, f"{CASES}:bart", is_partitioned=True, **case)
    for found, expected in zip(partitioned, whole, strict=True):
        assert expected["held"] == expected["parameters"] == found["parameters"] == total
        assert found["held"] < 0.52 * total
        assert found["weights"] == expected["weights"]
        assert found["groups"] == expected["groups"]
        assert found["decay"] == [0.01, 0.0]
        assert set(found["groups"][1]) == set(expected["one_dimensional"])
    (alone,) = ranks.run(1, f"{CASES}:bart", is_partitioned=True, folder=folder, profile="zero2")
    assert alone["held"] == total  # only ZeRO-3 partitions parameters
