"""Checkpoints that are whole or absent: written aside, hashed, renamed; verified before they are used."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import JSON
from pipeline.distributed import collectives
from pipeline.distributed.world import World
from pipeline.distributed.zero import ZeroEngine
from pipeline.errors import CheckpointError, CorruptArtifact
from pipeline.files import (
    fsync_directory,
    probe_storage,
    read_json,
    record_tree,
    tree_faults,
    write_json,
)

_logger = logging.getLogger(__name__)
_RECORD = "commit.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint: the state after `update` updates."""

    folder: Path
    update: int
    world_size: int
    zero_stage: int


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
) -> None:
    """Write and commit a checkpoint on all ranks, then drop all but the newest `keep`.

    Raises:
        StorageError: If the disk is full or refuses; earlier checkpoints stay.
        RunDirInUse: If the run was taken over; nothing is committed then.
    """
    partial, final = root / f"{folder_name(update)}.partial", root / folder_name(update)
    if world.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    collectives.barrier()
    try:
        engine.save(partial)
    except RuntimeError:
        probe_storage(partial)
        raise
    collectives.barrier()
    if world.is_first:
        record = {"update": update, "world_size": world.size, "zero_stage": engine.zero_stage}
        write_json(partial / _RECORD, {**record, "files": record_tree(partial)})
        guard()
        shutil.rmtree(
            final, ignore_errors=True
        )  # a damaged one of the same update, reported before
        partial.rename(final)
        fsync_directory(root)
        drop_old(root, keep)
    collectives.barrier()


def drop_old(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted save left."""
    for folder in sorted(root.glob("update_????????"))[:-keep]:
        shutil.rmtree(folder)
    for leftover in root.glob("update_*.partial"):
        shutil.rmtree(leftover)


def newest_valid(root: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose every file has its committed size and sha256.

    Damaged ones are named in a warning and passed over.

    Raises:
        CheckpointError: If there are checkpoints, but none is whole.
    """
    faults = []
    for folder in sorted(root.glob("update_????????"), reverse=True):
        fault, record = _inspect(folder)
        if record is not None:
            return Checkpoint(folder, record["update"], record["world_size"], record["zero_stage"])
        _logger.warning("checkpoint passed over: %s", fault)
        faults.append(fault)
    if faults:
        raise CheckpointError(
            f"no usable checkpoint: {'; '.join(faults)}. Restore one, or start training anew with "
            "--restart-from finetune"
        )
    return None


def agree_on_newest(root: Path) -> Checkpoint | None:
    """Return rank 0's `newest_valid` on every rank, before any of them loads."""
    return collectives.broadcast(newest_valid(root) if collectives.is_first() else None)


def _inspect(folder: Path) -> tuple[str, JSON | None]:
    try:
        record: JSON = read_json(folder / _RECORD)
        faults = tree_faults(folder, record["files"], deep=True)
    except (OSError, CorruptArtifact, KeyError, TypeError) as error:
        return f"{folder / _RECORD}: {error}", None
    return (faults[0], None) if faults else ("", record)


def require_same_launch(checkpoint: Checkpoint, engine: ZeroEngine, world: World) -> None:
    """Raise CheckpointError unless this launch can read the checkpoint as it is."""
    if checkpoint.zero_stage == engine.zero_stage == 0:
        return  # unsharded: every rank reads the same file
    found = (checkpoint.world_size, checkpoint.zero_stage)
    if found != (world.size, engine.zero_stage):
        raise CheckpointError(
            f"{checkpoint.folder}: was written by {found[0]} processes at ZeRO-{found[1]}, this launch "
            f"has {world.size} at ZeRO-{engine.zero_stage}. Continue with --processes {found[0]} "
            f"--ds-config zero{found[1]}, or start training anew with --restart-from finetune"
        )
