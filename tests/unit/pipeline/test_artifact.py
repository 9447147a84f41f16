"""The commit protocol: a stage directory exists if and only if it is complete."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import Artifact, RunDir, require_run_dir
from pipeline.errors import EXIT_STALE, ConfigError, CorruptArtifact, StaleArtifact

PAYLOAD = {"stage": "a", "version": 1, "config": {"lr": 3e-5}, "inputs": {}}
OTHER = {**PAYLOAD, "config": {"lr": 1e-5}}
CONTENTS = {"text.txt": b"some text\n", "deep/er/data.bin": bytes(range(256)), "empty": b""}
HOSTILE = [
    "with space",
    "quo'te\"s",
    "new\nline",
    "pl\u00e4tze-\u65e5\u672c",
    "$HOME",
    "a;b&c",
    "-x",
]


def work(run_dir: RunDir, payload: dict[str, Any] = PAYLOAD) -> Artifact:
    """Do a stage from wherever it was left."""
    folder = run_dir.open_partial("a", payload)
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return run_dir.commit("a", payload, {"rows": 3, "loss_nats": 0.5}, {"host": "here"})


def assert_whole(artifact: Artifact | None) -> None:
    assert artifact is not None
    assert artifact.faults(deep=True) == []
    assert artifact.manifest.files.keys() == {*CONTENTS, "payload.json"}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_the_manifest_lists_every_file_with_its_size_and_checksum(run_dir: RunDir) -> None:
    manifest = work(run_dir).manifest
    for name, content in CONTENTS.items():
        record = manifest.files[name]
        assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    on_disk = {
        path.relative_to(run_dir.committed("a")).as_posix()
        for path in run_dir.committed("a").rglob("*")
        if path.is_file()
    }
    assert manifest.files.keys() == on_disk - {"manifest.json"}


def test_what_was_committed_reads_back_the_same(run_dir: RunDir) -> None:
    made = work(run_dir)
    found = run_dir.artifact("a")
    assert found == made
    assert found is not None
    assert found.manifest.payload == PAYLOAD
    assert found.manifest.metrics == {"rows": 3, "loss_nats": 0.5}
    assert isinstance(found.manifest.metrics["rows"], int)
    assert not run_dir.partial("a").exists()


def test_unfinished_work_is_no_artifact(run_dir: RunDir) -> None:
    folder = run_dir.open_partial("a", PAYLOAD)
    (folder / "text.txt").write_text("half", encoding="utf-8")
    assert run_dir.artifact("a") is None
    assert run_dir.partial_payload("a") == PAYLOAD


def test_reopened_work_is_still_there(run_dir: RunDir) -> None:
    (run_dir.open_partial("a", PAYLOAD) / "shard").write_text("done", encoding="utf-8")
    assert (run_dir.open_partial("a", PAYLOAD) / "shard").read_text(encoding="utf-8") == "done"


def test_work_of_other_settings_is_refused_and_kept(run_dir: RunDir) -> None:
    (run_dir.open_partial("a", PAYLOAD) / "shard").write_text("done", encoding="utf-8")
    with pytest.raises(StaleArtifact, match="lr 3e-05 -> 1e-05") as failure:
        run_dir.open_partial("a", OTHER)
    assert failure.value.exit_code == EXIT_STALE == 3
    assert (run_dir.partial("a") / "shard").exists()


def test_files_of_unknown_origin_are_refused_and_kept(run_dir: RunDir) -> None:
    run_dir.partial("a").mkdir(parents=True)
    (run_dir.partial("a") / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(CorruptArtifact, match=r"mine\.txt"):
        run_dir.open_partial("a", PAYLOAD)
    assert (run_dir.partial("a") / "mine.txt").exists()


def test_a_folder_without_manifest_is_not_taken_for_an_artifact(run_dir: RunDir) -> None:
    run_dir.committed("a").mkdir(parents=True)
    with pytest.raises(CorruptArtifact, match=r"manifest\.json"):
        run_dir.artifact("a")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stage": "a"}', "\x00"], ids=repr)
def test_a_damaged_manifest_is_said_to_be_damaged(text: str, run_dir: RunDir) -> None:
    work(run_dir)
    (run_dir.committed("a") / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptArtifact, match=r"manifest\.json"):
        run_dir.artifact("a")


def test_leftovers_of_atomic_writes_are_not_committed(run_dir: RunDir) -> None:
    folder = run_dir.open_partial("a", PAYLOAD)
    (folder / "deep").mkdir()
    (folder / "deep" / ".shard.json.123.tmp").write_text("half", encoding="utf-8")
    assert not any(".tmp" in name for name in work(run_dir).manifest.files)


def test_a_truncated_file_is_found_when_it_is_read(run_dir: RunDir) -> None:
    artifact = work(run_dir)
    os.truncate(artifact.path / "deep/er/data.bin", 255)
    assert artifact.file("text.txt").read_bytes() == CONTENTS["text.txt"]
    with pytest.raises(CorruptArtifact, match=r"data\.bin.*--restart-from a"):
        artifact.file("deep/er/data.bin")
    with pytest.raises(CorruptArtifact, match=r"data\.bin"):
        artifact.directory("deep")
    assert len(artifact.faults(deep=False)) == 1


def test_a_missing_file_is_found_when_it_is_read(run_dir: RunDir) -> None:
    artifact = work(run_dir)
    (artifact.path / "text.txt").unlink()
    with pytest.raises(CorruptArtifact, match=r"text\.txt.*missing"):
        artifact.file("text.txt")


def test_changed_bytes_of_the_same_size_are_found_by_checksum(run_dir: RunDir) -> None:
    artifact = work(run_dir)
    (artifact.path / "text.txt").write_bytes(CONTENTS["text.txt"].swapcase())
    assert artifact.faults(deep=False) == []
    (fault,) = artifact.faults(deep=True)
    assert "text.txt" in fault


@pytest.mark.parametrize("name", ["nothing", "../a.partial/text.txt", "manifest.json", ""])
def test_only_committed_files_can_be_asked_for(name: str, run_dir: RunDir) -> None:
    artifact = work(run_dir)
    with pytest.raises(CorruptArtifact):
        artifact.file(name)


def test_an_artifact_moves_with_its_run_directory(run_dir: RunDir, tmp_path: Path) -> None:
    work(run_dir)
    run_dir.root.rename(tmp_path / "elsewhere")
    assert_whole(RunDir(tmp_path / "elsewhere").artifact("a"))


def test_commit_does_not_overwrite_a_finished_artifact(run_dir: RunDir) -> None:
    work(run_dir)
    with pytest.raises(OSError, match="not empty"):
        work(run_dir, OTHER)
    artifact = run_dir.artifact("a")
    assert_whole(artifact)
    assert artifact is not None
    assert artifact.manifest.payload == PAYLOAD


def test_removed_work_is_gone(run_dir: RunDir) -> None:
    work(run_dir)
    run_dir.open_partial("a", OTHER)
    run_dir.remove("a")
    assert list(run_dir.root.iterdir()) == []
    run_dir.remove("a")


@pytest.mark.parametrize("name", HOSTILE)
def test_any_run_directory_name_works(name: str, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / name)
    assert_whole(work(run_dir))
    run_dir.remove("a")
    run_dir.sweep()
    assert run_dir.artifact("a") is None


def test_a_folder_without_recipe_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        require_run_dir(tmp_path)


def test_everything_is_on_disk_before_it_is_published(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power may fail at any time: bytes and names first, then the rename, then the rename's name."""
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))

    def recorded_rename(source: Any, target: Any, **options: Any) -> None:
        rename(source, target, **options)
        events.append(("rename", str(target)))

    run_dir.open_partial("a", PAYLOAD)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    work(run_dir)
    published = events.index(("rename", str(run_dir.committed("a"))))
    durable = {path for kind, path in events[:published] if kind == "fsync"}
    partial = run_dir.partial("a")
    folders = {str(partial), str(partial / "deep"), str(partial / "deep/er")}
    assert {str(partial / name) for name in CONTENTS} | folders <= durable
    assert any("manifest.json" in path for path in durable)
    last_write = max(i for i, (kind, path) in enumerate(events) if "manifest.json" in path)
    assert ("fsync", str(partial)) in events[last_write:published]
    assert ("fsync", str(run_dir.root)) in events[published:]


