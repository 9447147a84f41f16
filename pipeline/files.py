"""Files that are either whole or absent: atomic writes, durable trees, checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pipeline.errors import CorruptArtifact, storage_error

_PROBE_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old content or all of the new, even after a crash."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, its bytes on disk first."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that this program wrote.

    Raises:
        CorruptArtifact: If the text is not JSON; our own writes are atomic, so something else was here.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptArtifact(
            f"{path}: is not valid JSON ({error}); it was altered after the run"
        ) from error


def probe_storage(folder: Path) -> None:
    """Raise StorageError if a small file cannot be written here.

    For libraries that report a full disk as an error of another kind (torch: a bare RuntimeError).
    """
    probe = folder / ".probe.tmp"
    try:
        with probe.open("wb") as file:
            file.write(b"\0" * _PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as refusal:
        shown = storage_error(refusal)
        if shown is not None:
            raise shown from refusal
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def fsync_directory(path: Path) -> None:
    """Make renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tree_files(root: Path) -> dict[str, Path]:
    """Return every regular file under `root` by its relative POSIX name, in name order."""
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def record_tree(root: Path) -> dict[str, dict[str, Any]]:
    """Flush every file under `root` to disk and return its size in bytes and sha256 by name."""
    records = {}
    for name, path in tree_files(root).items():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        records[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    for directory in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        fsync_directory(directory)
    return records


def tree_faults(root: Path, records: dict[str, dict[str, Any]], *, deep: bool) -> list[str]:
    """Say how the files under `root` differ from their records; empty if they do not.

    Args:
        root: The directory to look at.
        records: Bytes and sha256 by relative name, as `record_tree` gave them.
        deep: Compare checksums too; sizes alone otherwise.
    """
    faults = []
    for name, record in records.items():
        path = root / name
        if not path.is_file():
            faults.append(f"{path}: is missing")
        elif (size := path.stat().st_size) != record["bytes"]:
            faults.append(f"{path}: has {size} bytes, {record['bytes']} were committed")
        elif deep and (digest := sha256_file(path)) != record["sha256"]:
            faults.append(f"{path}: sha256 {digest[:12]}, {record['sha256'][:12]} was committed")
    return faults
