"""Decode a split shard by shard, then join the shards in source order."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from pipeline.errors import CorruptArtifact
from pipeline.shards import work_through
from pipeline.stage import Metrics, StageContext
from stages.generate.config import GenerateConfig
from stages.generate.engine import Decoder, Source
from stages.schema import Prediction, read_jsonl, write_jsonl


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
        decoder = _decoder(self.model, self.config)
        sources = _read_sources(self.encoded)
        rows = self.config.shard_rows
        chosen = sources[shard * rows : (shard + 1) * rows]
        write_jsonl(self.shards / f"{shard:05d}.jsonl", decoder.summarize(chosen))


@functools.lru_cache(maxsize=1)
def _decoder(model: Path, config: GenerateConfig) -> Decoder:
    return Decoder(model, config)


def _read_sources(folder: Path) -> list[Source]:
    sources = []
    for path in sorted(folder.glob("*.arrow")):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        for id_, token_ids in zip(table["id"], table["source_ids"], strict=True):
            sources.append(Source(id_.as_py(), token_ids.as_py()))
    return sources


def run(config: GenerateConfig, context: StageContext) -> Metrics:
    """Write predictions.jsonl, one line a source, in source order."""
    path = context.work / "predictions.jsonl"
    if not path.exists():
        _decode_shards(config, context, path)
    predictions = list(read_jsonl(path, Prediction))
    shutil.rmtree(context.work / "shards", ignore_errors=True)
    stopped = sum(prediction.stop == "length" for prediction in predictions)
    return {
        "predictions": len(predictions),
        "mean_tokens": sum(prediction.tokens for prediction in predictions) / len(predictions),
        "share_stopped_by_length": stopped / len(predictions),
        "empty_predictions": sum(not prediction.prediction for prediction in predictions),
    }


def _decode_shards(config: GenerateConfig, context: StageContext, path: Path) -> None:
    encoded = context.inputs["encode"].directory(config.split)
    model = context.inputs["export"].directory("model")
    ids = [source.id for source in _read_sources(encoded)]
    shards = context.work / "shards"
    shards.mkdir(exist_ok=True)
    count = -(-len(ids) // config.shard_rows)
    missing = [n for n in range(count) if not (shards / f"{n:05d}.jsonl").exists()]
    processes, threads = context.execution.processes, context.execution.threads
    work = ShardWork(config, model, encoded, shards, threads)
    for done in work_through(work, missing, processes, threads, context.stop):
        context.progress.update(count - len(missing) + done, count, "shard")
    write_jsonl(path, _joined(shards, count, ids))


def _joined(shards: Path, count: int, ids: list[str]) -> Iterator[Prediction]:
    """Read the shards in order; every source must have exactly one prediction, at its place.

    Raises:
        CorruptArtifact: At the first id that is not where it belongs.
    """
    expected = iter(ids)
    for number in range(count):
        file = shards / f"{number:05d}.jsonl"
        for prediction in read_jsonl(file, Prediction):
            if prediction.id != (wanted := next(expected, None)):
                raise CorruptArtifact(f"{file}: found {prediction.id} where {wanted} belongs")
            yield prediction
    if (wanted := next(expected, None)) is not None:
        raise CorruptArtifact(f"{shards}: no prediction for {wanted}")
