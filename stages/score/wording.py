"""Counts as people read them."""

from __future__ import annotations


def several(count: int, thing: str) -> str:
    """Return a count with its noun, in the plural where it is not one."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def verb(count: int, of_one: str, of_several: str) -> str:
    """Return the verb that goes with a count."""
    return of_one if count == 1 else of_several
