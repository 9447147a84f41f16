"""Checkpoints under real faults: killed ranks, damaged files, sick and full storage, absent ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import JSON
from pipeline.distributed import checkpoint, storage
from pipeline.errors import StorageError
from pipeline.files import write_json
from tests.launching import CHECKOUT, environment
from tests.namespaces import require_unshare
from tests.rank_server import KILLED, RankServer

pytestmark = pytest.mark.distributed

CASES = "tests.distributed.checkpoint_cases"


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankServer]:
    with RankServer(CASES) as server:
        yield server


@pytest.fixture(scope="module")
def straight(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks at ZeRO-2 have after 4 updates in one go."""
    root = tmp_path_factory.mktemp("straight")
    return session(ranks, root, "zero2", until=4)


def session(ranks: RankServer, root: Path, profile: str, **settings: Any) -> dict[str, Any]:
    first, second = ranks.run(2, f"{CASES}:session", root=root, profile=profile, **settings)
    for agreed in ("start", "notes", "scale", "weights"):
        assert first[agreed] == second[agreed], agreed
    result: dict[str, Any] = first
    return result


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def largest_file(folder: Path) -> Path:
    return max(folder.rglob("*.pt"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(p, marks=pytest.mark.slow) for p in ("bf16", "fp16"))]
)
@pytest.mark.parametrize("profile", ["zero0", "zero1", "zero2", "zero3"])
def test_resumed_is_straight_to_the_bit(
    profile: str, precision: str, ranks: RankServer, tmp_path: Path
) -> None:
    case = {"profile": profile, "precision": precision, "overflow": 1}
    expected = session(ranks, tmp_path / "straight", until=4, **case)
    session(ranks, tmp_path / "run", until=2, **case)
    found = session(ranks, tmp_path / "run", until=4, **case)
    assert found["start"] == 2
    assert found["notes"] == {"seen": 20}
    assert found["weights"] == expected["weights"]
    assert found["losses"] == expected["losses"][2:]
    assert found["scale"] == expected["scale"] == (32768.0 if precision == "fp16" else 1.0)


def test_rotation_keeps_the_newest_and_the_named(ranks: RankServer, tmp_path: Path) -> None:
    session(ranks, tmp_path / "run", "zero1", until=4, keep=2, also_keep=[1])
    kept = ["update_00000001", "update_00000003", "update_00000004"]
    assert names(tmp_path / "run") == ["newest", *kept]
    assert (tmp_path / "run" / "newest").read_text(encoding="utf-8") == "update_00000004\n"


def test_rotation_keeps_what_was_just_saved_beside_newer_damaged_ones(
    ranks: RankServer, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    session(ranks, root, "zero1", until=3, keep=3)
    for update in (2, 3):
        os.truncate(largest_file(root / f"update_0000000{update}"), 10)
    assert session(ranks, root, "zero1", until=2, keep=1)["start"] == 1
    assert names(root) == ["newest", "update_00000002", "update_00000003"]
    assert session(ranks, root, "zero1", until=2)["start"] == 2


@pytest.mark.parametrize(
    ("phase", "victim"),
    [
        *(("enter", 0), ("enter", 1), ("write", 0), ("write", 1), ("hash", 0), ("hash", 1)),
        *(("record", 0), ("rename", 0), ("pointer", 0), ("rotate", 0)),  # what rank 0 alone does
    ],
)
def test_killed_in_any_phase_of_a_save(
    phase: str, victim: int, ranks: RankServer, straight: dict[str, Any], tmp_path: Path
) -> None:
    case = {"root": tmp_path / "run", "profile": "zero2"}
    found = ranks.results(2, f"{CASES}:killed", phase=phase, victim=victim, at=3, until=4, **case)
    assert found[victim] == {"result": KILLED}
    assert "error" in found[1 - victim]
    is_committed = phase in ("pointer", "rotate")
    assert (tmp_path / "run" / "update_00000003").is_dir() == is_committed
    again = session(ranks, tmp_path / "run", "zero2", until=4)
    assert again["start"] == (3 if is_committed else 2)
    assert again["weights"] == straight["weights"]
    assert names(tmp_path / "run") == ["newest", "update_00000003", "update_00000004"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "unrecorded"])
@pytest.mark.parametrize("of_rank", [0, 1])
def test_a_damaged_checkpoint_is_passed_over_by_all(
    of_rank: int, damage: str, ranks: RankServer, straight: dict[str, Any], tmp_path: Path
) -> None:
    from tests.distributed.checkpoint_cases import flip_bit

    session(ranks, tmp_path / "run", "zero2", until=3)
    newest = tmp_path / "run" / "update_00000003"
    victim = next(newest.rglob(f"zero_pp_rank_{of_rank}_*optim_states.pt"))
    if damage == "truncated":
        os.truncate(victim, victim.stat().st_size // 2)
    elif damage == "flipped":
        flip_bit(victim)
    elif damage == "missing":
        victim.unlink()
    else:
        (newest / "commit.json").unlink()
    found = session(ranks, tmp_path / "run", "zero2", until=4)
    assert found["start"] == 2
    assert found["weights"] == straight["weights"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *(({"update": None}, "has no 'update'"), ({"world_size": None}, "has no 'world_size'")),
        *(({"zero_stage": None}, "has no 'zero_stage'"), ({"files": None}, "has no 'files'")),
        *(({"update": "2"}, "update is '2'"), ({"zero_stage": True}, "zero_stage is True")),
        ({"files": ["a"]}, "has no attribute 'items'"),
    ],
)
def test_an_incomplete_record_is_a_fault(change: JSON, told: str, tmp_path: Path) -> None:
    record = {"update": 2, "world_size": 1, "zero_stage": 1, "notes": None, "files": {}}
    folders = [tmp_path / checkpoint.folder_name(update) for update in (1, 2)]
    for folder in folders:
        folder.mkdir()
    write_json(folders[0] / "commit.json", {**record, "update": 1})
    changed = {name: value for name, value in (record | change).items() if value is not None}
    write_json(folders[1] / "commit.json", changed)
    fault, found = checkpoint.inspect(folders[1])
    assert found is None
    assert fault.startswith(f"{folders[1] / 'commit.json'}: ")
    assert told in fault
    assert checkpoint.newest_valid(tmp_path) == checkpoint.Checkpoint(folders[0], 1, 1, 1)


