"""The rows of a run's split: predictions joined with raw references and documents, read in their order."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import CorruptArtifact, DataError
from pipeline.stage import StageContext
from stages.schema import Example, Prediction, RawRow, read_jsonl, read_shards, shard_files
from stages.score.config import ScoreConfig
from stages.score.systems import RANDOM, Row
from stages.score.texts import PREDICTION_FIELDS, read_texts
from stages.score.wording import several

_SHOWN = 5
"""Ids that a message lists."""


def row_ids(context: StageContext) -> list[str]:
    """Return the ids of the rows that generate summarised, in its order."""
    predictions = context.inputs["generate"].file("predictions.jsonl")
    return [one.id for one in read_jsonl(predictions, Prediction)]


def rows_of_run(config: ScoreConfig, context: StageContext, ids: Sequence[str]) -> Iterator[Row]:
    """Yield the rows that generate summarised, with the texts of all other systems.

    Args:
        config: Names the other systems.
        context: Has the artifacts.
        ids: `row_ids(context)`.

    Raises:
        CorruptArtifact: If predictions, clean rows and raw rows do not match by id.
        DataError: If a file of another system lacks a row, or has another.
    """
    others: dict[str, list[str]] = {
        name: other_texts(path, ids, f"score.predictions.{name}")
        for name, path in config.predictions.items()
    }
    if RANDOM in config.baselines:
        training = shard_files(context.inputs["clean"].directory("train"))
        others[RANDOM] = _drawn_summaries(training, len(ids), context.seed)
    for number, row in enumerate(with_next_reference(_joined(context))):
        yield replace(row, given={name: texts[number] for name, texts in others.items()})


def _joined(context: StageContext) -> Iterator[Row]:
    split: str = context.inputs["generate"].manifest.payload["config"]["split"]
    raw = read_shards(context.inputs["fetch"].directory(f"raw/{split}"), RawRow)
    kept = read_shards(context.inputs["clean"].directory(split), Example)
    predictions = read_jsonl(context.inputs["generate"].file("predictions.jsonl"), Prediction)
    for number, (example, one) in enumerate(itertools.zip_longest(kept, predictions), 1):
        if example is None or one is None or one.id != example.id:
            ids = ["none" if it is None else repr(it.id) for it in (one, example)]
            raise CorruptArtifact(
                f"the predictions do not match the clean rows of {split}: number {number} is {ids[0]} among "
                f"the predictions and {ids[1]} among the rows"
            )
        source = next((row for row in raw if row.id == one.id), None)  # goes on where it left off
        if source is None:
            raise CorruptArtifact(
                f"the raw rows of {split} have no {one.id!r} where the clean rows have it"
            )
        yield Row(one.id, source.document, source.summary, one.prediction, one.stop)


def with_next_reference(rows: Iterable[Row]) -> Iterator[Row]:
    """Give each row the reference of the next one, and the last that of the first."""
    first = None
    before = None
    for row in rows:
        if before is None:
            first = row
        else:
            yield replace(before, other_reference=row.reference)
        before = row
    if first is not None and before is not None:
        yield replace(before, other_reference=first.reference)


def _drawn_summaries(files: Sequence[Path], count: int, seed: int) -> list[str]:
    """Draw training summaries with replacement; only those that are drawn are kept, or even parsed."""
    total = sum(1 for _ in _raw_lines(files))
    places = random.Random(seed).choices(range(total), k=count)
    wanted = set(places)
    found = {
        number: str(json.loads(line)["summary"])
        for number, line in enumerate(_raw_lines(files))
        if number in wanted
    }
    return [found[place] for place in places]


def _raw_lines(files: Sequence[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            yield from file


def other_texts(path: Path, ids: Sequence[str], setting: str) -> list[str]:
    """Return another system's texts in the order of `ids`: by id, or line by line in a file without ids.

    Raises:
        DataError: If ids are missing, unknown or there twice, or the number of lines is another.
    """
    texts = list(read_texts(path, PREDICTION_FIELDS))
    if all(one.id is None for one in texts):
        if len(texts) != len(ids):
            raise DataError(
                f"{setting}: {path} has {several(len(texts), 'line')} and no ids, the run "
                f"{several(len(ids), 'row')}; give one summary a row, in the order of predictions.jsonl"
            )
        return [one.text for one in texts]
    found: Mapping[str | None, str] = {one.id: one.text for one in texts}
    known = set(ids)
    missing = [id_ for id_ in ids if id_ not in found]
    foreign = [str(one.id) for one in texts if one.id not in known]
    for what, named in (("lacks", missing), ("has, besides those of the run,", foreign)):
        if named:
            shown = ", ".join(map(repr, named[:_SHOWN])) + (", ..." if named[_SHOWN:] else "")
            raise DataError(
                f"{setting}: {path} {what} {several(len(named), 'row')}: {shown}; give one summary for each "
                "id that predictions.jsonl of the run has"
            )
    if len(found) < len(texts):
        raise DataError(
            f"{setting}: {path} has {several(len(texts) - len(found), 'id')} twice; give each once"
        )
    return [found[id_] for id_ in ids]
