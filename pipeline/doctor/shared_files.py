"""The file system at the run directory, as all tasks see it: what the commit protocol and the claims need.

Each step follows an exchange with the others, so that what one has done before it another may look for after.
    make      rank 0 makes a folder and writes a beacon into it
    see       all read the beacon
    contend   all try to create the same files; each writes a larger one, and publishes a folder by rename
    read      all read what their neighbour published
    replace   each replaces what it published by rename
    reread    all look for what their neighbour replaced
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config import JSON
from pipeline.distributed.world import World
from pipeline.doctor.finding import Finding, failure, ok, ranks_text, told, warning, within
from pipeline.doctor.meeting import Meeting
from pipeline.errors import StorageError
from pipeline.files import write_atomic

_CHECK = "shared files"
PATIENCE_SECONDS = 10.0
"""How long what another task wrote may stay unseen; NFS clients keep attributes for 3 s and more."""
PROMPT_SECONDS = 1.0
STEP_SECONDS = 40.0
_POLL_SECONDS = 0.02
_CONTESTS = 16
_BEACON_BYTES, _LARGE_BYTES = 2**20, 16 * 2**20
_SLOW = 20e6
"""Bytes a second of all tasks, at which a checkpoint of BART-large takes 5 minutes."""
_STALE_SECONDS = 3600.0
_PREFIX = ".doctor-"


class Steps(NamedTuple):
    """What each rank said of each step: figures, or `error` and `fix`, after which no step follows."""

    see: Mapping[int, JSON] = {}
    contend: Mapping[int, JSON] = {}
    read: Mapping[int, JSON] = {}
    replace: Mapping[int, JSON] = {}
    reread: Mapping[int, JSON] = {}


def examine_files(run_dir: Path, world: World, meeting: Meeting) -> list[Finding]:
    """Try out the file system together; returns what rank 0 finds, nothing on the others."""
    folder = run_dir / f"{_PREFIX}{secrets.token_hex(4)}"
    """Rank 0's is the one that counts."""
    parents: list[Path] = []
    try:
        mine = _told(lambda: _make(folder, parents)) if world.is_first else {}
        made = meeting.gather("shared files: make", mine, STEP_SECONDS)[0]
        assert made is not None, "rank 0 has its own answer"
        if "error" in made:
            return [failure(_CHECK, made["error"], made["fix"])] if world.is_first else []
        said = _together(run_dir / made["folder"], made["sha256"], world, meeting)
    finally:
        if world.is_first:
            with contextlib.suppress(TimeoutError):  # where nothing answers, nothing can be removed
                within(PATIENCE_SECONDS, lambda: _remove(folder, parents))
    return list(judge_files(said, world.size, run_dir)) if world.is_first else []


def _together(folder: Path, sha256: str, world: World, meeting: Meeting) -> Steps:
    """Do step after step, until one fails for somebody: all learn of it alike."""
    said: dict[str, dict[int, JSON]] = {}

    def next_to_me() -> Path:
        present = sorted(said["contend"])
        neighbour = present[(present.index(world.rank) + 1) % len(present)]
        return _published(folder, neighbour)

    actions: dict[str, Callable[[], JSON]] = {
        "see": lambda: _see(folder / "beacon", sha256),
        "contend": lambda: _contend(folder, world.rank),
        "read": lambda: _see(next_to_me(), _sha256(b"first")),
        "replace": lambda: _replace(folder, world.rank),
        "reread": lambda: _see(next_to_me(), _sha256(b"second")),
    }
    for name, action in actions.items():
        answers = meeting.gather(f"shared files: {name}", _told(action), STEP_SECONDS)
        said[name] = {rank: answer for rank, answer in enumerate(answers) if answer is not None}
        if any("error" in answer for answer in said[name].values()):
            break
    return Steps(**said)


def _told(action: Callable[[], JSON]) -> JSON:
    try:
        return within(STEP_SECONDS - 5, action)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is this rank's answer
        text, fix = told(error)
        return {"error": f"{socket.gethostname()}: {text}", "fix": fix}


def _make(folder: Path, parents: list[Path]) -> JSON:
    """Make a folder of ours in the run directory, which is made if need be, and write the beacon.

    Args:
        folder: What to make.
        parents: Gets the folders above it that are not there, the lowest first, before any is made.
    """
    parents += [path for path in folder.parents if not path.exists()]
    for old in folder.parent.glob(f"{_PREFIX}*"):  # left by one that was killed
        with contextlib.suppress(FileNotFoundError):  # another doctor was quicker
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True)
    beacon = secrets.token_bytes(_BEACON_BYTES)
    write_atomic(folder / "beacon", beacon)
    return {"folder": folder.name, "sha256": _sha256(beacon)}


