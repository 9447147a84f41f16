"""Artifacts shared between runs: the same bytes, one key, and a miss that says why."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pyarrow
import pytest

from pipeline import provenance
from pipeline.artifact import Artifact, RunDir
from pipeline.cache import Cache, lineage_of
from pipeline.config import diff
from pipeline.files import read_json, record_tree, write_json
from pipeline.stage import Metrics, StageContext
from tests.conftest import CommandLine
from tests.fakes import toy_stages
from tests.fakes.toy_stages import AConfig, BConfig, ToyRecipe
from tests.privileges import modes_respected

CACHED = ("b",)


@pytest.fixture
def toy(command_line: object) -> CommandLine:
    """The toy graph a -> b -> c, of which b may come from a cache."""
    import dataclasses

    from tests.fakes.toy_stages import STAGES

    stages = [dataclasses.replace(s, cached=s.name in CACHED) for s in STAGES]
    return command_line(stages, ToyRecipe)  # type: ignore[operator, no-any-return]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "shared cache"


@pytest.fixture
def first(toy: CommandLine, toy_recipe: Path, tmp_path: Path, cache: Path) -> RunDir:
    """A run that has left its b in the cache."""
    done = toy("run", toy_recipe, "--run-dir", tmp_path / "first", "--cache-dir", cache)
    assert done.code == 0, done.err
    assert "linked into the cache" in done.err
    return RunDir(tmp_path / "first")


def test_another_run_takes_what_the_first_has_made(
    toy: CommandLine, toy_recipe: Path, tmp_path: Path, cache: Path, first: RunDir
) -> None:
    second = RunDir(tmp_path / "elsewhere" / "second")
    planned = toy("plan", toy_recipe, "--run-dir", second.root, "--cache-dir", cache)
    assert "b      RUN     not done yet; in the cache" in planned.out
    done = toy("run", toy_recipe, "--run-dir", second.root, "--cache-dir", cache)
    assert done.code == 0, done.err
    assert "b        is linked from the cache" in done.err
    assert record_tree(second.committed("b")) == record_tree(first.committed("b"))
    manifests = [run.committed("b") / "manifest.json" for run in (first, second)]
    assert manifests[0].samefile(manifests[1])
    assert toy("status", second.root, "--deep").code == 0
    assert "Everything is done" in toy("run", toy_recipe, "--run-dir", second.root).out


def test_partial_work_gives_way_to_an_entry(
    toy: CommandLine, toy_recipe: Path, tmp_path: Path, cache: Path, first: RunDir
) -> None:
    second = RunDir(tmp_path / "second")
    toy("run", toy_recipe, "--run-dir", second.root, "--to", "a")
    payload = first.artifact("b").manifest.payload  # type: ignore[union-attr]
    (second.open_partial("b", payload) / "half").touch()
    done = toy("run", toy_recipe, "--run-dir", second.root, "--cache-dir", cache)
    assert done.code == 0, done.err
    assert not second.partial("b").exists()
    assert record_tree(second.committed("b")) == record_tree(first.committed("b"))


def test_a_miss_says_what_differs_up_to_the_sources(
    toy: CommandLine, toy_recipe: Path, tmp_path: Path, cache: Path, first: RunDir
) -> None:
    place = ("--run-dir", tmp_path / "second", "--cache-dir", cache)
    other = toy("plan", toy_recipe, *place, "--set", "a.value=5")
    assert "not in the cache, the nearest entry differs in a.config.value" in other.out
    own = toy("plan", toy_recipe, *place, "--set", "b.units=9")
    assert "not in the cache, the nearest entry differs in b.config.units" in own.out
    empty = toy("plan", toy_recipe, "--run-dir", tmp_path / "x", "--cache-dir", tmp_path / "no")
    assert "not in the cache, which has nothing of it" in empty.out


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest"])
def test_a_damaged_entry_is_told_and_made_again(
    damage: str, toy: CommandLine, toy_recipe: Path, tmp_path: Path, cache: Path, first: RunDir
) -> None:
    (entry,) = (cache / "b").iterdir()
    name = next(
        file for file in record_tree(entry) if file not in ("manifest.json", "lineage.json")
    )
    wanted = record_tree(first.committed("b"))
    victim = entry / ("manifest.json" if damage == "manifest" else name)
    content = victim.read_bytes()
    victim.unlink()  # a link: the first run keeps its file
    if damage != "missing":
        victim.write_bytes(content[:-2])
    done = toy("run", toy_recipe, "--run-dir", tmp_path / "second", "--cache-dir", cache)
    assert done.code == 0, done.err
    assert "the entry is not used" in done.err
    made = record_tree(tmp_path / "second" / "b")
    assert {k: v for k, v in made.items() if k != "manifest.json"} == {
        k: v for k, v in wanted.items() if k != "manifest.json"
    }
    replaced = toy("run", toy_recipe, "--run-dir", tmp_path / "third", "--cache-dir", cache)
    assert "b        is linked from the cache" in replaced.err
    assert len(list((cache / "b").iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncated", "missing", "no lineage"])
def test_a_plan_tells_of_a_damaged_entry(
    damage: str, toy: CommandLine, toy_recipe: Path, tmp_path: Path, cache: Path, first: RunDir
) -> None:
    (entry,) = (cache / "b").iterdir()
    if damage == "no lineage":
        (entry / "lineage.json").write_text("[]", encoding="utf-8")
    else:
        (entry / "unit1.txt").unlink()
        if damage == "truncated":
            (entry / "unit1.txt").touch()
    planned = toy("plan", toy_recipe, "--run-dir", tmp_path / "x", "--cache-dir", cache)
    assert planned.code == 0
    assert f"cannot be taken from the cache ({entry}/" in planned.out


def bring(monkeypatch: pytest.MonkeyPatch, value: int) -> None:
    """Let stage a bring another value than the recipe's, as a branch that moved would."""

    def run_a(config: AConfig, context: StageContext) -> Metrics:
        (context.work / "value.txt").write_text(f"{value}\n", encoding="utf-8")
        return {"content_value": str(value)}

    monkeypatch.setattr(toy_stages, "run_a", run_a)


