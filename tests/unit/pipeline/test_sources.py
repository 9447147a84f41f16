"""Files that a stage is made of: what is committed is of the bytes that were hashed, or nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.stage import Metrics, StageContext
from tests.conftest import CommandLine
from tests.fakes import toy_stages
from tests.fakes.toy_stages import AConfig


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    when: str,
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, run_dir = tmp_path / "data.txt", tmp_path / "run"
    data.write_text("one\n", encoding="utf-8")
    run_a = toy_stages.run_a

    def change() -> None:
        with data.open("a", encoding="utf-8") as file:
            file.write("two\n")

    def changing(config: AConfig, context: StageContext) -> Metrics:
        if when == "before":
            change()
        metrics = run_a(config, context)
        if when == "after":
            change()
        return metrics

    arguments = ("run", toy_recipe, "--run-dir", run_dir, "--set", f"a.data={data}")
    with monkeypatch.context() as patched:
        patched.setattr(toy_stages, "run_a", changing)
        refused = toy(*arguments)
    assert refused.code == 1
    assert "a.data " in refused.err and "changed while it was read" in refused.err
    assert not [*run_dir.glob("a*")]
    data.write_text("one\n", encoding="utf-8")  # put back: nothing of the other bytes may be left
    again = toy(*arguments)
    assert again.code == 0, again.err
    assert (run_dir / "a" / "data.bin").read_bytes() == b"one\n"


def test_a_process_that_lost_the_run_says_so_whatever_fails_first(
    toy: CommandLine, toy_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"

    def superseded(_: AConfig, context: StageContext) -> Metrics:
        (run_dir / ".lease").write_text("token=the successor's\n", encoding="utf-8")
        return {"size": (context.work / "cleared by the successor").stat().st_size}

    monkeypatch.setattr(toy_stages, "run_a", superseded)
    lost = toy("run", toy_recipe, "--run-dir", run_dir)
    assert lost.code == 1 and "lost its hold" in lost.err
