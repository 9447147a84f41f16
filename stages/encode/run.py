"""Tokenise examples into Arrow shards."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute
from transformers import AutoConfig, AutoTokenizer

from pipeline.errors import ConfigError, CorruptArtifact, DataError
from pipeline.shards import Shards
from pipeline.stage import Metrics, StageContext
from stages.encode.config import EncodeConfig
from stages.encode.rows import EncodedRows, Frame
from stages.schema import SPLITS, shard_files
from stages.tokens import light

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@functools.lru_cache(maxsize=1)
def tokenizer_of(model: Path) -> tuple[Tokenizer, Frame]:
    """Load a model's tokenizer once: a helper asks for the work again and again."""
    found = AutoTokenizer.from_pretrained(model)
    frame = Frame(found.bos_token_id, found.eos_token_id, frozenset(found.all_special_ids))
    return light(found), frame


def run(config: EncodeConfig, context: StageContext) -> Metrics:
    """Write {split}/, a file of token ids for each file of examples, rows in the same order."""
    model = context.inputs["fetch"].directory("model")
    architecture = AutoConfig.from_pretrained(model)
    _check_limits(config, architecture.max_position_embeddings)
    _check_start(architecture.decoder_start_token_id, tokenizer_of(model)[1])
    context.adopt(functools.partial(_make, config, context), SPLITS)
    metrics: Metrics = {}
    for split in SPLITS:
        metrics |= _count(context.work / split, split)
        cleaned = context.inputs["clean"].manifest.metrics.get(f"rows_kept_{split}")
        if cleaned is not None and cleaned != metrics[f"rows_{split}"]:
            raise CorruptArtifact(
                f"{metrics[f'rows_{split}']} rows of {split} are encoded, clean kept {cleaned}"
            )
    return metrics


def shards(config: EncodeConfig, context: StageContext) -> Iterator[Shards]:
    """Yield the one step of the work."""
    cleaned = context.inputs["clean"]
    files = tuple(path for split in SPLITS for path in shard_files(cleaned.directory(split)))
    folder = context.shared / "encoded"
    tokenizer, frame = tokenizer_of(context.inputs["fetch"].directory("model"))
    work = EncodedRows(folder, config, tokenizer, frame, files)
    yield Shards(work, len(files), folder, context.claims)


def _make(config: EncodeConfig, context: StageContext) -> Path:
    (step,) = shards(config, context)
    context.share(step)
    return step.folder


def _check_limits(config: EncodeConfig, positions: int) -> None:
    for name in ("max_source_tokens", "max_target_tokens"):
        wanted = getattr(config, name)
        if wanted > positions:
            raise ConfigError(
                f"encode.{name}: {wanted} is more than the model's {positions} positions, which are never "
                f"resized; allowed: 4 to {positions}"
            )


def _check_start(start: int | None, frame: Frame) -> None:
    """Refuse a model whose decoder would not read </s> <s> y, which the targets are made for."""
    if start != frame.end:
        raise DataError(
            f"fetch.model: its config.json has decoder_start_token_id {start}; expected {frame.end}, the id "
            "of </s>, as BART's: the decoder reads </s> <s> y. Give a model that was trained so; if this one "
            "was, correct its config.json and run again with --restart-from fetch"
        )


def _count(folder: Path, split: str) -> Metrics:
    files = sorted(folder.glob("*.arrow"))
    table = pa.concat_tables(
        pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in files
    )
    counts: Metrics = {f"rows_{split}": table.num_rows}
    for role in ("source", "target"):
        lengths = pa.compute.list_value_length(table[f"{role}_ids"])
        lost = table[f"{role}_tokens_lost"]
        counts[f"{role}_tokens_{split}"] = pa.compute.sum(lengths).as_py()
        counts[f"{role}_tokens_lost_{split}"] = pa.compute.sum(lost).as_py()
        counts[f"{role}_rows_truncated_{split}"] = pa.compute.sum(
            pa.compute.greater(lost, 0)
        ).as_py()
    return counts
