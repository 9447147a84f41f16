"""metrics.jsonl: one record every few updates, never one twice, none missing after a resume."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from pipeline.files import write_atomic

_logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends records of one run; reopened at the update that training resumes from."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        self._path = path
        kept = [record for record in read(path) if record["update"] <= resumed_at]
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))

    def add(self, update: int, **values: float | None) -> None:
        """Append one record: values after `update` updates."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"update": update, **values}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, float]]:
    """Return the records of a log; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            _logger.info("%s: an unfinished last record is dropped", path)
            break
    return records
