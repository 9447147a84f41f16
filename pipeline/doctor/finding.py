"""What a check says: one line, and the fix; and how a check is kept from harming the others."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, TypeVar

from pipeline.config import JSON
from pipeline.errors import PipelineError, storage_error

T = TypeVar("T")


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Finding(NamedTuple):
    """What one check says."""

    check: str
    level: Level
    text: str
    fix: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        fix = f" -> {self.fix}" if self.fix else ""
        return f"{self.level:8} {self.check:13} {self.text}{fix}"

    @classmethod
    def of(cls, record: JSON) -> Finding:
        """Return what `_asdict` gave, after it went through JSON."""
        return cls(**{**record, "level": Level(record["level"])})


def ok(check: str, text: str) -> Finding:
    """Return a finding that nothing is to be done about."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, fix: str) -> Finding:
    """Return a finding with which runs work, though not as well as they could."""
    return Finding(check, Level.WARNING, text, fix)


def failure(check: str, text: str, fix: str) -> Finding:
    """Return a finding with which runs fail."""
    return Finding(check, Level.FAILURE, text, fix)


def within(seconds: float, action: Callable[[], T]) -> T:
    """Return `action()`, or give up on it.

    A thread does it, and is left behind if it hangs: nothing ends a call that a dead file server holds.

    Raises:
        TimeoutError: If it takes longer.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(action())
        except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"gave no answer within {seconds:.0f} s")
    return results[0]


def guarded(
    check: str, seconds: float, action: Callable[[], Iterable[Finding]]
) -> tuple[Finding, ...]:
    """Return what a check finds; its own breakdown is a failure like any other."""
    try:
        return within(seconds, lambda: tuple(action()))
    except Exception as error:  # noqa: BLE001 - a check that breaks must not hide the others' findings
        return (failure(check, *told(error)),)


def told(error: Exception) -> tuple[str, str]:
    """Return what an error says, and the fix."""
    if isinstance(error, TimeoutError):
        return str(error), "see whether the file system, or the network, behind it still answers"
    if isinstance(error, ImportError):
        return f"{type(error).__name__}: {error}", "install the project with `pip install -e .`"
    shown = storage_error(error) if isinstance(error, OSError) else None
    if shown is not None:
        text, _, fix = str(shown).partition("; ")
        return text, fix
    if isinstance(error, PipelineError):
        text, _, fix = str(error).partition("; ")
        return text, fix
    return f"{type(error).__name__}: {error}", "this check itself broke: report it"


def merged(by_rank: Mapping[int, Iterable[Finding]]) -> list[Finding]:
    """Say once what several tasks found, and name those that found it if others did not."""
    finders: dict[Finding, list[int]] = {}
    for rank, findings in by_rank.items():
        for finding in findings:
            finders.setdefault(finding, []).append(rank)
    order = list(dict.fromkeys(finding.check for finding in finders))
    found = [
        finding
        if len(ranks) == len(by_rank)
        else finding._replace(text=f"{ranks_text(ranks)}: {finding.text}")
        for finding, ranks in finders.items()
    ]
    return sorted(found, key=lambda finding: order.index(finding.check))


def ranks_text(ranks: Iterable[int]) -> str:
    """Return `rank 0-2, 5`."""
    spans: list[str] = []
    pairs = enumerate(sorted(ranks))
    for _, span in itertools.groupby(pairs, lambda pair: pair[1] - pair[0]):
        numbers = [rank for _, rank in span]
        is_long = len(numbers) > 2
        spans += [f"{numbers[0]}-{numbers[-1]}"] if is_long else map(str, numbers)
    return f"rank {', '.join(spans)}"