CHANGES = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir")
STEPS = (*((os, name) for name in CHANGES), (io, "open"))
"""The calls that change what is on disk."""


def killed_before_step(step: int, action: Callable[[], object]) -> bool:
    """Do `action` in a child that is killed just before its file operation number `step`."""
    child = os.fork()
    if child == 0:
        left = iter(range(step))

        def fatal(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for module, name in STEPS:
            setattr(module, name, fatal(getattr(module, name)))
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_step_of_a_stage_leaves_all_or_nothing(tmp_path: Path) -> None:
    for step in range(1000):
        run_dir = RunDir(tmp_path / f"{step}")
        run_dir.root.mkdir()
        if not killed_before_step(step, functools.partial(work, run_dir)):
            break
        assert {path.name for path in run_dir.root.iterdir()} <= {"a", "a.partial"}
        if run_dir.artifact("a") is None:
            work(run_dir)
        assert_whole(run_dir.artifact("a"))
    assert 20 < step < 999


def test_two_kills_are_no_worse_than_one(tmp_path: Path) -> None:
    for step in range(0, 40, 3):
        run_dir = RunDir(tmp_path / f"{step}")
        run_dir.root.mkdir()
        for again in (step, 39 - step):
            if run_dir.artifact("a") is None:
                killed_before_step(again, functools.partial(work, run_dir))
        if run_dir.artifact("a") is None:
            work(run_dir)
        assert_whole(run_dir.artifact("a"))


def test_a_kill_at_any_step_of_a_removal_leaves_no_half_artifact(tmp_path: Path) -> None:
    for step in range(1000):
        run_dir = RunDir(tmp_path / f"{step}")
        work(run_dir)
        run_dir.open_partial("a", OTHER)
        if not killed_before_step(step, functools.partial(run_dir.remove, "a")):
            break
        if run_dir.artifact("a") is not None:
            assert_whole(run_dir.artifact("a"))
        killed_before_step(3, run_dir.sweep)
        run_dir.sweep()
        assert {path.name for path in run_dir.root.iterdir()} <= {"a", "a.partial"}
        run_dir.remove("a")
        assert_whole(work(run_dir))
    assert 4 < step < 999