def test_what_was_made_of_other_content_is_not_taken(
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The recipe is the same, so is the fingerprint; only what came of it differs."""

    def place(name: str) -> tuple[str | Path, ...]:
        return "--run-dir", tmp_path / name, "--cache-dir", cache

    bring(monkeypatch, 3)
    assert toy("run", toy_recipe, *place("first")).code == 0
    planned = toy("plan", toy_recipe, *place("second"))
    assert "b      RUN     not done yet; in the cache, if a brings the same" in planned.out
    bring(monkeypatch, 5)
    assert toy("run", toy_recipe, *place("second"), "--to", "a").code == 0
    told = "made otherwise: a.content.content_value 3 -> 5"
    assert f"in the cache, but {told}" in toy("plan", toy_recipe, *place("second")).out
    second = toy("run", toy_recipe, *place("second"))
    assert second.code == 0 and f"was {told}; the entry is not used" in second.err
    assert (tmp_path / "second" / "b" / "unit1.txt").read_text(encoding="utf-8") == "5.0\n"
    third = toy("run", toy_recipe, *place("third"))  # the later content is the one that is kept
    assert "b        is linked from the cache" in third.err
    assert record_tree(tmp_path / "third" / "b") == record_tree(tmp_path / "second" / "b")


def test_what_a_stage_warns_of_is_told_again_of_an_entry(
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_b(_: BConfig, context: StageContext) -> Metrics:
        (context.work / "unit0.txt").write_text("0\n", encoding="utf-8")
        return {"warning_units": "one of 4 units is made"}

    monkeypatch.setattr(toy_stages, "run_b", run_b)
    for name in ("first", "second"):
        done = toy("run", toy_recipe, "--run-dir", tmp_path / name, "--cache-dir", cache)
        assert done.code == 0, done.err
        assert done.err.count("b: one of 4 units is made") == 1
    assert "b        is linked from the cache" in done.err


@pytest.mark.parametrize("changed", ["python", "tokenizers"])
def test_what_other_versions_made_is_not_taken_as_join_would_refuse_them(
    changed: str,
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
    first: RunDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = provenance.conditions(1)
    if changed == "python":
        monkeypatch.setattr(provenance.platform, "python_version", lambda: "3.99.1")
    else:
        version = provenance._version
        monkeypatch.setattr(
            provenance, "_version", lambda name: "9.9" if name == changed else version(name)
        )
    told = f"b.versions.{changed} "
    assert len(diff(used, provenance.conditions(1))) == 1  # join refuses them too
    place = ("--run-dir", tmp_path / "second", "--cache-dir", cache)
    planned = toy("plan", toy_recipe, *place)
    assert f"in the cache, but made otherwise: {told}" in planned.out
    done = toy("run", toy_recipe, *place)
    assert done.code == 0, done.err
    assert f"was made otherwise: {told}" in done.err and "the entry is not used" in done.err
    third = toy("run", toy_recipe, "--run-dir", tmp_path / "third", "--cache-dir", cache)
    assert "b        is linked from the cache" in third.err


def test_versions_that_decide_shared_results_are_known() -> None:
    """A package that goes by another name would be null everywhere, and never differ."""
    versions = provenance.shared_versions()
    assert versions["pyarrow"] == pyarrow.__version__ and all(versions.values())
    assert (
        versions.items()
        <= {"python": versions["python"], **provenance.collect()["packages"]}.items()
    )


@pytest.mark.parametrize(
    ("mode", "umask", "readers"),
    [
        (0o755, 0o022, 0o444),
        (0o2775, 0o022, 0o444),
        (0o2775, 0o077, 0o444),  # of a member who keeps the own files private
        (0o2770, 0o077, 0o440),
        (0o700, 0o077, 0o400),
        (0o700, 0o022, 0o444),  # the files are the run's too, whose readers stay
    ],
)
def test_an_entry_is_read_only_and_its_folders_and_readers_are_the_groups(
    mode: int,
    umask: int,
    readers: int,
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
) -> None:
    cache.mkdir()
    cache.chmod(mode)
    umask = os.umask(umask)
    try:
        done = toy("run", toy_recipe, "--run-dir", tmp_path / "run", "--cache-dir", cache)
    finally:
        os.umask(umask)
    assert done.code == 0, done.err
    for path in cache.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (mode if path.is_dir() else readers), path
    place = ("--run-dir", tmp_path / "run", "--restart-from", "b")
    assert toy("run", toy_recipe, *place).code == 0
    assert stat.S_IMODE((tmp_path / "run" / "b").stat().st_mode) == 0o755


def test_a_process_that_lost_the_run_takes_nothing(
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
    first: RunDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = RunDir(tmp_path / "second")
    toy("run", toy_recipe, "--run-dir", second.root, "--to", "a")
    payload = first.artifact("b").manifest.payload  # type: ignore[union-attr]
    (second.open_partial("b", payload) / "of the successor").touch()
    faults = Artifact.faults

    def paused(self: Artifact, *, deep: bool) -> list[str]:
        if deep:
            second.lease.write_text("token=the successor's\n", encoding="utf-8")
        return faults(self, deep=deep)

    monkeypatch.setattr(Artifact, "faults", paused)
    lost = toy("run", toy_recipe, "--run-dir", second.root, "--cache-dir", cache)
    assert lost.code == 1 and "lost its hold" in lost.err
    assert (second.partial("b") / "of the successor").exists() and not second.committed(
        "b"
    ).exists()
    assert not list(second.root.glob(".linking-*"))


@pytest.mark.parametrize("name", [".", "manifest.json", "unit1.txt", "lineage.json"])
def test_an_entry_that_may_not_be_read_is_told_and_left_alone(
    name: str, toy: CommandLine, toy_recipe: Path, tmp_path: Path, cache: Path, first: RunDir
) -> None:
    (entry,) = (cache / "b").iterdir()
    if name == "unit1.txt":  # not the first run's own
        shutil.copyfile(entry / name, tmp_path / "copy")
        (tmp_path / "copy").replace(entry / name)
    mode = (entry / name).stat().st_mode
    (entry / name).chmod(0)
    place = ("--run-dir", tmp_path / "second", "--cache-dir", cache)
    with modes_respected():
        planned = toy("plan", toy_recipe, *place)
        done = toy("run", toy_recipe, *place)
    (entry / name).chmod(mode)
    assert planned.code == done.code == 0, planned.err + done.err
    if name != "unit1.txt":  # a plan looks at sizes
        assert "cannot be taken from the cache ([Errno 13] Permission denied" in planned.out
    assert "Permission denied" in done.err and "the entry is not used" in done.err
    assert f"cache: {entry} cannot be read (" in done.err
    again = toy("run", toy_recipe, "--run-dir", tmp_path / "third", "--cache-dir", cache)
    assert "b        is linked from the cache" in again.err


def test_an_entry_that_is_replaced_meanwhile_is_not_mixed(
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
    first: RunDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (entry,) = (cache / "b").iterdir()
    link = os.link
    linked: list[Path] = []

    def replacing(source: Path, target: Path) -> None:
        linked.append(source)
        if len(linked) == 2:
            for name in ("manifest.json", "unit1.txt"):
                (entry / name).rename(tmp_path / name)
            manifest = read_json(tmp_path / "manifest.json")
            write_json(entry / "manifest.json", {**manifest, "provenance": {}})
            (entry / "unit1.txt").write_text("another\n", encoding="utf-8")
        link(source, target)

    monkeypatch.setattr(os, "link", replacing)
    done = toy("run", toy_recipe, "--run-dir", tmp_path / "second", "--cache-dir", cache)
    assert done.code == 0 and "was replaced meanwhile; the entry is not used" in done.err
    for name in ("unit0.txt", "unit1.txt"):
        made = (tmp_path / "second" / "b" / name).read_bytes()
        assert made == (first.committed("b") / name).read_bytes()


def test_a_full_disk_of_the_run_is_an_error_that_names_it(
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
    first: RunDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    monkeypatch.setattr(os, "link", full)
    run_dir = tmp_path / "second"
    done = toy("run", toy_recipe, "--run-dir", run_dir, "--cache-dir", cache)
    assert done.code == 1 and f"{run_dir}/.linking-b-" in done.err and "free space" in done.err
    assert not list(run_dir.glob(".linking-*"))


def test_where_nothing_can_be_linked_files_are_copied(
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
    first: RunDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another device")

    monkeypatch.setattr(os, "link", refuse)
    fsync, flushed = os.fsync, set[int]()

    def noting(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    done = toy("run", toy_recipe, "--run-dir", tmp_path / "second", "--cache-dir", cache)
    assert "b        is copied from the cache" in done.err
    copies = [path for path in (tmp_path / "second" / "b").rglob("*") if path.is_file()]
    assert len(copies) > 3 and {path.stat().st_ino for path in copies} <= flushed
    assert record_tree(tmp_path / "second" / "b") == record_tree(first.committed("b"))


def test_an_entry_that_goes_away_meanwhile_is_made_again(
    toy: CommandLine,
    toy_recipe: Path,
    tmp_path: Path,
    cache: Path,
    first: RunDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def removed(*_: object) -> None:
        shutil.rmtree(cache / "b", ignore_errors=True)
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(os, "link", removed)
    done = toy("run", toy_recipe, "--run-dir", tmp_path / "second", "--cache-dir", cache)
    assert done.code == 0, done.err
    assert "gone; the entry is not used" in done.err
    assert not list((tmp_path / "second").glob(".linking-*"))


def test_a_cache_that_cannot_be_written_fails_no_run(
    toy: CommandLine, toy_recipe: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    done = toy("run", toy_recipe, "--run-dir", tmp_path / "run", "--cache-dir", blocked)
    assert done.code == 0, done.err
    assert "is not kept there" in done.err


def test_two_runs_that_end_together_leave_one_entry(
    cache: Path, first: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = first.artifact("b")
    assert artifact is not None
    before = record_tree(cache)
    entry = cache / "b" / artifact.manifest.fingerprint
    aside = tmp_path / "aside"
    entry.rename(aside)
    rename = Path.rename

    def beaten(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp" and self.is_dir():
            shutil.copytree(aside, entry)  # the other run's rename comes first
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", beaten)
    Cache(cache).keep(artifact, {})
    assert record_tree(cache) == before


def test_a_lineage_has_all_sources_and_no_fingerprints() -> None:
    payloads = {
        "a": {"stage": "a", "inputs": {}},
        "b": {"stage": "b", "config": 1, "inputs": {"a": "f00"}},
        "c": {"stage": "c", "inputs": {"a": "f00", "b": "ba5"}},
    }
    contents = {"a": {"content_x": "1"}, "c": {"content_y": "2"}}
    assert lineage_of("c", payloads, contents) == {
        "a": {"stage": "a", "content": {"content_x": "1"}},
        "b": {"stage": "b", "config": 1},
        "c": {"stage": "c", "versions": provenance.shared_versions()},
    }
