"""Score the predictions and, on the same rows, baselines that show what the figures mean."""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorruptArtifact
from pipeline.files import write_json
from pipeline.stage import Metrics, StageContext
from stages.schema import Example, Prediction, RawRow, read_jsonl
from stages.score.config import ScoreConfig
from stages.score.rouge import ROUGE_TYPES, Scores, mean_scores, score_pairs
from stages.score.sentences import lead

MODEL = "model"
LEAD = "lead"
RANDOM = "random_training_summary"
MISMATCHED = "model_against_another_reference"


@dataclass(frozen=True, slots=True)
class Row:
    """A prediction with what it is compared with."""

    id: str
    document: str
    reference: str
    prediction: str


def run(config: ScoreConfig, context: StageContext) -> Metrics:
    """Write rouge.json (means of all systems) and scores.parquet (each example's scores)."""
    rows = _rows(context)
    systems = _systems(rows, config, context)
    means: dict[str, Scores] = {}
    for number, (name, pairs) in enumerate(systems.items(), 1):
        found = list(
            score_pairs(pairs, stemmer=config.stemmer, splitter=config.sentences, stop=context.stop)
        )
        means[name] = mean_scores(found)
        if name == MODEL:
            _write_examples(context, rows, found)
        context.progress.update(number, len(systems), "system")
    exact = sum(row.prediction.split() == row.reference.split() for row in rows) / len(rows)
    result = {
        "split": _split(context),
        "rows": len(rows),
        "profile": {
            "scorer": f"rouge-score {version('rouge-score')}",
            "stemmer": config.stemmer,
            "sentences": config.sentences,
            "references": "raw text of fetch",
            "lead": f"{config.lead.count} {config.lead.unit}",
        },
        "decoding": context.inputs["generate"].manifest.payload["config"],
        "exact_match": exact,
        "systems": means,
    }
    write_json(context.work / "rouge.json", result)
    return {
        **{f"{name}_f": means[MODEL][name]["fmeasure"] for name in ROUGE_TYPES},
        **{f"lead_{name}_f": means[LEAD][name]["fmeasure"] for name in ROUGE_TYPES},
        "exact_match": exact,
        "rows": len(rows),
    }


def _split(context: StageContext) -> str:
    split: str = context.inputs["generate"].manifest.payload["config"]["split"]
    return split


def _rows(context: StageContext) -> list[Row]:
    """Join predictions with raw references and documents by id.

    Raises:
        CorruptArtifact: If a clean row of the split has no prediction, or the other way round.
    """
    split = _split(context)
    raw = {
        row.id: row
        for row in read_jsonl(context.inputs["fetch"].file(f"raw/{split}.jsonl"), RawRow)
    }
    kept = [row.id for row in read_jsonl(context.inputs["clean"].file(f"{split}.jsonl"), Example)]
    predictions = list(read_jsonl(context.inputs["generate"].file("predictions.jsonl"), Prediction))
    if [prediction.id for prediction in predictions] != kept:
        raise CorruptArtifact(
            f"{len(predictions)} predictions do not match the {len(kept)} clean rows of {split} by id"
        )
    return [
        Row(one.id, raw[one.id].document, raw[one.id].summary, one.prediction)
        for one in predictions
    ]


def _systems(
    rows: list[Row], config: ScoreConfig, context: StageContext
) -> dict[str, list[tuple[str, str]]]:
    """Return (prediction, reference) pairs of the model and of each baseline."""
    references = [row.reference for row in rows]
    predictions = [row.prediction for row in rows]
    training = context.inputs["clean"].file("train.jsonl")
    summaries = [example.summary for example in read_jsonl(training, Example)]
    drawn = random.Random(context.seed).choices(summaries, k=len(rows))
    leads = [
        lead(row.document, config.lead.unit, config.lead.count, config.sentences) for row in rows
    ]
    systems = {
        MODEL: list(zip(predictions, references, strict=True)),
        LEAD: list(zip(leads, references, strict=True)),
        RANDOM: list(zip(drawn, references, strict=True)),
    }
    if len(rows) > 1:
        # The next row's reference: a model that reads its document scores far less against it.
        shifted = [*references[1:], references[0]]
        systems[MISMATCHED] = list(zip(predictions, shifted, strict=True))
    return systems


def _write_examples(context: StageContext, rows: list[Row], scores: list[Scores]) -> None:
    columns: dict[str, list[object]] = {"id": [row.id for row in rows]}
    for name in ROUGE_TYPES:
        for part in ("precision", "recall", "fmeasure"):
            columns[f"{name}_{part}"] = [score[name][part] for score in scores]
    pq.write_table(pa.table(columns), context.work / "scores.parquet")
