"""Calls of the Hugging Face Hub: made again where waiting may help, else an error that says what to do."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline.errors import DataError, storage_error

WAITS = (1.0, 3.0, 6.0)
"""Seconds before a further try, of what the Hub's client has given up after tries of its own."""

_LASTING = (
    RepositoryNotFoundError,
    RevisionNotFoundError,
    OfflineModeIsEnabled,
    ValueError,
    RuntimeError,
)
_SHORT = 300
_CLIENTS = {"huggingface_hub", "httpx", "httpx2", "datasets", "requests"}
_OURS = {"stages", "pipeline"}

Result = TypeVar("Result")
_logger = logging.getLogger(__name__)


def tried(what: str, call: Callable[[], Result], help_: str) -> Result:
    """Call until it succeeds, WAITS apart; an error that waiting does not mend is one at once.

    Args:
        what: What is asked of the Hub, for people.
        call: Asks; has to bear being made again.
        help_: What to do where it fails.

    Raises:
        DataError: If it fails; ends with `help_`. A full disk stays an OSError, another bug what it is.
    """
    for attempt, wait in enumerate((*WAITS, None), 1):
        try:
            return call()
        except Exception as raised:
            error = _unwrapped(raised)
            if isinstance(error, OSError) and storage_error(error):
                raise  # a full disk is no matter of the network
            if not _is_of_the_hub(error):
                raise
            reason = " ".join(str(error).split())[:_SHORT]
            if wait is None or not _may_pass(error):
                raise DataError(f"{what}: {type(error).__name__}: {reason}. {help_}") from raised
            _logger.warning(
                "%s: try %d of %d failed (%s); the next in %g s",
                *(what, attempt, len(WAITS) + 1, reason, wait),
            )
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _unwrapped(error: Exception) -> Exception:
    """Return what went wrong where the client says no more than that an upload did."""
    cause = error.__cause__
    return cause if type(error) is RuntimeError and isinstance(cause, Exception) else error


def _origins(error: Exception) -> set[str]:
    """Return the packages that an error's classes are from."""
    return {base.__module__.partition(".")[0] for base in type(error).__mro__}


def _is_of_the_hub(error: Exception) -> bool:
    """Whether an error is one of the client's, whose classes have no base of their own, or of a socket's.

    Python's own classes say nothing: such an error is the client's where its code, and not ours, was the last
    to be at work, perhaps in a library.
    """
    if _origins(error) & _CLIENTS:
        return True
    if not isinstance(error, (OSError, ValueError, RuntimeError)):
        return False
    frames = traceback.walk_tb(error.__traceback__)
    packages = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames]
    at_work = [name for name in packages if name in _CLIENTS | _OURS]
    return not at_work or at_work[-1] in _CLIENTS


def _may_pass(error: Exception) -> bool:
    if isinstance(error, _LASTING) or "datasets" in _origins(error):
        return False
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        return status in (408, 429) or status >= 500
    return not isinstance(error, EntryNotFoundError) or isinstance(error, OSError)
