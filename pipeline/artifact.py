"""The run directory: the one place that joins its paths, and the commit protocol of a stage.

runs/mine/
    recipe.yaml            the resolved recipe of the last run, every default explicit
    <stage>/               committed: exists if and only if it is complete
        payload.json       what the work was started with
        manifest.json      files with bytes and sha256, fingerprint, metrics, provenance
    <stage>.partial/       being written; a later run continues inside it
    logs/<stage>/          one folder a launch, one file a rank; progress.json, conditions.json
    .lease, .holder.json   who is working here
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import JSON, Config, diff, fingerprint
from pipeline.errors import ConfigError, CorruptArtifact, StaleArtifact
from pipeline.files import (
    fsync_directory,
    read_json,
    record_tree,
    tree_faults,
    write_json,
)

SCHEMA_VERSION = 1


class FileRecord(Config):
    """One committed file."""

    bytes: int
    sha256: str


class Manifest(Config):
    """What a committed stage directory holds and how it was made."""

    schema_version: int
    stage: str
    fingerprint: str
    """sha256 of `payload`."""
    payload: dict[str, Any]
    """What was hashed: stage, version, the configuration that the stage reads, input fingerprints."""
    files: dict[str, FileRecord]
    metrics: dict[str, float | int | str | None]
    """Results of the stage; the unit is part of each name."""
    provenance: dict[str, Any]
    """Versions, host, time, launch; recorded, never hashed."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A committed stage directory; read only."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Return the path of a committed file.

        Raises:
            CorruptArtifact: If the file was not committed or has another size now.
        """
        record = self.manifest.files.get(name)
        if record is None:
            raise CorruptArtifact(f"{self.path}: {self.manifest.stage} committed no file {name!r}")
        self.require({name: record})
        return self.path / name

    def directory(self, name: str) -> Path:
        """Return the path of a committed folder, the sizes of its files checked."""
        prefix = f"{name}/"
        inside = {
            key: value for key, value in self.manifest.files.items() if key.startswith(prefix)
        }
        if not inside:
            raise CorruptArtifact(
                f"{self.path}: {self.manifest.stage} committed nothing in {name}/"
            )
        self.require(inside)
        return self.path / name

    def faults(self, *, deep: bool) -> list[str]:
        """Say which committed files are missing or differ now; `deep` compares checksums."""
        return tree_faults(self.path, _plain(self.manifest.files), deep=deep)

    def require(self, files: dict[str, FileRecord]) -> None:
        """Raise CorruptArtifact unless these files have their committed sizes."""
        faults = tree_faults(self.path, _plain(files), deep=False)
        if faults:
            stage = self.manifest.stage
            raise CorruptArtifact(
                f"{faults[0]}. The {stage} artifact was damaged after its commit: "
                f"make it again with --restart-from {stage}"
            )


def _plain(files: dict[str, FileRecord]) -> dict[str, dict[str, Any]]:
    return {name: record.model_dump() for name, record in files.items()}


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one run."""

    root: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe of the last run."""
        return self.root / "recipe.yaml"

    def has_recipe(self, text: str) -> bool:
        """Whether the last run was of this recipe, given as YAML with every default explicit."""
        return self.recipe.is_file() and self.recipe.read_text(encoding="utf-8") == text

    @property
    def lease(self) -> Path:
        """The marker of the process that works here."""
        return self.root / ".lease"

    @property
    def holder(self) -> Path:
        """Who holds the lease, in words."""
        return self.root / ".holder.json"

    @property
    def hash_cache(self) -> Path:
        """Checksums of outside files by path, size and times of change."""
        return self.root / ".hashes.json"

    @property
    def preempted(self) -> Path:
        """Written when a stage stopped on request with its work committed."""
        return self.root / "preempted.json"

    def committed(self, stage: str) -> Path:
        """The directory of a finished stage."""
        return self.root / stage

    def partial(self, stage: str) -> Path:
        """The directory of a stage that is being made."""
        return self.root / f"{stage}.partial"

    def logs(self, stage: str) -> Path:
        """Logs of every launch of a stage."""
        return self.root / "logs" / stage

    def progress(self, stage: str) -> Path:
        """How far the stage in work has come."""
        return self.logs(stage) / "progress.json"

    def artifact(self, stage: str) -> Artifact | None:
        """Return the committed artifact of a stage, or None if it is not finished.

        Raises:
            CorruptArtifact: If the directory is there without a manifest that can be read.
        """
        path = self.committed(stage)
        if not path.exists():
            return None
        manifest = path / "manifest.json"
        if not manifest.is_file():
            raise CorruptArtifact(
                f"{path}: has no manifest.json, so it was not made by a finished {stage} stage; "
                "move it away, then run again"
            )
        try:
            return Artifact(path, Manifest.model_validate(read_json(manifest)))
        except ValidationError as error:
            raise CorruptArtifact(f"{manifest}: {error.error_count()} fields are wrong") from error

    def partial_payload(self, stage: str) -> JSON | None:
        """Return what the partial work of a stage was started with, or None if there is none."""
        try:
            payload: JSON = read_json(self.partial(stage) / "payload.json")
        except (FileNotFoundError, NotADirectoryError):  # or renamed by a commit at this moment
            return None
        return payload

    def open_partial(self, stage: str, payload: JSON) -> Path:
        """Create or re-enter the work directory of a stage.

        Raises:
            StaleArtifact: If the work in it was started with another payload.
            CorruptArtifact: If it holds files that no payload explains.
        """
        path = self.partial(stage)
        path.mkdir(parents=True, exist_ok=True)
        found = self.partial_payload(stage)
        if found is None:
            strangers = [child.name for child in path.iterdir() if not child.name.endswith(".tmp")]
            if strangers:
                raise CorruptArtifact(
                    f"{path}: holds {strangers[0]} but no payload.json, so its origin is unknown; "
                    "move it away, then run again"
                )
            write_json(path / "payload.json", payload)
        elif fingerprint(found) != fingerprint(payload):
            changes = "; ".join(diff(found, payload)[:4])
            raise StaleArtifact(f"{path}: was started with other settings ({changes})")
        # Left by a crash between the manifest and the rename; the stage finds its work done and ends soon.
        (path / "manifest.json").unlink(missing_ok=True)
        return path

    def commit(
        self, stage: str, payload: JSON, metrics: dict[str, Any], provenance: JSON
    ) -> Artifact:
        """Turn the work directory into the stage's artifact; every rank must be done with it.

        Each file is flushed and hashed, manifest.json is written last, then one rename publishes all.
        """
        partial, final = self.partial(stage), self.committed(stage)
        (partial / "manifest.json").unlink(missing_ok=True)
        for leftover in [*partial.rglob(".*.tmp")]:  # of processes that were killed or superseded
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
        files = {name: FileRecord(**record) for name, record in record_tree(partial).items()}
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            stage=stage,
            fingerprint=fingerprint(payload),
            payload=payload,
            files=files,
            metrics=metrics,
            provenance=provenance,
        )
        write_json(partial / "manifest.json", manifest.model_dump())
        partial.rename(final)
        fsync_directory(self.root)
        return Artifact(final, manifest)

    def require_removable(self, stage: str) -> None:
        """Raise CorruptArtifact unless what would be deleted for a stage was made by it."""
        for path in (self.committed(stage), self.partial(stage)):
            is_empty = path.is_dir() and not any(path.iterdir())
            if path.exists() and not is_empty and not (path / "payload.json").is_file():
                raise CorruptArtifact(
                    f"{path}: has no payload.json, so it was not made by the {stage} stage and is not "
                    "deleted; move it away, or choose another --run-dir"
                )

    def remove(self, stage: str) -> None:
        """Delete a stage's artifact and partial work; a crash in between leaves no half artifact."""
        self.require_removable(stage)
        for path in (self.committed(stage), self.partial(stage)):
            if path.is_symlink():
                path.unlink()
            elif path.exists():
                doomed = self.root / f".removed-{stage}-{time.time_ns()}"
                path.rename(doomed)
                shutil.rmtree(doomed)

    def sweep(self) -> None:
        """Delete what an interrupted `remove`, or a copy from a cache, left behind."""
        for pattern in (".removed-*", ".linking-*"):
            for doomed in self.root.glob(pattern):
                shutil.rmtree(doomed)


def new_or_own(root: Path) -> RunDir:
    """Return the run directory at `root`, to be made or continued.

    Raises:
        ConfigError: If a folder is there that holds something else: no run may mix with it.
    """
    run_dir = RunDir(root.resolve())
    if root.is_dir() and not run_dir.recipe.is_file():
        strangers = [
            child.name
            for child in root.iterdir()
            if not child.name.startswith(".") and child.name != "logs"
        ]
        if strangers:
            raise ConfigError(
                f"{root}: is no run directory (it has no recipe.yaml) and is not empty (it holds "
                f"{min(strangers)}); choose another --run-dir"
            )
    return run_dir


def require_run_dir(root: Path) -> RunDir:
    """Return the run directory at `root`.

    Raises:
        ConfigError: If there is none.
    """
    run_dir = RunDir(root.resolve())
    if not run_dir.recipe.is_file():
        raise ConfigError(f"{root}: is not a run directory (it has no recipe.yaml)")
    return run_dir
