"""Where documents come from and summaries go to: files, pipes, the terminal."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ConfigError
from pipeline.files import publish

STDIN = Path("-")


@contextlib.contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Open a file to read, or take stdin for `-`.

    Raises:
        ConfigError: If it cannot be read.
    """
    if file == STDIN:
        if sys.stdin is None:
            raise ConfigError("stdin is closed; give a FILE, or pipe documents in")
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    with stream:
        yield stream


def size_of(stream: BinaryIO) -> int | None:
    """Return the bytes of a file; None of a pipe or a terminal."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a stream in memory
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextlib.contextmanager
def published(file: Path | None) -> Iterator[BinaryIO]:
    """Give a stream to write to: a file that appears when the body ends well, or stdout for None.

    Raises:
        ConfigError: If no file can be written there.
    """
    if file is None:
        yield sys.stdout.buffer
        return
    if file.exists() and not file.is_file():
        raise ConfigError(f"--output {file}: is no regular file; leave --output out and redirect")
    path = file.resolve()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        stream = unfinished.open("wb")
    except OSError as error:
        raise ConfigError(f"--output {file}: cannot be written ({error.strerror})") from error
    try:
        with stream:
            yield stream
        publish(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
