"""metrics.jsonl: one record every few updates, never one twice, none missing after a resume."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.files import write_atomic

SET_ASIDE = "metrics.set_aside.jsonl"
"""Records past the checkpoint that training resumed from; the resumed updates write theirs anew."""

VALIDATION = "valid/nll"
"""What the record of a validation has, and no other."""
TRAINING = "loss"
"""What the record of a window of updates has, and no other."""

_logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends records of one run; reopened at the update that training resumes from.

    Args:
        path: The file.
        resumed_at: Updates done; later records are set aside.
        undone: Values that only records still to be written at `resumed_at` have, such as VALIDATION if the
            validation there is still to be done; such records are set aside too.
        tensorboard: A folder to write event files to as well, or None.
    """

    def __init__(
        self,
        path: Path,
        resumed_at: int,
        *,
        undone: Collection[str] = (),
        tensorboard: Path | None = None,
    ) -> None:
        self._path = path

        def is_late(record: dict[str, float]) -> bool:
            is_undone = any(name in record for name in undone)
            return record["update"] > resumed_at or (record["update"] == resumed_at and is_undone)

        records = read(path)
        late = [record for record in records if is_late(record)]
        if late:
            with (path.parent / SET_ASIDE).open("a", encoding="utf-8") as file:
                file.write(_lines(late))
        write_atomic(path, _lines([record for record in records if not is_late(record)]))
        self._writer: Any = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(tensorboard), purge_step=resumed_at + 1)

    def add(self, update: int, **values: float | None) -> None:
        """Append one record: values after `update` updates."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_lines([{"update": update, **values}]))
            file.flush()
            os.fsync(file.fileno())
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, update)
            self._writer.flush()


def read(path: Path) -> list[dict[str, float]]:
    """Return the records of a log; a line that a kill cut short is left out, and said to be."""
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            _logger.warning("%s, line %d: unfinished, left out", path, number)
    return records


def _lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