def _remove(folder: Path, parents: Sequence[Path]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for path in parents:
        with contextlib.suppress(OSError):
            path.rmdir()


def _see(path: Path, sha256: str) -> JSON:
    """Wait until a file has these bytes; returns the seconds that it took.

    Raises:
        StorageError: If it has not within PATIENCE_SECONDS.
    """
    started, found = time.monotonic(), "is not there"
    while True:
        try:
            list(path.parent.iterdir())  # makes a network client forget that a file was not there
            digest = _sha256(path.read_bytes())
            if digest == sha256:
                return {"seconds": time.monotonic() - started}
            found = f"has other bytes (sha256 {digest[:12]}, {sha256[:12]} was written)"
        except (FileNotFoundError, NotADirectoryError):
            found = "is not there"
        if time.monotonic() - started > PATIENCE_SECONDS:
            raise StorageError(
                f"{path} {found} after {PATIENCE_SECONDS:.0f} s; choose a --run-dir on a file "
                "system that all nodes share"
            )
        time.sleep(_POLL_SECONDS)


def _contend(folder: Path, rank: int) -> JSON:
    """Try to create what all try to, write with fsync, and publish a folder.

    Returns:
        `host`, `won`, the contests that this rank won, and `bytes_per_second` of the writing.
    """
    won = [number for number in range(_CONTESTS) if _creates(folder / f"contest{number}", rank)]
    data = secrets.token_bytes(_LARGE_BYTES)
    started = time.monotonic()
    with (folder / f"large{rank}").open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    speed = _LARGE_BYTES / (time.monotonic() - started)
    final = _published(folder, rank).parent
    partial = final.with_name(f"{final.name}.partial")
    partial.mkdir()
    write_atomic(partial / _published(folder, rank).name, b"first")
    partial.rename(final)
    return {"host": socket.gethostname(), "won": won, "bytes_per_second": speed}


def _creates(path: Path, rank: int) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{rank} {socket.gethostname()}")
    return True


def _replace(folder: Path, rank: int) -> JSON:
    path = _published(folder, rank)
    if not path.is_file():
        raise OSError(errno.ENOENT, "a rename did not last", str(path))
    write_atomic(path, b"second")
    return {}


def _published(folder: Path, rank: int) -> Path:
    return folder / f"published{rank}" / "state"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def judge_files(said: Steps, size: int, run_dir: Path) -> Iterator[Finding]:
    """Judge what the ranks said."""
    for answers in said:
        errors: dict[tuple[str, str], list[int]] = {}
        for rank, answer in answers.items():
            if "error" in answer:
                errors.setdefault((answer["error"], answer["fix"]), []).append(rank)
        for (error, fix), ranks in errors.items():
            yield failure(_CHECK, f"{ranks_text(ranks)}: {error}", fix)
        if errors:
            return
    wins = [number for answer in said.contend.values() for number in answer["won"]]
    odd = [number for number in range(_CONTESTS) if wins.count(number) != 1]
    if odd and len(said.contend) == size:
        winners = [rank for rank, answer in said.contend.items() if odd[0] in answer["won"]]
        text = f"O_EXCL let {len(winners)} of {size} tasks create the same file ({ranks_text(winners)})"
        yield failure(_CHECK, text, "choose a --run-dir on NFS 3 or later, Lustre or GPFS")
        return
    looks = (said.see, said.read, said.reread)
    seen = max(answer["seconds"] for answers in looks for answer in answers.values())
    speed = min(answer["bytes_per_second"] for answer in said.contend.values())
    hosts = len({answer["host"] for answer in said.contend.values()})
    text = (
        f"{run_dir}: same bytes, O_EXCL and rename hold over {hosts} host(s); seen within {seen:.2f} s; "
        f"{speed / 1e6:.3g} MB/s a task with fsync"
    )
    if seen > PROMPT_SECONDS:
        fix = "expected of NFS with long attribute caching; mount it with actimeo=1 if you can"
        yield warning(_CHECK, text, fix)
    elif speed * len(said.contend) < _SLOW:  # all write their parts of a checkpoint at once
        yield warning(_CHECK, text, "checkpoints will be slow: choose a faster --run-dir")
    else:
        yield ok(_CHECK, text)
