"""The folder that a drill works in: its own, or none."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from pipeline.claim import LEASE_SECONDS, Claim
from pipeline.errors import ConfigError, RunDirInUse, StorageError
from pipeline.files import write_atomic

_logger = logging.getLogger(__name__)

MARKER = ".drill"
"""A file that a folder of a drill has, and no run directory."""
_CLAIM = ".drill.lease"


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Make a folder for a drill, or empty that of an earlier one, and keep other drills out of it.

    Raises:
        ConfigError: If something else is there.
        StorageError: If it cannot be made, written or emptied.
        RunDirInUse: If another drill is at work in it.
    """
    with contextlib.ExitStack() as stack:
        try:
            _make(folder)
            stack.enter_context(_claimed(folder))
            _empty(folder)
        except OSError as error:
            raise StorageError(
                f"--dir {folder}: {error.strerror or error}; choose a folder that this user can write, on a "
                "disk with room"
            ) from error
        yield folder


def _make(folder: Path) -> None:
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_new and not (folder / MARKER).is_file():
        raise ConfigError(
            f"--dir {folder}: is there and is not the folder of a drill (it has no {MARKER}); choose "
            "another, or one that is not there yet"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / MARKER, "Made by `sumpipe drill`, which empties this folder.\n")


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep other drills out; one of another host, or without a name, has a while to show that it lives.

    Raises:
        RunDirInUse: If it does, or if a named one works on this host.
    """
    claim = Claim(folder / _CLAIM, LEASE_SECONDS)
    if not claim.take():
        holder = claim.holder()
        who = "a process that left no name" if holder is None else "host {}, pid {}".format(*holder)
        busy = f"--dir {folder}: another drill is at work here ({who})"
        is_here = holder is not None and holder[0] == socket.gethostname()
        if not is_here:
            _logger.warning("%s. Waiting %.0f s for a sign of life.", busy, LEASE_SECONDS)
        if is_here or not claim.take(LEASE_SECONDS + 5):
            raise RunDirInUse(f"{busy}; wait for it, or choose another folder")
    try:
        yield
    finally:
        claim.release()


def _empty(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name not in (MARKER, _CLAIM):
            child.unlink()
