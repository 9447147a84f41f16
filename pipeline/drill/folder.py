"""The folder that a drill works in: its own, or none."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.claim import Claim
from pipeline.errors import ConfigError, RunDirInUse
from pipeline.files import write_atomic

MARKER = ".drill"
"""A file that a folder of a drill has, and no run directory."""
_CLAIM = ".drill.lease"


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Make a folder for a drill, or empty that of an earlier one, and keep other drills out of it.

    Raises:
        ConfigError: If something else is there.
        RunDirInUse: If another drill is at work in it.
    """
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_new and not (folder / MARKER).is_file():
        raise ConfigError(
            f"--dir {folder}: is there and is not the folder of a drill (it has no {MARKER}); choose "
            "another, or one that is not there yet"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / MARKER, "Made by `sumpipe drill`, which empties this folder.\n")
    claim = Claim(folder / _CLAIM)
    if not claim.take():
        raise RunDirInUse(
            f"--dir {folder}: another drill is at work here; wait for it, or choose another folder"
        )
    try:
        for child in folder.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            elif child.name not in (MARKER, _CLAIM):
                child.unlink()
        yield folder
    finally:
        claim.release()
