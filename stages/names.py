"""Names of files as text: JSON, pages and pyarrow take no bytes that are not UTF-8."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import ConfigError


def shown(name: str) -> str:
    """Return a name of the file system as text; bytes that are not UTF-8 as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def require_text(path: Path) -> None:
    """Raise ConfigError unless the names of a file or folder, its links and all above it, are UTF-8."""
    for place in (str(path), os.path.realpath(path)):
        if shown(place) != place:
            raise ConfigError(
                f"{shown(place)}: this name is not UTF-8 (its other bytes are shown as \\xff); rename it, or "
                "choose another place"
            )
