"""Room for a run: free space and the user's quota against what it will write."""

from __future__ import annotations

import getpass
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil

from pipeline.doctor.finding import Finding, failure, ok, warning

_CHECK = "room"
_ANSWER_SECONDS = 20
_TEMPORARY_BYTES = 2**20
_SPARE = 1.2
"""What is forecast leaves out rows, logs and predictions."""


class Room(NamedTuple):
    """Bytes that can still be written at a place."""

    place: Path
    free: int
    """In the file system."""
    quota: float | None
    """Of the user's quota there, infinite without a limit; None if that is not known."""

    @property
    def least(self) -> float:
        """What both allow."""
        return self.free if self.quota is None else min(self.free, self.quota)


def room_at(path: Path) -> Room:
    """Measure the room at a path, or at the nearest folder above it that is there."""
    place = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return Room(place, shutil.disk_usage(place).free, _quota_left(place))


def judge_room(found: Room, needed: int | None) -> Finding:
    """Compare the room with what a run will write yet, in bytes; None if that is not known."""
    if found.quota is None:
        quota = "quota not known"
    elif found.quota == math.inf:
        quota = "no quota"
    else:
        quota = f"{sized(found.quota)} of the quota left"
    text = f"{sized(found.free)} free, {quota} at {found.place}"
    if needed is None:
        return ok(_CHECK, text)
    text = f"{text}; checkpoints need {sized(needed)}"
    fix = "free space, choose another --run-dir, or lower finetune.keep_checkpoints"
    if found.least < needed:
        return failure(_CHECK, text, fix)
    return ok(_CHECK, text) if found.least >= _SPARE * needed else warning(_CHECK, text, fix)


def judge_temporary() -> Finding:
    """Write a little where libraries put temporary files, torch's compiler among them."""
    place = "temporary files"
    try:
        place = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(bytes(_TEMPORARY_BYTES))
            file.flush()
    except OSError as error:
        fix = "free space there, or set TMPDIR to a folder that can be written"
        return failure("temp files", f"{place}: {error.strerror or error}", fix)
    return ok("temp files", f"{place} can be written")


def sized(count: float) -> str:
    """Return a number of bytes in decimal units, as quotas and disks are sold in."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _quota_left(place: Path) -> float | None:
    mount = mount_of(place.resolve(), psutil.disk_partitions(all=True))
    if mount is None:
        return None
    if mount.fstype == "lustre":
        command = ["lfs", "quota", "-q", "-u", getpass.getuser(), mount.mountpoint]
    else:
        command = ["quota", "-p", "-w", "-u"]
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return quota_left(done.stdout, {mount.device, mount.mountpoint})


class Mount(NamedTuple):
    """A line of the mount table."""

    device: str
    mountpoint: str
    fstype: str


def mount_of(path: Path, table: Iterable[object]) -> Mount | None:
    """Return the mount that a path is in: of those above it, the one mounted deepest, and last."""
    found = None
    for entry in table:
        mount = Mount(*(str(getattr(entry, name)) for name in Mount._fields))
        is_above = path.is_relative_to(mount.mountpoint)
        if is_above and (found is None or len(mount.mountpoint) >= len(found.mountpoint)):
            found = mount
    return found


def quota_left(text: str, names: Iterable[str]) -> float | None:
    """Read what is left of a quota, in bytes, from what `quota -p -w` or `lfs quota -q` printed.

    Both print for a file system its name, KiB used (with marks such as `*` if over), soft and hard limit (0
    for none); lfs begins a new line after a name of more than 15 characters. The formats are those of their
    manual pages.

    Returns:
        The bytes; infinite if there is no limit, None if the text does not tell.
    """
    wanted = {os.fspath(name) for name in names}
    words = text.split()
    for at, word in enumerate(words, start=1):
        figures = [figure.strip("*[]") for figure in words[at : at + 3]]
        if word in wanted and len(figures) == 3 and all(map(str.isdecimal, figures)):
            used, soft, hard = map(int, figures)
            limit = hard or soft
            return max(limit - used, 0) * 1024 if limit else math.inf
    return None
