"""Resume what another number of ranks left: through DeepSpeed's universal checkpoint, converted once.

ZeRO-1, 2 and 3 each resume on any number of processes, and ZeRO-1 and 2 each other's checkpoints; ZeRO-0 is
unsharded and needs no conversion. What DeepSpeed cannot carry from one family to another is refused.
"""

from __future__ import annotations

import datetime
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from pipeline.distributed import collectives
from pipeline.distributed.checkpoint import (
    Checkpoint,
    agree_on_newest,
    cleared,
    flushed,
    inspect_together,
    require_same_launch,
    seal,
)
from pipeline.distributed.voting import voted
from pipeline.distributed.world import World
from pipeline.distributed.zero import STATE, ZeroEngine
from pipeline.errors import CheckpointError
from pipeline.files import probe_storage, tree_files

CONVERSION_LIMIT = datetime.timedelta(hours=6)
"""How long ranks wait for rank 0 to convert; reading and writing twice what a checkpoint holds."""

_logger = logging.getLogger(__name__)


def resume(engine: ZeroEngine, root: Path, world: World) -> Checkpoint | None:
    """Load the newest whole checkpoint under `root` on all ranks, whatever number of ranks wrote it.

    Host memory: each rank reads its own partition, as at an ordinary resume. A conversion runs on rank 0's
    host and holds the optimizer state of one of the old ranks at a time (at ZeRO-1 and 2 the weights too);
    loading it holds one parameter at a time beside the partition. The next save deletes the conversion.

    Returns:
        What was loaded; None if there is no checkpoint.

    Raises:
        CheckpointError: If none is whole, or the newest is of another ZeRO family.
        StorageError: If there is no room for the conversion.
    """
    found = agree_on_newest(root)
    if found is None:
        return None
    saved, present = (found.world_size, found.zero_stage), (world.size, engine.zero_stage)
    is_unsharded = found.zero_stage == engine.zero_stage == 0
    is_same_family = found.zero_stage == engine.zero_stage or {
        found.zero_stage,
        engine.zero_stage,
    } == {1, 2}
    if is_unsharded or (is_same_family and saved[0] == present[0]):
        engine.load(found.folder)
    elif is_same_family:
        engine.load(_universal(found, world), is_universal=True)
        if world.is_first:
            _logger.info(
                "the checkpoint of update %d, written by %d processes at ZeRO-%d, continues on %d at ZeRO-%d",
                *(found.update, *saved, *present),
            )
    else:
        require_same_launch(found, engine, world)
    collectives.barrier()  # nobody saves, and drops old checkpoints, while another still reads
    return found


def _universal(found: Checkpoint, world: World) -> Path:
    """Return the checkpoint's universal form, made now unless a whole one is there from an earlier resume."""
    final = found.folder.with_name(f"{found.folder.name}.universal")
    if collectives.broadcast(final.is_dir()):
        fault, record = inspect_together(final)
        if record is not None:
            return final
        _logger.warning("converted again: %s", fault)
    store, key = dist.distributed_c10d._get_default_store(), f"converted/{final.name}"

    def convert() -> None:
        try:
            _convert(found, final)
        finally:
            store.set(key, "done")

    if not world.is_first:  # by the store: a collective would time out over a large model
        store.wait([key], CONVERSION_LIMIT)
    voted(convert, world, only_first=True)
    return final


def _convert(found: Checkpoint, final: Path) -> None:
    """Write the universal form beside the checkpoint, committed as one; in a process of its own."""
    partial = final.with_name(f"{final.name}.partial")
    cleared(partial)
    command = [
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"),
        *("--input_folder", str(found.folder / STATE), "--output_folder", str(partial / STATE)),
        *("--num_extract_workers", "1", "--num_merge_workers", "1"),  # more hold more in memory
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            probe_storage(partial)
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise CheckpointError(
                f"{found.folder}: could not be converted for another number of processes ({reason}). "
                f"Continue with --processes {found.world_size}"
            )
        files = flushed(tree_files(partial), is_read_back=False)
        origin = {
            "update": found.update,
            "world_size": found.world_size,
            "zero_stage": found.zero_stage,
        }
        seal(partial, final, {**origin, "notes": found.notes, "files": files}, guard=lambda: None)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
