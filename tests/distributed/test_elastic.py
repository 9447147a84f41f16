"""A checkpoint of so many ranks, continued on another number of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.distributed import storage
from tests.rank_server import RankServer

pytestmark = pytest.mark.distributed

CASES = "tests.distributed.checkpoint_cases"
TOLERANCE = {"fp32": 2e-5, "bf16": 1e-3, "fp16": 1e-3}


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankServer]:
    with RankServer(CASES) as server:
        yield server


def session(
    ranks: RankServer, size: int, root: Path, profile: str, **settings: Any
) -> dict[str, Any]:
    """What a session left on rank 0, with the losses of all ranks added."""
    found = ranks.run(size, f"{CASES}:session", root=root, profile=profile, **settings)
    assert len({answer["start"] for answer in found}) == 1
    losses = [sum(shares) for shares in zip(*(answer["losses"] for answer in found), strict=True)]
    return {**found[0], "losses": losses}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize(
    ("profile", "precision"),
    [
        *(("zero0", "fp32"), ("zero1", "fp32"), ("zero2", "fp32"), ("zero3", "fp32")),
        *(
            pytest.param(f"zero{stage}", precision, marks=pytest.mark.slow)
            for stage, precision in (
                *((1, "bf16"), (2, "bf16"), (3, "bf16")),
                *((0, "fp16"), (1, "fp16"), (3, "fp16")),
            )
        ),
    ],
)
def test_two_one_three_ranks_are_two(
    profile: str, precision: str, ranks: RankServer, tmp_path: Path
) -> None:
    case = {"profile": profile, "precision": precision, "overflow": 1}
    straight = session(ranks, 2, tmp_path / "straight", until=6, **case)
    losses, root = [], tmp_path / "run"
    for size, until in ((2, 2), (1, 4), (3, 6)):
        found = session(ranks, size, root, until=until, **case)
        assert found["start"] == len(losses)
        losses += found["losses"]
    assert losses == pytest.approx(straight["losses"], abs=TOLERANCE[precision])
    assert found["scale"] == straight["scale"] == (32768.0 if precision == "fp16" else 1.0)
    assert names(root) == ["newest", "update_00000005", "update_00000006"]
    for name, values in straight["weights"].items():
        assert found["weights"][name] == pytest.approx(values, abs=10 * TOLERANCE[precision])


@pytest.mark.parametrize(
    ("profile", "precision"),
    [("zero1", "fp32"), ("zero2", "bf16"), ("zero3", "fp32"), ("zero3", "fp16")],
)
def test_the_universal_form_holds_the_same_bits(
    profile: str, precision: str, ranks: RankServer, tmp_path: Path
) -> None:
    case = {"root": tmp_path / "run", "profile": profile, "precision": precision}
    ranks.run(2, f"{CASES}:session", until=2, overflow=0, **case)
    rigid = ranks.run(2, f"{CASES}:restored", is_universal=False, **case)
    universal = ranks.run(2, f"{CASES}:restored", is_universal=True, **case)
    assert universal == rigid
    assert rigid[0]["decay"] == [0.0, 0.01]


def test_zero_1_and_2_carry_each_other(ranks: RankServer, tmp_path: Path) -> None:
    straight = session(ranks, 2, tmp_path / "straight", "zero2", until=4)
    first = session(ranks, 2, tmp_path / "run", "zero2", until=2)
    second = session(ranks, 2, tmp_path / "run", "zero1", until=3)  # as it is
    third = session(ranks, 1, tmp_path / "run", "zero2", until=4)  # converted
    losses = first["losses"] + second["losses"] + third["losses"]
    assert losses == pytest.approx(straight["losses"], abs=2e-5)


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_offloading_may_come_and_go(stage: str, ranks: RankServer, tmp_path: Path) -> None:
    straight = session(ranks, 2, tmp_path / "straight", stage, until=4, overflow=2)
    first = session(ranks, 2, tmp_path / "run", stage, until=1, overflow=2)
    second = session(ranks, 2, tmp_path / "run", f"{stage}_offload", until=3, overflow=2)
    third = session(ranks, 1, tmp_path / "run", f"{stage}_offload", until=4)
    assert (second["start"], third["start"]) == (1, 3)
    losses = first["losses"] + second["losses"] + third["losses"]
    assert losses == pytest.approx(straight["losses"], abs=2e-5)


@pytest.mark.parametrize(
    ("before", "after", "size", "way_out"),
    [
        *(("zero2", "zero3", 1, "zero1 or zero2"), ("zero0", "zero1", 2, "zero0")),
        ("zero3", "zero0", 1, "zero3"),
    ],
)
def test_another_family_is_refused_with_the_way_out(
    before: str, after: str, size: int, way_out: str, ranks: RankServer, tmp_path: Path
) -> None:
    session(ranks, 2, tmp_path / "run", before, until=1)
    for answer in ranks.results(size, f"{CASES}:session", root=tmp_path / "run", profile=after):
        told = answer["error"].splitlines()[-1]
        assert "CheckpointError" in told
        assert f"was written at ZeRO-{before[-1]}; ZeRO-{after[-1]} cannot read it" in told
        assert f"Continue with --ds-config {way_out}, or start training anew" in told
    assert names(tmp_path / "run") == ["newest", "update_00000001"]


@pytest.mark.parametrize(
    ("asked", "is_for_all"), [(0, False), (1, False), (0, True)], ids=["rank 0", "rank 1", "all"]
)
def test_a_stop_ends_a_conversion(
    asked: int, is_for_all: bool, ranks: RankServer, tmp_path: Path
) -> None:
    root, converter = tmp_path / "run", tmp_path / "converter"
    session(ranks, 3, root, "zero2", until=1)
    converter.write_text('#!/bin/sh\necho $$ > "$0.pid"\nexec sleep 600\n', encoding="ascii")
    converter.chmod(0o755)
    case = {"root": root, "profile": "zero2", "converter": converter}
    started = time.monotonic()
    for found in ranks.run(
        2, f"{CASES}:stopped_converting", asked=asked, is_for_all=is_for_all, **case
    ):
        assert found["told"].startswith("Preempted: stopped by ")
        assert found["left"] == ["newest", "update_00000001"]
    assert time.monotonic() - started < 30
    assert not psutil.pid_exists(int((tmp_path / "converter.pid").read_text(encoding="ascii")))
    assert session(ranks, 2, root, "zero2", until=2)["start"] == 1


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("profile", ["zero1", "zero3"])
def test_the_room_for_a_conversion_is_known_in_advance(
    profile: str, size: int, ranks: RankServer, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    foretold = ranks.run(size, f"{CASES}:sizes", root=root, profile=profile, precision="fp32")[0][
        "conversion"
    ]
    converter = [
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"),
        *("--input_folder", str(root / "update_00000001" / "state")),
        *("--output_folder", str(tmp_path / "universal"), "--keep_temp_folder"),
        *("--num_extract_workers", "1", "--num_merge_workers", "1"),
    ]
    subprocess.run(converter, check=True, capture_output=True)
    later = sum(path.stat().st_size for path in (tmp_path / "universal").glob("*model_states.pt"))
    assert 0.95 * foretold < storage.tree_bytes(tmp_path / "universal") - later < foretold


def test_a_conversion_without_room_is_refused_on_all_ranks(
    ranks: RankServer, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    session(ranks, 3, root, "zero2", until=1)
    for told in ranks.run(2, f"{CASES}:short_of_room", root=root, profile="zero2"):
        assert told.startswith("StorageError: ")
        assert "converting this checkpoint" in told
        assert "continue with --processes 3" in told
    assert names(root) == ["newest", "update_00000001"]


def test_a_conversion_is_made_once_and_mended(ranks: RankServer, tmp_path: Path) -> None:
    root = tmp_path / "run"
    session(ranks, 2, root, "zero3", until=2)
    before = session(ranks, 1, root, "zero3", until=2)  # nothing to train: only loads
    universal = root / "update_00000002.universal"
    made = (universal / "commit.json").stat().st_mtime_ns
    assert session(ranks, 3, root, "zero3", until=2)["weights"] == before["weights"]
    assert (universal / "commit.json").stat().st_mtime_ns == made
    victim = max(universal.rglob("*.pt"), key=lambda path: path.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)
    (root / "update_00000002.universal.partial").mkdir()  # what a killed conversion leaves
    assert session(ranks, 1, root, "zero3", until=2)["weights"] == before["weights"]
    assert (universal / "commit.json").stat().st_mtime_ns > made
    session(ranks, 1, root, "zero3", until=3)
    assert names(root) == ["newest", "update_00000002", "update_00000003"]
    assert session(ranks, 1, root, "zero3", until=3)["start"] == 3
