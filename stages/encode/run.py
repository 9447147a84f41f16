"""Tokenise examples into Arrow shards."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from pipeline.errors import ConfigError, DataError
from pipeline.files import publish
from pipeline.stage import Metrics, StageContext
from stages.encode.config import EncodeConfig
from stages.schema import SPLITS, Example, read_jsonl
from stages.tokens import token_ids, truncate

SHARD_ROWS = 10_000
"""Rows a shard; fixed, so that shards do not depend on how the work is spread."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("source_tokens_lost", pa.int32()),
        ("target_tokens_lost", pa.int32()),
    ]
)


def run(config: EncodeConfig, context: StageContext) -> Metrics:
    """Write {split}/00000.arrow and on, in row order."""
    model = context.inputs["fetch"].directory("model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    _check_limits(config, AutoConfig.from_pretrained(model).max_position_embeddings)
    metrics: Metrics = {}
    for split in SPLITS:
        examples = list(read_jsonl(context.inputs["clean"].file(f"{split}.jsonl"), Example))
        (context.work / split).mkdir(exist_ok=True)
        shards = [examples[at : at + SHARD_ROWS] for at in range(0, len(examples), SHARD_ROWS)]
        tables = []
        for number, rows in enumerate(shards):
            context.stop.check()
            path = context.work / split / f"{number:05d}.arrow"
            if not path.exists():
                _write(path, _encode(tokenizer, rows, config))
            tables.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
            context.progress.update(number + 1, len(shards), f"{split} shard")
        metrics |= _count(pa.concat_tables(tables), split)
    return metrics


def _check_limits(config: EncodeConfig, positions: int) -> None:
    for name in ("max_source_tokens", "max_target_tokens"):
        wanted = getattr(config, name)
        if wanted > positions:
            raise ConfigError(
                f"encode.{name}: {wanted} is more than the model's {positions} positions, which are never "
                f"resized; allowed: 4 to {positions}"
            )


def _encode(
    tokenizer: PreTrainedTokenizerBase, rows: list[Example], config: EncodeConfig
) -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
    columns["id"] = [row.id for row in rows]
    for role, texts, limit in (
        ("source", [row.document for row in rows], config.max_source_tokens),
        ("target", [row.summary for row in rows], config.max_target_tokens),
    ):
        for row, ids in zip(rows, token_ids(tokenizer, texts), strict=True):
            kept, lost = truncate(ids, limit)
            if lost and config.truncation == "fail":
                raise DataError(
                    f"{row.id}: its {role} has {len(ids)} tokens, encode.max_{role}_tokens allows "
                    f"{limit}; raise it, or set encode.truncation: head"
                )
            columns[f"{role}_ids"].append(kept)
            columns[f"{role}_tokens_lost"].append(lost)
    return pa.table(columns, schema=_SCHEMA)


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        writer.write_table(table)
    publish(temporary, path)


def _count(table: pa.Table, split: str) -> Metrics:
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
