"""Decode a split shard by shard, then join the shards in source order."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.errors import CorruptArtifact
from pipeline.shards import FileShards, Shards
from pipeline.stage import Metrics, StageContext
from stages.generate.config import GenerateConfig
from stages.generate.engine import Summarizer
from stages.generate.sources import EncodedSources
from stages.schema import Prediction, read_jsonl, write_jsonl

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardWork(FileShards):
    """Everything a worker needs to decode any shard."""

    config: GenerateConfig
    model: Path
    encoded: Path
    threads: int

    def __call__(self, shard: int) -> None:
        """Decode one shard and publish it."""
        torch.set_num_threads(self.threads)
        summarizer = _summarizer(self.model, self.config)
        sources = EncodedSources(self.encoded).rows(shard, self.config.shard_rows)
        batch_size = self.config.batch_size
        setting = f"generate.batch_size (now {batch_size})"
        with self.publishing(self.path(shard)) as unfinished:
            write_jsonl(unfinished, summarizer.summarize(sources, batch_size, setting))


@functools.lru_cache(maxsize=1)
def _summarizer(model: Path, config: GenerateConfig) -> Summarizer:
    return Summarizer(model, config)


def run(config: GenerateConfig, context: StageContext) -> Metrics:
    """Write predictions.jsonl, one line a source, in source order, and failed.jsonl, those without one."""
    path = context.work / "predictions.jsonl"
    if not path.exists():
        _decode_shards(config, context, path)
    context.end_sharing()
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


def shards(config: GenerateConfig, context: StageContext) -> Iterator[Shards]:
    """Yield the one step of the work: the split, cut by the recipe."""
    work = _work(config, context)
    count = -(-len(EncodedSources(work.encoded)) // config.shard_rows)
    yield Shards(work, count, work.folder, context.claims)


def _work(config: GenerateConfig, context: StageContext) -> ShardWork:
    return ShardWork(
        context.shared,
        config,
        context.inputs["export"].directory("model"),
        context.inputs["encode"].directory(config.split),
        context.execution.threads,
    )


def _decode_shards(config: GenerateConfig, context: StageContext, path: Path) -> None:
    for step in shards(config, context):
        context.share(step)
    work = _work(config, context)
    write_jsonl(path, _joined(work, EncodedSources(work.encoded).ids()))


def _joined(work: ShardWork, expected: Iterator[str]) -> Iterator[Prediction]:
    """Read the shards in order; every source must have exactly one prediction, at its place.

    Raises:
        CorruptArtifact: At the first id that is not where it belongs.
    """
    for number in itertools.takewhile(work.is_done, itertools.count()):
        file = work.path(number)
        for prediction in read_jsonl(file, Prediction):
            if prediction.id != (wanted := next(expected, None)):
                raise CorruptArtifact(f"{file}: found {prediction.id} where {wanted} belongs")
            yield prediction
    if (wanted := next(expected, None)) is not None:
        raise CorruptArtifact(f"{work.folder}: no prediction for {wanted}")
