"""What a run directory says of itself."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import lease
from pipeline.artifact import RunDir
from pipeline.claim import LEASE_SECONDS
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED, EXIT_USAGE, ConfigError
from pipeline.files import read_json, write_json
from pipeline.provenance import utc
from pipeline.status import run_state, show_state
from tests.conftest import CommandLine
from tests.fakes.toy_stages import snapshot, start


@pytest.fixture
def run_dir(toy: CommandLine, toy_recipe: Path, tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    assert toy("run", toy_recipe, "--run-dir", run_dir.root).code == EXIT_DONE
    return run_dir


def states(run_dir: RunDir, *, deep: bool = False) -> dict[str, Any]:
    return {item["stage"]: item for item in run_state("abc", run_dir.root, deep=deep)["stages"]}


def test_finished_stages_are_done_with_their_metrics(run_dir: RunDir) -> None:
    found = states(run_dir, deep=True)
    assert [item["state"] for item in found.values()] == ["done"] * 3
    assert found["c"]["metrics"] == {"total": 12.0}
    size = sum(path.stat().st_size for path in run_dir.committed("b").rglob("*.*"))
    manifest = run_dir.committed("b") / "manifest.json"
    assert found["b"]["bytes"] == size - manifest.stat().st_size


def test_a_stopped_stage_shows_how_far_it_came(toy_recipe: Path, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    with start("run", toy_recipe, "--run-dir", run_dir.root, "--set", "b.stop_after=2") as process:
        process.communicate(timeout=120)
    assert process.returncode == EXIT_PREEMPTED
    found = states(run_dir)
    assert [item["state"] for item in found.values()] == ["done", "partial", "todo"]
    assert 1 <= found["b"]["progress"]["done"] <= 2
    assert run_state("abc", run_dir.root, deep=False)["preempted"]["stage"] == "b"


def test_a_finished_run_was_not_preempted_and_has_no_holder(run_dir: RunDir) -> None:
    state = run_state("abc", run_dir.root, deep=False)
    assert state["preempted"] is None
    assert state["holder"] is None
    with lease.hold(run_dir, "job17"):
        assert run_state("abc", run_dir.root, deep=False)["holder"]["job"] == "job17"


def test_a_dead_process_is_not_shown_as_the_holder(toy_recipe: Path, tmp_path: Path) -> None:
    """Its pid may be somebody else's by now: nobody is to wait for it or kill it."""
    run_dir = RunDir(tmp_path / "run")
    with start("run", toy_recipe, "--run-dir", run_dir.root, "--set", "b.die_after=1") as process:
        process.communicate(timeout=120)
    assert run_dir.lease.exists()
    assert run_state("abc", run_dir.root, deep=False)["holder"] is None


def test_a_holder_of_another_host_that_fell_silent_is_no_longer_one(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    with lease.hold(run_dir, "77"):
        record = {**read_json(run_dir.holder), "host": "node7", "pid": 5}
        write_json(run_dir.holder, record)
        for silent_s in (0, LEASE_SECONDS, 86400):
            last = time.time() - silent_s
            os.utime(run_dir.lease, (last, last))
            state = run_state("abc", run_dir.root, deep=False)
            show_state(state)
            (line,) = [line for line in capsys.readouterr().out.splitlines() if "held by" in line]
            told.append(line)
    who = "held by host node7, pid 5, job 77"
    assert told == [who, who, f"was {who}, silent since {utc(last)}"]


def test_sizes_find_a_truncated_file_and_checksums_a_changed_one(run_dir: RunDir) -> None:
    (run_dir.committed("a") / "value.txt").write_text("1", encoding="utf-8")
    (run_dir.committed("b") / "unit0.txt").write_text("9.9\n", encoding="utf-8")
    shallow = [item["state"] for item in states(run_dir).values()]
    deep = [item["state"] for item in states(run_dir, deep=True).values()]
    assert shallow == ["damaged", "done", "done"]
    assert deep == ["damaged", "damaged", "done"]


def test_damage_of_one_stage_does_not_hide_the_others(run_dir: RunDir) -> None:
    (run_dir.committed("a") / "manifest.json").unlink()
    assert [item["state"] for item in states(run_dir).values()] == ["damaged", "done", "done"]


def test_damage_is_an_exit_code(toy: CommandLine, run_dir: RunDir) -> None:
    assert toy("status", run_dir.root).code == EXIT_DONE
    (run_dir.committed("b") / "unit0.txt").write_text("9.9\n", encoding="utf-8")
    assert toy("status", run_dir.root).code == EXIT_DONE
    answer = toy("status", run_dir.root, "--deep")
    assert answer.code == EXIT_FAILED
    assert "unit0.txt" in answer.out


def test_json_says_the_same_as_python(toy: CommandLine, run_dir: RunDir) -> None:
    answer = toy("status", run_dir.root, "--json", "--deep")
    assert json.loads(answer.out) == run_state("abc", run_dir.root, deep=True)


def test_asking_writes_nothing(toy: CommandLine, run_dir: RunDir) -> None:
    before = snapshot(run_dir.root)
    toy("status", run_dir.root, "--deep")
    assert snapshot(run_dir.root) == before


def test_a_folder_that_is_no_run_is_a_usage_error(toy: CommandLine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        run_state("abc", tmp_path, deep=False)
    for path in (tmp_path, tmp_path / "nothing"):
        answer = toy("status", path)
        assert answer.code == EXIT_USAGE
        assert str(path) in answer.err
