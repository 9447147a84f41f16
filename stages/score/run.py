"""Score the predictions and, on the same rows, baselines that show what the figures mean."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipeline.distributed.world import visible_gpus
from pipeline.files import write_json
from pipeline.stage import Metrics, StageContext
from stages.rouge_json import MODEL
from stages.score.bertscore import Embedder, bert_scores, load_embedder
from stages.score.bertscore import settings as bertscore_settings
from stages.score.config import ScoreConfig
from stages.score.doubts import rows_left_out
from stages.score.profiles import Reader, readers_of
from stages.score.result import figures
from stages.score.rouge import ROUGE_TYPES
from stages.score.rows import row_ids, rows_of_run
from stages.score.scoring import Scorer, score_rows
from stages.score.systems import Row, labels

_logger = logging.getLogger(__name__)


def run(config: ScoreConfig, context: StageContext) -> Metrics:
    """Write rouge.json (means and intervals), scores.parquet and measures.parquet (each row's figures).

    Raises:
        CorruptArtifact: If predictions, clean rows and raw rows do not match.
        DataError: If a file of another system does not have the same rows, or data of a profile is missing.
    """
    ids = row_ids(context)
    readers = readers_of(config.profiles, config.sentences, config.wordnet)
    is_alone = len(ids) == 1  # then there is no other row's reference
    baselines = tuple(
        name
        for name in config.baselines
        if not (is_alone and name == "model_against_another_reference")
    )
    rows = rows_of_run(config, context, ids)
    bertscore = None
    if (asked := config.bertscore) is not None:
        device = "cuda" if visible_gpus() else "cpu"
        embedder = load_embedder(asked.model, asked.layer, asked.batch_size, device)
        rows, bertscore = _with_bertscore(rows, embedder, readers[0]), bertscore_settings(embedder)

    def poll() -> None:
        if context.stop.reason is not None:
            context.progress.update(0, len(ids), "row")
            context.stop.check("score keeps nothing of it and begins anew")

    def told(done: int) -> None:
        poll()
        context.progress.update(done, len(ids), "row")

    counts = score_rows(
        rows,
        Scorer(readers, baselines, config.lead),
        context.work,
        context.execution.processes,
        context.execution.threads,
        told,
    )
    systems = labels(baselines, config.lead, {name: name for name in config.predictions})
    found = figures(context.work, readers, systems, counts, context.seed, poll)
    fetched, generated = (context.inputs[name].manifest for name in ("fetch", "generate"))
    split: str = generated.payload["config"]["split"]
    brought = fetched.metrics.get(f"rows_{split}")
    if isinstance(brought, int):
        found["warnings"] = [*rows_left_out(split, brought, found["rows"]), *found["warnings"]]
    origin = {
        "dataset": fetched.metrics.get("dataset"),
        "split_choice": fetched.metrics.get("split_choice"),
        "split": split,
        "decoding": generated.payload["config"],
    }
    write_json(context.work / "rouge.json", {**origin, **found, "bertscore": bertscore})
    for warning in found["warnings"]:
        _logger.warning("score: %s", warning)
    scores = found["profiles"][found["profile"]]["systems"]
    return {
        **_means(scores[MODEL], ""),
        **(_means(scores["lead"], "lead_") if "lead" in scores else {}),
        "exact_match": found["exact_match"],
        "rows": found["rows"],
    }


def _with_bertscore(rows: Iterable[Row], embedder: Embedder, read: Reader) -> Iterator[Row]:
    rows, ahead = itertools.tee(rows)
    pairs = ((read.processed(row.prediction), row.reference) for row in ahead)
    found = bert_scores(embedder, pairs)
    for row, bertscore in zip(rows, found, strict=True):
        yield replace(row, bertscore=bertscore)


def _means(scores: dict[str, dict[str, dict[str, float]]], prefix: str) -> Metrics:
    return {f"{prefix}{name}_f": scores[name]["fmeasure"]["mean"] for name in ROUGE_TYPES}
