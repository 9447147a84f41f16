"""Counts as people read them."""

from __future__ import annotations


def several(count: int, thing: str) -> str:
    """Return a count with its noun, in the plural where it is not one."""
    return f"{count:,} {thing}{'s' * (count != 1)}"
