"""Committed artifacts that runs share: CACHE/<stage>/<fingerprint>/ is the stage directory of some run.

The fingerprint is the only key. It says what was asked for; what came of that (a branch moves, another
version of a library trains another tokenizer) is the content that the stages before it name, and what makes
this stage's result of it are the versions here: an entry of other content or versions is not taken.

Entries appear by rename and are never changed, only replaced; each file is a hard link to the run's where the
file system allows it, else a copy. So the files are read-only: who edits one in place would change it for all
that link it. What manifest.json lists is compared with its checksums before it is used. Folders have the mode
of CACHE, so that a group may share it.

`lineage.json` beside the manifest has what was hashed of the stage and of all before it, with their contents,
and the versions.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Artifact, RunDir
from pipeline.config import JSON, diff, fingerprint
from pipeline.errors import ArtifactError, CorruptArtifact, StaleArtifact
from pipeline.files import fsync_directory, read_json, write_json
from pipeline.provenance import shared_versions

_LINEAGE = "lineage.json"
_CONTENT = "content"
_VERSIONS = "versions"
_COMPARED = 200
"""Entries that a miss is compared with, the latest."""
_SHOWN = 4
_ABANDONED_SECONDS = 24 * 3600.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of artifacts, on any file system that the runs see."""

    root: Path

    def take(
        self, stage: str, payload: JSON, lineage: JSON, run_dir: RunDir, guard: Callable[[], None]
    ) -> Artifact | None:
        """Commit an entry as the run's own, in place of partial work; None if there is none to be used.

        Args:
            stage: The stage.
            payload: What is hashed of it.
            lineage: Of the stage, with the contents of all before it (see `lineage_of`).
            run_dir: The run.
            guard: Raises if another process has taken the run over; called before anything there is touched.
        """
        linking = run_dir.root / f".linking-{stage}-{uuid.uuid4().hex}"
        try:
            found = self._usable(stage, fingerprint(payload), lineage)
            if found is None:
                return None
            how = _link_tree(found, linking)
            _require_same(found, linking)
        except (OSError, ArtifactError) as error:
            shutil.rmtree(linking, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            _logger.warning("cache: %s; the entry is not used", error)
            return None
        try:
            guard()
            run_dir.remove(stage)
            guard()
            linking.rename(run_dir.committed(stage))
        finally:
            shutil.rmtree(linking, ignore_errors=True)
        fsync_directory(run_dir.root)
        _logger.info("%-8s is %s from the cache: %s", stage, how, found.path)
        return run_dir.artifact(stage)

    def keep(self, artifact: Artifact, lineage: JSON) -> None:
        """Add a committed artifact, in place of an entry that is damaged or of other content.

        A disk that refuses is told, and is no failure.
        """
        stage, wanted = artifact.manifest.stage, artifact.manifest.fingerprint
        folder = self.root / stage
        final, temporary = folder / wanted, folder / f".{uuid.uuid4().hex}.tmp"
        try:
            try:
                if self._usable(stage, wanted, lineage) is not None:
                    return
                is_there = False
            except ArtifactError:  # told when it was not taken
                is_there = True
            except PermissionError as error:
                _logger.warning(
                    "cache: %s cannot be read (%s), so nothing is kept; its owner may allow reading by "
                    "chmod -R a+rX, or remove it",
                    final,
                    error,
                )
                return
            self.root.mkdir(parents=True, exist_ok=True)
            mode = stat.S_IMODE(self.root.stat().st_mode)
            _make_folder(folder, mode)
            _sweep(folder)
            how = _link_tree(artifact, temporary)
            write_json(temporary / _LINEAGE, lineage)
            _protect(temporary, mode)
            if is_there:
                _move_away(final)
            temporary.rename(final)
            fsync_directory(folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            is_beaten = error.errno in (errno.ENOTEMPTY, errno.EEXIST) and final.is_dir()
            if not is_beaten:  # by another run, which has kept the same
                _logger.warning("cache: %s is not kept there (%s)", artifact.path, error)
            return
        _logger.info("%-8s is %s into the cache: %s", stage, how, final)

    def explain(self, stage: str, lineage: JSON, wanted: str) -> str:
        """Say whether there is an entry, and if not, what differs from the one that is most like it.

        Sizes are compared, checksums are not; contents as far as `lineage` has them.
        """
        try:
            found = self._entry(stage, wanted)
            if found is None:
                return self._nearest(stage, lineage)
            changes = _changes(found[1], lineage)
        except (OSError, ArtifactError) as error:
            return f"cannot be taken from the cache ({error})"
        if changes:
            return f"in the cache, but made otherwise: {_told(changes)}"
        open_ = [
            name
            for name, part in found[1].items()
            if part.get(_CONTENT) and _CONTENT not in lineage.get(name, {})
        ]
        if not open_:
            return "in the cache"
        verb = "brings" if len(open_) == 1 else "bring"
        return f"in the cache, if {' and '.join(open_)} {verb} the same"

    def _nearest(self, stage: str, lineage: JSON) -> str:
        found = []
        for file in sorted((self.root / stage).glob(f"*/{_LINEAGE}"), key=_changed)[-_COMPARED:]:
            with contextlib.suppress(OSError, CorruptArtifact):  # only an explanation
                found.append([line for line in _changes(_read_lineage(file), lineage) if line])
        if not found:
            return "not in the cache, which has nothing of it"
        return f"not in the cache, the nearest entry differs in {_told(min(found, key=len))}"

    def _entry(self, stage: str, wanted: str) -> tuple[Artifact, JSON] | None:
        """Return the entry with this fingerprint and its lineage, file sizes compared.

        Raises:
            CorruptArtifact: If it is damaged; OSError if it cannot be read.
        """
        artifact = RunDir(self.root / stage).artifact(wanted)
        if artifact is None:
            return None
        if artifact.manifest.fingerprint != wanted:
            raise CorruptArtifact(f"{artifact.path}: is of another fingerprint")
        if faults := artifact.faults(deep=False):
            raise CorruptArtifact(faults[0])
        return artifact, _read_lineage(artifact.path / _LINEAGE)

    def _usable(self, stage: str, wanted: str, lineage: JSON) -> Artifact | None:
        """Return the entry with this fingerprint, content and versions, and with the right checksums.

        Raises:
            CorruptArtifact: If it is damaged; OSError if it cannot be read.
            StaleArtifact: If it is of other content or versions; says of which.
        """
        found = self._entry(stage, wanted)
        if found is None:
            return None
        artifact, kept = found
        if changes := _changes(kept, lineage):
            raise StaleArtifact(f"{artifact.path}: was made otherwise: {_told(changes)}")
        if faults := artifact.faults(deep=True):
            raise CorruptArtifact(faults[0])
        return artifact


def content_of(artifact: Artifact) -> JSON:
    """Return what a stage names of its content: its metrics `content_...`.

    Those are checksums of what the stages after it read, where its fingerprint does not decide that.
    """
    metrics = artifact.manifest.metrics
    return {name: value for name, value in metrics.items() if name.startswith(f"{_CONTENT}_")}


def lineage_of(stage: str, payloads: Mapping[str, JSON], contents: Mapping[str, JSON]) -> JSON:
    """Return what was hashed of a stage and of all stages before it, by stage and without fingerprints.

    Args:
        stage: The stage; with the versions that it is made with here.
        payloads: What is hashed of these stages, by name.
        contents: The `content_of` of those stages before it that are there.
    """
    found = _hashed(stage, payloads, contents)
    return {**found, stage: {**found[stage], _VERSIONS: shared_versions()}}


def _hashed(stage: str, payloads: Mapping[str, JSON], contents: Mapping[str, JSON]) -> JSON:
    found: JSON = {}
    for name in payloads[stage].get("inputs", {}):
        found |= _hashed(name, payloads, contents)
        if name in contents:
            found[name] = {**found[name], _CONTENT: contents[name]}
    own = {key: value for key, value in payloads[stage].items() if key != "inputs"}
    return {**found, stage: own}


def _changes(kept: JSON, lineage: JSON) -> list[str]:
    """Say how an entry's lineage differs; contents are compared where `lineage` has them."""
    comparable = {}
    for name, part in kept.items():
        comparable[name] = {key: value for key, value in part.items() if key != _CONTENT}
        if _CONTENT in lineage.get(name, {}):
            comparable[name][_CONTENT] = part.get(_CONTENT, {})
    return diff(comparable, lineage)


def _told(changes: list[str]) -> str:
    more = f" and {len(changes) - _SHOWN} more" if changes[_SHOWN:] else ""
    return "; ".join(changes[:_SHOWN]) + more


def _read_lineage(file: Path) -> JSON:
    lineage = read_json(file)
    if not isinstance(lineage, dict) or not all(isinstance(p, dict) for p in lineage.values()):
        raise CorruptArtifact(f"{file}: is no lineage")
    return lineage


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _link_tree(artifact: Artifact, target: Path) -> str:
    """Give an artifact's files a second place; says how."""
    copied = False
    target.mkdir()
    for name in (*artifact.manifest.files, "manifest.json"):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(artifact.path / name, path)
        except OSError as error:
            if error.errno in (*_NO_ROOM, errno.ENOENT):
                raise
            shutil.copyfile(artifact.path / name, path)  # another file system, or another owner
            _fsync(path)
            copied = True
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        fsync_directory(folder)
    return "copied" if copied else "linked"


def _fsync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _make_folder(path: Path, mode: int) -> None:
    """Make a folder that others may write in as far as `mode` says, whatever the umask."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(mode)


def _protect(entry: Path, mode: int) -> None:
    """Let nobody change the files of an entry, and those whom `mode` allows read and remove it."""
    for path in (entry, *entry.rglob("*")):
        with contextlib.suppress(PermissionError):  # a file that a helper of another owner has made
            # Who may read the run's file still may: it is the same one.
            readers = (stat.S_IMODE(path.stat().st_mode) | mode) & 0o444
            path.chmod(mode if path.is_dir() else readers)


def _require_same(found: Artifact, linked: Path) -> None:
    """Raise StaleArtifact if an entry was replaced while it was linked; manifest.json was the last."""
    theirs = RunDir(linked.parent).artifact(linked.name)
    if theirs is None or theirs.manifest != found.manifest:
        raise StaleArtifact(f"{found.path}: was replaced meanwhile")


def _move_away(entry: Path) -> None:
    """Remove an entry, whole at every moment for those who are linking it."""
    doomed = entry.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        entry.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what runs that were killed have left half made."""
    for path in folder.glob(".*.tmp"):
        if time.time() - _changed(path) > _ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
