"""Score rows, some hundred at a time, by one process or several; how many changes nothing that is written."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import publish
from pipeline.ordered import in_order
from stages.rouge_json import MODEL
from stages.score.config import Baseline, LeadConfig
from stages.score.measures import MEASURES, measures
from stages.score.profiles import Reader
from stages.score.rouge import COLUMNS, flat, rouge
from stages.score.systems import MADE_OF_DOCUMENTS, Candidate, Row, candidates
from stages.score.tally import Tally, tally

SCORES = "scores.parquet"
MEASURED = "measures.parquet"
OF_MODEL = (
    *("stopped_by_length",),
    *("bertscore_precision", "bertscore_recall", "bertscore_f"),
)
"""Measures that are told of the model alone."""
_PORTION = 256
"""Rows of a portion: a second or two of work."""

SCORE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("profile", "system", "id")]
    + [(name, pa.float64()) for name in COLUMNS]
)
MEASURE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("system", "id")]
    + [(name, pa.float64()) for name in (*MEASURES, *OF_MODEL)]
)


class Scored(NamedTuple):
    """What became of a portion of rows."""

    scores: pa.Table
    """By profile, system and row."""
    measures: pa.Table
    """By system and row."""
    counts: Tally


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores a portion of rows; picklable."""

    readers: tuple[Reader, ...]
    """One a profile, the headline first: it also splits documents, reads for the oracle, and post-processes
    what is measured beside ROUGE."""
    baselines: tuple[Baseline, ...]
    lead: LeadConfig

    def __call__(self, rows: Sequence[Row]) -> Scored:
        """Return the figures of all systems on these rows."""
        first = self.readers[0]
        has_sentences = not MADE_OF_DOCUMENTS.isdisjoint(self.baselines)
        counts = Tally()
        scored = []
        for row in rows:
            scored.append(list(candidates(row, self.baselines, self.lead, first)))
            counts += tally(row, first, has_sentences=has_sentences)
        scores = [
            (read.profile.name, one.system, row.id, *figures)
            for read in self.readers
            for system in zip(*(_scores(read, ones) for ones in scored), strict=True)
            for row, (one, figures) in zip(rows, system, strict=True)
        ]
        measured = [
            (one.system, row.id, *_measures(row, one, first))
            for system in zip(*scored, strict=True)
            for row, one in zip(rows, system, strict=True)
            if one.system != "model_against_another_reference"  # the model's own text again
        ]
        return Scored(_table(scores, SCORE_SCHEMA), _table(measured, MEASURE_SCHEMA), counts)


def _scores(read: Reader, ones: Sequence[Candidate]) -> list[tuple[Candidate, tuple[float, ...]]]:
    """Score what stands for one row, each text read once."""
    references = {text: read.reference(text) for text in {one.reference for one in ones}}
    texts = {text: read.prediction(text) for text in {one.text for one in ones}}
    return [(one, flat(rouge(texts[one.text], references[one.reference]))) for one in ones]


def _measures(row: Row, one: Candidate, read: Reader) -> list[float | None]:
    found = measures(row.document, read.processed(one.text), one.reference)
    of_model: list[float | None] = [None] * len(OF_MODEL)
    if one.system == MODEL:
        stopped = float(row.stop == "length") if row.stop else None
        of_model = [stopped, *(row.bertscore or (None, None, None))]
    return [*(found[name] for name in MEASURES), *of_model]


def _table(records: Sequence[Sequence[object]], schema: pa.Schema) -> pa.Table:
    columns = zip(*records, strict=True)
    return pa.table([pa.array(*pair) for pair in zip(columns, schema.types, strict=True)], schema)


def score_rows(
    rows: Iterable[Row],
    scorer: Scorer,
    folder: Path,
    processes: int = 1,
    threads: int = 1,
    told: Callable[[int], None] = lambda rows: None,
) -> Tally:
    """Write scores.parquet and measures.parquet, a row group for each portion of rows.

    Args:
        rows: Read little ahead of what is written.
        scorer: What is done to them.
        folder: Where the files go; each appears when it is whole.
        processes: Worker processes.
        threads: Threads of each.
        told: Called with the rows done so far after each portion; may raise to stop.

    Returns:
        The tally of all rows.

    Raises:
        LaunchError: If a worker died.
    """
    counts = Tally()
    schemas = {SCORES: SCORE_SCHEMA, MEASURED: MEASURE_SCHEMA}
    partial = {name: folder / f".{name}.tmp" for name in schemas}
    with contextlib.ExitStack() as stack:
        for path in partial.values():
            stack.callback(path.unlink, missing_ok=True)
        portions = in_order(scorer, _portions(rows), processes, threads)
        stack.enter_context(contextlib.closing(portions))
        with contextlib.ExitStack() as writers:
            scores, measured = (
                writers.enter_context(pq.ParquetWriter(partial[name], schema))
                for name, schema in schemas.items()
            )
            for portion in portions:
                scores.write_table(portion.scores)
                measured.write_table(portion.measures)
                counts += portion.counts
                told(counts.references.texts)
        for name, path in partial.items():
            publish(path, folder / name)
    return counts


def _portions(rows: Iterable[Row]) -> Iterable[list[Row]]:
    rest = iter(rows)
    while portion := list(itertools.islice(rest, _PORTION)):
        yield portion