@pytest.mark.parametrize("is_late", [True, False])
def test_a_commit_waits_for_a_file_that_a_network_shows_late(
    is_late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.2)
    partial, final = tmp_path / "update_00000001.partial", tmp_path / "update_00000001"
    partial.mkdir()
    record = {"update": 1, "files": {"part": {"bytes": 4, "sha256": ""}}}
    if not is_late:
        with pytest.raises(StorageError, match=r"part: is missing; run the same command again"):
            checkpoint.seal(partial, final, record, guard=lambda: None)
        return
    timer = threading.Timer(0.05, (partial / "part").write_bytes, [b"here"])
    timer.start()
    checkpoint.seal(partial, final, record, guard=lambda: None)
    timer.join()
    assert names(final) == ["commit.json", "part"]


def test_none_whole_is_an_error_on_every_rank(ranks: RankServer, tmp_path: Path) -> None:
    session(ranks, tmp_path / "run", "zero2", until=2)
    for folder in (tmp_path / "run").glob("update_*"):
        os.truncate(largest_file(folder), 10)
    found = ranks.results(2, f"{CASES}:session", root=tmp_path / "run", profile="zero2")
    for answer in found:
        assert "CheckpointError: no usable checkpoint" in answer["error"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_write_that_fails_once_is_tried_again(
    victim: int, ranks: RankServer, tmp_path: Path
) -> None:
    case = {"root": tmp_path / "run", "profile": "zero2", "victim": victim}
    for found in ranks.run(2, f"{CASES}:failing_writes", failures=1, **case):
        assert found["told"][::2] == ["saved"] * 3
        assert found["told"][-1] == "newest,update_00000002,update_00000003"


@pytest.mark.parametrize(("profile", "victim"), [("zero0", 0), ("zero2", 1), ("zero3", 1)])
def test_a_write_that_fails_for_good_is_known_to_all(
    profile: str, victim: int, ranks: RankServer, tmp_path: Path
) -> None:
    case = {"root": tmp_path / "run", "profile": profile, "victim": victim}
    for found in ranks.run(2, f"{CASES}:failing_writes", failures=100, **case):
        first, _, second, left, third, at_last = found["told"]
        assert (first, third) == ("saved", "saved")
        assert second.startswith("StorageError: ")
        assert "Input/output error" in second
        assert left == "newest,update_00000001"
        assert at_last == "newest,update_00000001,update_00000003"


@pytest.mark.parametrize(("fault", "told"), [("flipped", "other bytes"), ("garbage", "be loaded")])
def test_the_first_save_is_read_back(
    fault: str, told: str, ranks: RankServer, tmp_path: Path
) -> None:
    found = ranks.run(
        2, f"{CASES}:bad_storage", root=tmp_path / "run", profile="zero3", fault=fault
    )
    assert found[0] == found[1]
    assert found[0].startswith("StorageError: ")
    assert "zero_pp_rank_1" in found[0]
    assert told in found[0]
    assert names(tmp_path / "run") == []


def test_a_rank_that_never_saves_is_named(ranks: RankServer, tmp_path: Path) -> None:
    told, _ = ranks.run(2, f"{CASES}:absent", root=tmp_path / "run", profile="zero2")
    assert told.startswith("LaunchError: ")
    assert "saving the checkpoint of update 1: rank 1 did not come to it within 2 s" in told


def test_a_run_that_was_taken_over_commits_nothing(ranks: RankServer, tmp_path: Path) -> None:
    for found in ranks.run(2, f"{CASES}:taken_over", root=tmp_path / "run", profile="zero2"):
        assert found == {"told": "RunDirInUse: another process holds it", "whole": []}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("profile", ["zero0", "zero1", "zero2", "zero3"])
def test_the_size_is_known_in_advance(
    profile: str, precision: str, ranks: RankServer, tmp_path: Path
) -> None:
    case = {"root": tmp_path / "run", "profile": profile, "precision": precision}
    found = ranks.run(2, f"{CASES}:sizes", **case)[0]
    assert found["parameters"] == 12 * 289 * 290
    assert found["foretold"] == pytest.approx(found["found"], rel=0.02)


FULL_DISK = """
mount -t tmpfs -o size=400k tmpfs "$1"
exec "$2" -m tests.distributed.full_disk "$1/run"
"""


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    require_unshare("--mount")
    done = subprocess.run(
        ["unshare", "-m", "bash", "-euc", FULL_DISK, "script", str(disk), sys.executable],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=CHECKOUT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for told in found["told"]:
        assert told.startswith("StorageError: ")
        assert "disk is full" in told
    assert found["left"] == found["before"]
    assert found["start_afterwards"] == found["last_whole"]
