"""Input files that the system does not let us read: the user's data is at fault, not the run directory."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError

_NEXT = {
    errno.EACCES: "let this user read it, or give another place",
    errno.EPERM: "let this user read it, or give another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "it is gone: bring it again",
    errno.ENOTDIR: "part of this path is a file: give another place",
    errno.EISDIR: "it is a folder: give its files",
    errno.ELOOP: "its links lead back to themselves: mend them",
}
"""What to do about it. Other errors, such as a stale network file handle, are left as they are."""


@contextlib.contextmanager
def input_errors(path: Path, field: str = "") -> Iterator[None]:
    """Say of an input file what the system refused.

    Args:
        path: What is read, for errors that do not name it themselves.
        field: The setting that names it, if one does.

    Raises:
        DataError: In place of an OSError that the user's file is the cause of.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NEXT:
            raise
        setting = f"{field}: " if field else ""
        raise DataError(
            f"{setting}{error.filename or path}: cannot be read ({error.strerror or error}); "
            f"{_NEXT[error.errno]}"
        ) from error
