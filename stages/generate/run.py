"""Decode a split shard by shard, then join the shards in source order."""

from __future__ import annotations

import functools
import logging
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.errors import CorruptArtifact
from pipeline.files import publish
from pipeline.shards import work_through
from pipeline.stage import Metrics, StageContext
from stages.generate.config import GenerateConfig
from stages.generate.engine import Summarizer
from stages.generate.sources import EncodedSources
from stages.schema import Prediction, read_jsonl, write_jsonl

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardWork:
    """Everything a worker needs to decode any shard."""

    config: GenerateConfig
    model: Path
    encoded: Path
    shards: Path
    threads: int

    def __call__(self, shard: int) -> None:
        """Decode one shard and publish it."""
        torch.set_num_threads(self.threads)
        summarizer = _summarizer(self.model, self.config)
        sources = EncodedSources(self.encoded).rows(shard, self.config.shard_rows)
        # A name of its own: another worker, here or elsewhere, may have the same shard in hand.
        unfinished = self.shards / f".{uuid.uuid4().hex}"
        batch_size = self.config.batch_size
        setting = f"generate.batch_size (now {batch_size})"
        write_jsonl(unfinished, summarizer.summarize(sources, batch_size, setting))
        publish(unfinished, self.path(shard))

    def is_done(self, shard: int) -> bool:
        """Whether the shard is published."""
        return self.path(shard).exists()

    def path(self, shard: int) -> Path:
        """Return where a shard's predictions are."""
        return self.shards / f"{shard:05d}.jsonl"


@functools.lru_cache(maxsize=1)
def _summarizer(model: Path, config: GenerateConfig) -> Summarizer:
    return Summarizer(model, config)


def run(config: GenerateConfig, context: StageContext) -> Metrics:
    """Write predictions.jsonl, one line a source, in source order, and failed.jsonl, those without one."""
    path = context.work / "predictions.jsonl"
    if not path.exists():
        _decode_shards(config, context, path)
    context.guard()
    for name in ("shards", "claims"):
        if (context.work / name).exists():
            shutil.rmtree(context.work / name)
    failed = context.work / "failed.jsonl"
    write_jsonl(failed, (one for one in read_jsonl(path, Prediction) if one.score is None))
    metrics = _metrics(path)
    if metrics["failed"]:
        _logger.warning(
            "%d of %d sources have no summary and count as empty: %s says why",
            metrics["failed"],
            metrics["predictions"],
            failed.name,
        )
    return metrics


def _metrics(path: Path) -> Metrics:
    count = tokens = by_length = empty = failed = 0
    for prediction in read_jsonl(path, Prediction):
        count += 1
        tokens += prediction.tokens
        by_length += prediction.stop == "length"
        empty += not prediction.prediction
        failed += prediction.score is None
    return {
        "predictions": count,
        "mean_tokens": tokens / count,
        "share_stopped_by_length": by_length / count,
        "empty_predictions": empty,
        "failed": failed,
    }


def _decode_shards(config: GenerateConfig, context: StageContext, path: Path) -> None:
    encoded = context.inputs["encode"].directory(config.split)
    model = context.inputs["export"].directory("model")
    shards = context.work / "shards"
    shards.mkdir(exist_ok=True)
    sources = EncodedSources(encoded)
    count = -(-len(sources) // config.shard_rows)
    processes, threads = context.execution.processes, context.execution.threads
    work = ShardWork(config, model, encoded, shards, threads)
    claims = context.work / "claims"
    for done in work_through(work, range(count), claims, processes, threads, context.stop):
        context.guard()
        context.progress.update(done, count, "shard")
    write_jsonl(path, _joined(work, count, sources.ids()))


def _joined(work: ShardWork, count: int, expected: Iterator[str]) -> Iterator[Prediction]:
    """Read the shards in order; every source must have exactly one prediction, at its place.

    Raises:
        CorruptArtifact: At the first id that is not where it belongs.
    """
    for number in range(count):
        file = work.path(number)
        for prediction in read_jsonl(file, Prediction):
            if prediction.id != (wanted := next(expected, None)):
                raise CorruptArtifact(f"{file}: found {prediction.id} where {wanted} belongs")
            yield prediction
    if (wanted := next(expected, None)) is not None:
        raise CorruptArtifact(f"{work.shards}: no prediction for {wanted}")
