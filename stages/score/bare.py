"""Score two bare files, as published systems come: predictions and references, without a run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import JSON
from pipeline.errors import ConfigError, DataError
from pipeline.files import write_json
from stages.names import shown
from stages.score.config import Baseline, LeadConfig
from stages.score.profiles import Reader
from stages.score.result import figures
from stages.score.scoring import Scorer, score_rows
from stages.score.systems import Row, labels
from stages.score.texts import PREDICTION_FIELDS, REFERENCE_FIELDS, STDIN, Text, read_texts
from stages.score.wording import several


def score_files(
    predictions: Path,
    references: Path,
    readers: tuple[Reader, ...],
    folder: Path,
    *,
    lead: LeadConfig,
    processes: int,
    threads: int,
    seed: int,
) -> JSON:
    """Score the predictions of a file, and lead and oracle where documents stand beside either text.

    Args:
        predictions: See `read_texts`; rows in the order of the references.
        references: The same.
        readers: One a profile, the headline first.
        folder: Where rouge.json, scores.parquet and measures.parquet go.
        lead: The baseline of that name.
        processes: Worker processes.
        threads: Threads of each.
        seed: Of the bootstrap.

    Returns:
        What rouge.json says.

    Raises:
        DataError: If the files cannot be read, or are not of the same rows.
    """
    rows = paired(predictions, references)
    first = next(rows)
    baselines: tuple[Baseline, ...] = () if first.document is None else ("lead", "oracle")
    counts = score_rows(
        itertools.chain([first], rows),
        Scorer(readers, baselines, lead),
        folder,
        processes,
        threads,
    )
    found = {
        "dataset": {"predictions": shown(predictions.name), "references": shown(references.name)},
        "split_choice": None,
        "split": None,
        "decoding": None,
        **figures(folder, readers, labels(baselines, lead, {}), counts, seed),
    }
    write_json(folder / "rouge.json", found)
    return found


def paired(predictions: Path, references: Path) -> Iterator[Row]:
    """Yield the rows of two files; at least one.

    Raises:
        DataError: If they differ in their number of rows or in an id, if an id comes twice, or if some rows
            have a document and others none.
        ConfigError: If both are stdin.
    """
    if predictions == references == STDIN:
        raise ConfigError("- -: stdin can be read once; give a file for predictions or references")
    with (
        contextlib.closing(read_texts(predictions, PREDICTION_FIELDS)) as ones,
        contextlib.closing(read_texts(references, REFERENCE_FIELDS)) as others,
    ):
        seen: set[str] = set()
        expected: Path | None = None
        for number, (one, other) in enumerate(itertools.zip_longest(ones, others), 1):
            if one is None or other is None:
                rest = number + sum(1 for _ in (others if one is None else ones))
                counts = (number - 1, rest) if one is None else (rest, number - 1)
                raise DataError(
                    f"{predictions} has {several(counts[0], 'row')}, {references} {counts[1]:,}; give a "
                    "prediction for each reference, in its order"
                )
            row = _row(number, one, other, predictions, references)
            if row.id in seen:
                file, line = (predictions, one) if other.id is None else (references, other)
                raise DataError(f"{file}, line {line.line}: the id {row.id!r} is there twice")
            seen.add(row.id)
            with_document = _with_document(one, other, predictions, references)
            if number == 1:
                expected = with_document
            if (with_document is None) is not (expected is None):
                holder = with_document or expected
                line = (other if holder == references else one).line
                raise DataError(
                    f"{holder}, line {line}: has {'a' if with_document else 'no'} document, unlike the rows "
                    "before; give one in each row or in none"
                )
            yield row


def _with_document(one: Text, other: Text, predictions: Path, references: Path) -> Path | None:
    """Return the file whose document is taken."""
    if other.document is not None:
        return references
    return predictions if one.document is not None else None


def _row(number: int, one: Text, other: Text, predictions: Path, references: Path) -> Row:
    if one.id is not None and other.id is not None and one.id != other.id:
        raise DataError(
            f"row {number}: its id is {one.id!r} in {predictions} (line {one.line}) and {other.id!r} in "
            f"{references} (line {other.line}); bring both into the same order"
        )
    id_ = next((text.id for text in (other, one) if text.id is not None), str(number))
    document = one.document if other.document is None else other.document
    return Row(id_, document, other.text, one.text)
