"""Storage that is slow, full or briefly unwell: retries, sizes known in advance, room asked for in time."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.errors import StorageError

TRIES = 3
FIRST_PAUSE = 0.5
"""Seconds before the second try; twice as long before each further one."""

_BYTES_BY_FILE = 32_768
"""Archive headers and DeepSpeed's settings in each file, measured with 0.19.8."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


def patiently(action: Callable[[], T], what: str) -> T:
    """Return `action()`, called again with growing pauses while it fails as storage does.

    torch reports a failed write as a bare RuntimeError, so that counts too.

    Raises:
        OSError, RuntimeError: What the last try raised.
    """
    for attempt in range(1, TRIES):
        try:
            return action()
        except (OSError, RuntimeError) as error:
            pause = FIRST_PAUSE * 2 ** (attempt - 1)
            _logger.warning("%s: %s; tried again in %.1f s", what, error, pause)
            time.sleep(pause)
    return action()


def checkpoint_bytes(parameters: int, zero_stage: int, world_size: int) -> int:
    """Return the size in bytes of one checkpoint, all ranks together, within 2 % from 1e6 parameters on.

    Parameters, masters and both moments of AdamW are fp32 in every precision (`torch_autocast`):
        ZeRO-0     weights 4 + moments 8, in one file
        ZeRO-1, 2  weights 4, in one file; masters 4 + moments 8, over the ranks
        ZeRO-3     masters 4 + moments 8, over the ranks; the weights are the masters
    """
    if zero_stage == 0:
        return 12 * parameters + _BYTES_BY_FILE
    if zero_stage == 3:
        return 12 * parameters + 2 * world_size * _BYTES_BY_FILE
    return 16 * parameters + (1 + world_size) * _BYTES_BY_FILE


def require_space(root: Path, checkpoint: int, count: int) -> None:
    """Check that `count` checkpoints fit under `root`, and one more while it is written.

    Quotas are not seen: only writing tells of them.

    Args:
        root: The folder of the checkpoints, which need not exist yet; what lies there counts as free.
        checkpoint: Size of one checkpoint in bytes.
        count: Checkpoints that are kept at a time.

    Raises:
        StorageError: If the file system has less room.
    """
    place = next(folder for folder in (root, *root.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free + tree_bytes(root)
    needed = (count + 1) * checkpoint
    if free < needed:
        raise StorageError(
            f"{root}: {free / 1e9:.3g} GB are free, and {count} checkpoints of {checkpoint / 1e9:.3g} GB "
            f"with one more being written need {needed / 1e9:.3g} GB: free space, choose another --run-dir, "
            "or lower finetune.keep_checkpoints"
        )


def conversion_bytes(checkpoint: int, zero_stage: int, world_size: int) -> int:
    """Return the most bytes that a conversion to the universal form holds at a time, beside the checkpoint.

    Measured with deepspeed 0.19.8; 2 % less than said here, from 1e6 parameters on:
        ZeRO-1, 2  masters and moments twice, in pieces and merged: 24 bytes to the checkpoint's 16
        ZeRO-3     the same, 24 of 12, and one rank's part of them, which is copied as it is

    Args:
        checkpoint: Its size in bytes.
        zero_stage: What it was written at, 1 to 3.
        world_size: Ranks that wrote it.
    """
    return int(checkpoint * (2.05 + 1 / world_size if zero_stage == 3 else 1.55))


def require_space_to_convert(folder: Path, zero_stage: int, world_size: int) -> None:
    """Check that the checkpoint in `folder`, written so, can be converted to the universal form beside it.

    Quotas are not seen: only writing tells of them.

    Raises:
        StorageError: If the file system has less room.
    """
    free, checkpoint = shutil.disk_usage(folder).free, tree_bytes(folder)
    needed = conversion_bytes(checkpoint, zero_stage, world_size)
    if free < needed:
        raise StorageError(
            f"{folder}: {free / 1e9:.3g} GB are free, and converting this checkpoint of "
            f"{checkpoint / 1e9:.3g} GB for another number of processes needs {needed / 1e9:.3g} GB: "
            f"free space, or continue with --processes {world_size}"
        )


def tree_bytes(root: Path) -> int:
    """Return the bytes of all files under `root`; 0 if it is not there."""
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
