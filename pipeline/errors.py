"""Every error a user can meet, and the exit code it ends the process with.

PipelineError (1)
    ConfigError (2)          a recipe, an override or a command line that cannot be right
    DataError (1)            an input file or row that cannot be used
    ArtifactError (1)
        CorruptArtifact (1)  bytes on disk differ from what was committed
        StaleArtifact (3)    finished work was made with other settings
    RunDirInUse (1)          another process holds the run directory
    StorageError (1)         full disk, read-only file system, input/output error
    CheckpointError (1)      no usable checkpoint, or one that does not fit this launch
    LaunchError (1)          processes that could not be started or ended badly
        WorkIsGone (1)       what a helper worked on was finished or removed by its owner
    Preempted (75)           stopped on request, and says what is kept: "requeue me"
"""

from __future__ import annotations

import errno

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STALE = 3
EXIT_PREEMPTED = 75

_DENIED = (
    "permission is denied: give this user the right to it, or choose a --run-dir that this user can write if "
    "it is in there"
)
_STORAGE_HINTS = {
    errno.ENOSPC: "the disk is full: free space, then run the same command again",
    errno.EDQUOT: "the quota is used up: free space, then run the same command again",
    errno.EROFS: "the file system is read-only: choose a --run-dir that can be written",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EEXIST: "a file is in the way: choose another --run-dir",
    errno.ENOTDIR: "part of this path is a file: choose another --run-dir",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose another --run-dir",
    errno.EIO: "the file system reported an input/output error: run the same command again",
    errno.ESTALE: "the network file handle went stale: run the same command again",
}


class PipelineError(Exception):
    """A failure with a message for the user; shown without a traceback."""

    exit_code = EXIT_FAILED


class ConfigError(PipelineError):
    """A recipe, override or command line that cannot be right."""

    exit_code = EXIT_USAGE


class DataError(PipelineError):
    """An input file or row that cannot be used."""


class ArtifactError(PipelineError):
    """A stage directory that is not what it should be."""


class CorruptArtifact(ArtifactError):
    """Bytes on disk differ from what was committed."""


class StaleArtifact(ArtifactError):
    """Finished or partial work was made with other settings."""

    exit_code = EXIT_STALE


class RunDirInUse(PipelineError):
    """Another process holds the run directory."""


class StorageError(PipelineError):
    """The file system refused: full, read-only, no permission, input/output error."""


class CheckpointError(PipelineError):
    """No usable checkpoint, or one that does not fit this launch."""


class LaunchError(PipelineError):
    """Processes that could not be started or ended badly."""


class WorkIsGone(LaunchError):
    """What a helping process worked on was finished, or removed, by the one that holds the run."""


class Preempted(PipelineError):
    """Stopped on request; the message says what is kept."""

    exit_code = EXIT_PREEMPTED


def storage_error(error: OSError) -> StorageError | None:
    """Turn an operating-system error about storage into a message with a way out.

    Args:
        error: What a file operation raised.

    Returns:
        The error to show, or None if `error` is not about storage (a bug should keep its traceback).
    """
    hint = _STORAGE_HINTS.get(error.errno or 0)
    if hint is None:
        return None
    file = error.filename2 or error.filename  # of two, as in a copy, the second is the one written
    where = f"{file}: " if file else ""
    return StorageError(f"{where}{error.strerror}; {hint}. Committed work is safe.")


def for_people(error: Exception) -> PipelineError | None:
    """Return what to tell a user of an error; None if it is a bug, which keeps its traceback."""
    if isinstance(error, PipelineError):
        return error
    return storage_error(error) if isinstance(error, OSError) else None
