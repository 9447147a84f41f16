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
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from pipeline.distributed import collectives
from pipeline.distributed.checkpoint import (
    Checkpoint,
    agree_on_newest,
    cleared,
    flushed,
    inspect_together,
    seal,
)
from pipeline.distributed.presence import waiting
from pipeline.distributed.storage import require_space_to_convert
from pipeline.distributed.voting import voted
from pipeline.distributed.world import World
from pipeline.distributed.zero import STATE, ZeroEngine
from pipeline.errors import CheckpointError, LaunchError
from pipeline.files import probe_storage, tree_files
from pipeline.preemption import SIGNALS, StopFlag

CONVERSION_LIMIT = datetime.timedelta(hours=6)
"""How long ranks wait for rank 0 to convert; reading and writing twice what a checkpoint holds."""
_READERS = {
    0: "--ds-config zero0",
    1: "--ds-config zero1 or zero2",
    2: "--ds-config zero1 or zero2",
    3: "--ds-config zero3",
}
"""Profiles that read what was written at a ZeRO stage."""
_POLL_SECONDS = 0.5
_SIGNAL_SECONDS = 5.0
"""Within which a stop that was sent to all processes of a job is here too, once the converter died of it."""

_logger = logging.getLogger(__name__)


def resume(
    engine: ZeroEngine,
    root: Path,
    world: World,
    stop: StopFlag,
    unusable: Callable[[Checkpoint], str] | None = None,
) -> Checkpoint | None:
    """Load the newest whole checkpoint under `root` on all ranks, whatever number of ranks wrote it.

    Host memory: each rank reads its own partition, as at an ordinary resume. A conversion runs on rank 0's
    host and holds the optimizer state of one of the old ranks at a time (at ZeRO-1 and 2 the weights too);
    loading it holds one parameter at a time beside the partition. The next save deletes the conversion.

    Returns:
        What was loaded; None if there is no checkpoint.

    Raises:
        CheckpointError: If none is whole, or the newest is of another ZeRO family.
        StorageError: If there is no room for the conversion.
        Preempted: On all ranks, if one was asked to stop during the conversion; nothing of it stays.
    """
    found = agree_on_newest(root, unusable)
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
        engine.load(_universal(found, world, stop), is_universal=True)
        if world.is_first:
            _logger.info(
                "the checkpoint of update %d, written by %d processes at ZeRO-%d, continues on %d at ZeRO-%d",
                *(found.update, *saved, *present),
            )
    else:
        raise CheckpointError(
            f"{found.folder}: was written at ZeRO-{saved[1]}; ZeRO-{present[1]} cannot read it. Continue "
            f"with {_READERS[saved[1]]}, or start training anew with --restart-from finetune"
        )
    collectives.barrier()  # nobody saves, and drops old checkpoints, while another still reads
    return found


def _universal(found: Checkpoint, world: World, stop: StopFlag) -> Path:
    """Return the checkpoint's universal form, made now unless a whole one is there from an earlier resume."""
    final = found.folder.with_name(f"{found.folder.name}.universal")
    if collectives.broadcast(final.is_dir()):
        fault, record = inspect_together(final)
        if record is not None:
            return final
        _logger.warning("converted again: %s", fault)
    store = dist.distributed_c10d._get_default_store()
    end, stopped = f"converted/{final.name}", f"stopped/{final.name}"

    def look() -> None:
        if store.check([stopped]):
            stop.request("a request to another rank")
        stop.check()

    def convert() -> None:
        try:
            _convert(found, final, look)
        finally:
            store.set(end, "here")

    if not world.is_first:
        _await_end(store, end, stopped, stop)
    voted(convert, world, only_first=True)
    return final


def _await_end(store: dist.distributed_c10d.Store, end: str, stopped: str, stop: StopFlag) -> None:
    """Wait for rank 0 to convert, and tell it of a stop that this rank is asked for.

    By the store, since a collective would time out; by looks, since in one wait Python handles no signal.

    Raises:
        LaunchError: If rank 0 does not come to an end within `CONVERSION_LIMIT`.
    """
    deadline = time.monotonic() + CONVERSION_LIMIT.total_seconds()
    while not store.check([end]):
        if time.monotonic() > deadline:
            raise LaunchError(
                f"rank 0 has not converted the checkpoint within {CONVERSION_LIMIT}; its log says where it "
                "is. Run the same command again with the number of processes that wrote it"
            )
        if stop.reason is not None:
            store.set(stopped, stop.reason)
        with waiting():
            time.sleep(_POLL_SECONDS)


def _convert(found: Checkpoint, final: Path, look: Callable[[], None]) -> None:
    """Write the universal form beside the checkpoint, committed as one.

    `look` is called time and again, and raises Preempted to end it.
    """
    partial = final.with_name(f"{final.name}.partial")
    try:
        cleared(partial)
        require_space_to_convert(found.folder, found.zero_stage, found.world_size)
        code, words = _run_converter(found.folder / STATE, partial / STATE, look)
        if code != 0:
            if -code in SIGNALS:
                _await_stop(look)
            probe_storage(partial)
            reason = (words.strip() or f"exit code {code}").splitlines()[-1]
            raise CheckpointError(
                f"{found.folder}: could not be converted for another number of processes ({reason}). "
                f"Continue with --processes {found.world_size}"
            )
        files = flushed(tree_files(partial), is_read_back=False)
        look()
        origin = {
            "update": found.update,
            "world_size": found.world_size,
            "zero_stage": found.zero_stage,
        }
        seal(partial, final, {**origin, "notes": found.notes, "files": files}, guard=lambda: None)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _run_converter(source: Path, target: Path, look: Callable[[], None]) -> tuple[int, str]:
    """Run DeepSpeed's converter in a process of its own; returns its exit code and what it complained of.

    Its process group is its own too, so that a terminal's interrupt stops us and not it; its session is
    ours, so that whoever ends the session ends it.
    """
    command = [
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"),
        *("--input_folder", str(source), "--output_folder", str(target)),
        *("--num_extract_workers", "1", "--num_merge_workers", "1"),  # more hold more in memory
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        while True:
            try:
                _, words = process.communicate(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                look()
            else:
                return process.returncode, words
    finally:
        if process.poll() is None:
            process.kill()  # what it wrote is thrown away
            process.communicate()


def _await_stop(look: Callable[[], None]) -> None:
    """Give a stop that the converter died of the time to reach this process; raises Preempted then."""
    deadline = time.monotonic() + _SIGNAL_SECONDS
    while time.monotonic() < deadline:
        look()
        time.sleep(_POLL_SECONDS)
