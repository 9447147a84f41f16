"""Checkpoints that are whole or absent: written aside, hashed, renamed; verified before they are used.

The phases of a save, with a vote of all ranks after each: enter, write and verify, commit (rank 0 renames). A
failure on one rank is raised on all; the partial folder is removed then, and earlier checkpoints stay.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.config import JSON
from pipeline.distributed import collectives
from pipeline.distributed.storage import patiently
from pipeline.distributed.voting import gathered, require_entry, voted
from pipeline.distributed.world import World
from pipeline.distributed.zero import ZeroEngine, files_of_rank
from pipeline.errors import CheckpointError, CorruptArtifact, StorageError
from pipeline.files import (
    fsync_directory,
    read_json,
    sha256_file,
    tree_faults,
    tree_files,
    write_atomic,
    write_json,
)

NEWEST = "newest"
"""Names the checkpoint committed last, for people; loading goes by what is whole."""

_RECORD = "commit.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint: the state after `update` updates."""

    folder: Path
    update: int
    world_size: int
    zero_stage: int
    notes: JSON | None = None
    """What the caller of `save` left in it."""


def folder_name(update: int) -> str:
    """Return the name of the checkpoint after `update` updates."""
    return f"update_{update:08d}"


def save(
    engine: ZeroEngine,
    root: Path,
    update: int,
    world: World,
    *,
    keep: int,
    guard: Callable[[], None],
    also_keep: Collection[int] = (),
    notes: JSON | None = None,
) -> None:
    """Write and commit a checkpoint on all ranks, then drop the old ones.

    The first one that an engine writes is read back from the device, past the operating system's cache.

    Args:
        engine: What is saved.
        root: The folder of the checkpoints.
        update: Updates done, which names the checkpoint.
        world: This rank.
        keep: Newest checkpoints to keep, at least 1.
        guard: Called before the commit; raises if this process may not commit any more.
        also_keep: Updates whose checkpoints are kept whatever their age.
        notes: JSON that comes back in `Checkpoint.notes`; rank 0's counts.

    Raises:
        StorageError: If a rank's disk is full or refuses, after retries; earlier checkpoints stay.
        RunDirInUse: If the run was taken over; nothing is committed then.
        LaunchError: If a rank does not enter the save within `voting.ENTRY_LIMIT`.
    """
    require_entry(f"saving the checkpoint of update {update}", world)
    partial, final = root / f"{folder_name(update)}.partial", root / folder_name(update)
    is_first_save = not engine.has_saved

    def write() -> JSON:
        engine.save(partial)
        files = tree_files(partial)
        mine = {name: files[name] for name in files_of_rank(files, world.rank)}
        return flushed(mine, is_read_back=is_first_save)

    def commit(files: JSON) -> None:
        origin = {"update": update, "world_size": world.size, "zero_stage": engine.zero_stage}
        seal(partial, final, {**origin, "notes": notes, "files": files}, guard)
        patiently(lambda: write_atomic(root / NEWEST, f"{final.name}\n"), str(root / NEWEST))

    try:
        voted(lambda: cleared(partial), world, only_first=True)
        by_rank = voted(write, world)
        files = dict(sorted(item for part in by_rank for item in part.items()))
        voted(lambda: commit(files), world, only_first=True)
    except StorageError:
        if world.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        collectives.barrier()
        raise
    if world.is_first:
        # Named, since damaged ones that were passed over count among the newest.
        drop_old(root, keep, {*also_keep, update})
    collectives.barrier()


def seal(partial: Path, final: Path, record: JSON, guard: Callable[[], None]) -> None:
    """Write the record of a finished folder, and give it its name.

    Raises:
        StorageError: If this rank does not see what the ranks say they wrote.
    """
    _require_seen(partial, record["files"])
    patiently(lambda: write_json(partial / _RECORD, record), str(partial / _RECORD))
    guard()
    if final.exists():  # a damaged one of the same update, reported before
        patiently(lambda: shutil.rmtree(final), str(final))
    patiently(lambda: partial.rename(final), str(final))
    fsync_directory(final.parent)


def _require_seen(folder: Path, files: JSON) -> None:
    """Raise StorageError unless all files are here as recorded; patient with a network's stale answers."""

    def look() -> None:
        tree_files(folder)  # a listing makes the client forget that a file was not there
        faults = tree_faults(folder, files, deep=False)
        if faults:
            raise OSError(faults[0])

    try:
        patiently(look, str(folder))
    except OSError as error:
        raise StorageError(
            f"a file is not as its rank wrote it: {error}; run the same command again"
        ) from error


def drop_old(root: Path, keep: int, also_keep: Collection[int] = ()) -> None:
    """Delete all but the newest `keep` checkpoints and those of `also_keep`, and what became useless.

    That is: what an interrupted save left, and conversions for another number of processes, each read once. A
    folder that cannot be deleted is named in a warning.
    """
    pinned = {folder_name(update) for update in also_keep}
    old = [folder for folder in _committed(root)[keep:] if folder.name not in pinned]
    for folder in [*old, *root.glob("update_*.partial"), *root.glob("update_*.universal")]:
        try:
            patiently(functools.partial(shutil.rmtree, folder), str(folder))
        except OSError as error:
            _logger.warning("%s: an old checkpoint could not be deleted: %s", folder, error)


