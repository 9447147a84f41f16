"""metrics.jsonl: one record every few updates, never one twice, none missing after a resume."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError, storage_error
from pipeline.files import write_atomic

SET_ASIDE = "metrics.set_aside.jsonl"
"""Records past the checkpoint that training resumed from; the resumed updates write theirs anew."""

VALIDATION = "valid/nll"
"""What the record of a validation has, and no other."""
TRAINING = "loss"
"""What the record of a window of updates has, and no other."""
CLOCK = ("seconds", "tokens_per_second", "mfu", "devices")
"""What a launch's clock and machine say. A launch that is asked to stop between two records adds one of these
alone, for its updates since the last: the next launch has a clock of its own."""

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
        kept = [record for record in records if not is_late(record)]
        if late:
            aside = path.parent / SET_ASIDE
            _add_once(aside, _lines(late))
            _logger.info(
                "%d records past update %d are set aside in %s", len(late), resumed_at, aside
            )
        if resumed_at and not kept:
            _logger.warning("%s: the records up to update %d are gone", path, resumed_at)
        write_atomic(path, _lines(kept))
        self._pending: list[dict[str, Any]] = []
        self._writer: Any = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(tensorboard), purge_step=resumed_at + 1)

    def add(self, update: int, **values: float | str | None) -> None:
        """Append one record: values after `update` updates. One that the disk refuses is kept for `flush`."""
        self._pending.append({"update": update, **values})
        try:
            self.flush()
        except StorageError as error:
            _logger.warning("records are kept until there is space: %s", error)
        if self._writer is not None:
            for name, value in values.items():
                if value is not None and not isinstance(value, str):
                    self._writer.add_scalar(name, value, update)
            self._writer.flush()

    def flush(self) -> None:
        """Write what is still to be written; call before a checkpoint, which counts on it.

        Raises:
            StorageError: If the disk refuses; the file is as it was.
        """
        if not self._pending:
            return
        size = self._path.stat().st_size
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_lines(self._pending))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self._path, size)  # no half a record
            error.filename = error.filename or str(self._path)
            raise storage_error(error) or error from error
        self._pending = []


def read(path: Path) -> list[dict[str, float]]:
    """Return the records of a log; a line that a kill cut short is left out, and said to be."""
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            record["update"]
        except (ValueError, KeyError, TypeError):
            _logger.warning("%s, line %d: no record, left out", path, number)
            continue
        records.append(record)
    return records


def without_clock(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what records say of the training itself: all but CLOCK, and no record of CLOCK alone."""
    told = ({k: v for k, v in record.items() if k not in CLOCK} for record in records)
    return [record for record in told if record.keys() != {"update"}]


def _add_once(path: Path, lines: str) -> None:
    """Append lines durably; once, though a kill may come before they are taken from where they were."""
    before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if before.endswith(lines):
        return
    gap = "\n" if before and not before.endswith("\n") else ""  # after a line that a kill cut short
    write_atomic(path, before + gap + lines)


def _lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