def newest_valid(root: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose every file has its committed size and sha256.

    Damaged ones are named in a warning and passed over.

    Raises:
        CheckpointError: If there are checkpoints, but none is whole.
    """
    return _first_whole(_committed(root), inspect)


def committed(root: Path, update: int) -> Checkpoint:
    """Return the checkpoint of one update.

    Raises:
        CheckpointError: If it is not there, or not whole.
    """
    found = _first_whole([root / folder_name(update)], inspect)
    assert found is not None, "a missing record is a fault"
    return found


def agree_on_newest(
    root: Path, unusable: Callable[[Checkpoint], str] | None = None
) -> Checkpoint | None:
    """Return what `newest_valid` does, the same on every rank, before any of them loads.

    The files are shared out among the ranks, which hash them side by side.

    Args:
        root: The folder of the checkpoints.
        unusable: Asked on rank 0 about each whole one: why it may not be used, or an empty text.

    Raises:
        CheckpointError: If there are checkpoints, but none is whole; on all ranks.
    """

    def look(folder: Path) -> tuple[str, Checkpoint | None]:
        fault, found = inspect_together(folder)
        if found is not None and unusable is not None:
            fault = collectives.broadcast(unusable(found) if collectives.is_first() else "")
        return (fault, None) if fault else ("", found)

    return _first_whole(collectives.broadcast(_committed(root)), look)


def inspect(folder: Path, part: slice = slice(None)) -> tuple[str, Checkpoint | None]:
    """Compare a committed folder with its record.

    Args:
        folder: What `seal` named.
        part: The files to hash, of all by falling size; sizes are compared for all.

    Returns:
        The first fault, if any; else an empty text and what the record says.
    """
    try:
        record: JSON = read_json(folder / _RECORD)
        found = _recorded(folder, record)
        files = sorted(record["files"].items(), key=lambda item: (-item[1]["bytes"], item[0]))
        faults = tree_faults(folder, dict(files), deep=False)
        faults = faults or tree_faults(folder, dict(files[part]), deep=True)
    except KeyError as error:
        return f"{folder / _RECORD}: has no {error}", None
    except (OSError, CorruptArtifact, TypeError, AttributeError) as error:
        return f"{folder / _RECORD}: {error}", None
    return (faults[0], None) if faults else ("", found)


def _recorded(folder: Path, record: JSON) -> Checkpoint:
    """Read what a record says of its checkpoint.

    Raises:
        KeyError, TypeError: If it lacks a field, or has one of another type.
    """
    numbers = {name: record[name] for name in ("update", "world_size", "zero_stage")}
    for name, number in numbers.items():
        if type(number) is not int:
            raise TypeError(f"{name} is {number!r}, no whole number")
    return Checkpoint(folder, **numbers, notes=record.get("notes"))


def inspect_together(folder: Path) -> tuple[str, Checkpoint | None]:
    """Do what `inspect` does, each rank with its share of the files; the same answer on all ranks."""
    found = gathered(inspect(folder, slice(dist.get_rank(), None, dist.get_world_size())))
    return next((answer for answer in found if answer[0]), found[0])


def _committed(root: Path) -> list[Path]:
    return sorted(root.glob("update_????????"), reverse=True)


def _first_whole(
    folders: list[Path], look: Callable[[Path], tuple[str, Checkpoint | None]]
) -> Checkpoint | None:
    faults = []
    for folder in folders:
        fault, found = look(folder)
        if found is not None:
            return found
        _logger.warning("checkpoint passed over: %s", fault)
        faults.append(fault)
    if faults:
        raise CheckpointError(
            f"no usable checkpoint: {'; '.join(faults)}. Restore one, or start training anew with "
            "--restart-from finetune"
        )
    return None


def cleared(folder: Path) -> None:
    """Make an empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def flushed(files: Mapping[str, Path], *, is_read_back: bool) -> JSON:
    """Bring files to the disk; returns size in bytes and sha256 by name.

    Args:
        files: Paths by name.
        is_read_back: Read them once more from the device, and let torch open them.

    Raises:
        StorageError: If other bytes came back than were written, or torch cannot open them.
    """
    records: JSON = {}
    for name, path in files.items():
        patiently(functools.partial(_flush, path), str(path))
        records[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    for folder in {path.parent for path in files.values()}:
        fsync_directory(folder)
    if is_read_back:
        for name, path in files.items():
            _read_back(path, records[name]["sha256"])
    return records


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _read_back(path: Path, digest: str) -> None:
    with path.open("rb") as file:  # without this, the hash is of the cache, which is what we wrote
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if sha256_file(path) != digest:
        raise StorageError(
            f"{path}: other bytes came back than were written, which is the storage's fault: choose "
            "another --run-dir"
        )
    if path.suffix == ".pt":
        try:
            torch.load(path, map_location="cpu", weights_only=False, mmap=True)
        except Exception as error:  # whatever pickle says of bytes that are no pickle
            raise StorageError(f"{path}: was written but cannot be loaded: {error}") from error
