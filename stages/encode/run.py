"""Tokenise examples into Arrow shards."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from pipeline.errors import ConfigError, CorruptArtifact, DataError
from pipeline.shards import FileShards, Shards
from pipeline.stage import Metrics, StageContext
from stages.encode.config import EncodeConfig
from stages.schema import SPLITS, Example, read_jsonl, shard_files
from stages.tokens import tokenize

_PORTION = 64
"""Rows that are tokenised at a time: what the tokenizer makes of them stays in the processor's caches."""
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("source_tokens_lost", pa.int32()),
        ("target_tokens_lost", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class EncodedRows(FileShards):
    """Token ids, one Arrow file for each file of examples."""

    config: EncodeConfig
    model: Path
    examples: tuple[Path, ...]

    suffix: ClassVar[str] = ".arrow"

    def path(self, shard: int) -> Path:
        """Return where the ids of a file of examples are."""
        examples = self.examples[shard]
        return self.folder / examples.parent.name / f"{examples.stem}{self.suffix}"

    def __call__(self, shard: int) -> None:
        """Tokenise one file of examples."""
        self.path(shard).parent.mkdir(exist_ok=True)
        rows = list(read_jsonl(self.examples[shard], Example))
        with (
            self.publishing(self.path(shard)) as path,
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, _SCHEMA) as writer,
        ):
            tables = [
                encoded(_tokenizer(self.model), rows[at : at + _PORTION], self.config)
                for at in range(0, max(len(rows), 1), _PORTION)
            ]
            writer.write_table(pa.concat_tables(tables).combine_chunks())


@functools.lru_cache(maxsize=1)
def _tokenizer(model: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    return tokenizer


def run(config: EncodeConfig, context: StageContext) -> Metrics:
    """Write {split}/, a file of token ids for each file of examples, rows in the same order."""
    model = context.inputs["fetch"].directory("model")
    _check_limits(config, AutoConfig.from_pretrained(model).max_position_embeddings)
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
    work = EncodedRows(folder, config, context.inputs["fetch"].directory("model"), files)
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


def encoded(
    tokenizer: PreTrainedTokenizerBase, rows: list[Example], config: EncodeConfig
) -> pa.Table:
    """Tokenise rows, cut as the recipe says.

    Raises:
        DataError: If a row is too long and may not be cut, or is not `<s> ... </s>`.
    """
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
    columns["id"] = [row.id for row in rows]
    for role, texts, limit in (
        ("source", [row.document for row in rows], config.max_source_tokens),
        ("target", [row.summary for row in rows], config.max_target_tokens),
    ):
        found = tokenize(tokenizer, texts, limit, config)
        for row, (ids, lost) in zip(rows, found, strict=True):
            if lost and config.truncation == "fail":
                raise DataError(
                    f"{row.id}: its {role} has {len(ids) + lost} tokens, encode.max_{role}_tokens allows "
                    f"{limit}; raise it, or set encode.truncation to head, head_tail or sentences"
                )
            if not _is_framed(ids, tokenizer):
                raise DataError(
                    f"{row.id}: the tokenizer of fetch.model makes its {role} {_shown(ids, tokenizer)}; "
                    "expected <s> ... </s> without special tokens within, as BART's does. Give a model with "
                    "BART's tokenizer"
                )
            columns[f"{role}_ids"].append(ids)
            columns[f"{role}_tokens_lost"].append(lost)
    return pa.table(columns, schema=_SCHEMA)


def _is_framed(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether ids are <s> ... </s>, no special token between them."""
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return (ids[0], ids[-1]) == ends and _special(tokenizer).isdisjoint(ids[1:-1])


@functools.lru_cache(maxsize=1)
def _special(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    return frozenset(tokenizer.all_special_ids)


def _shown(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the ends of a text's tokens and the special ones within, by name."""
    within = [id_ for id_ in ids[1:-1] if id_ in _special(tokenizer)][:3]
    names = tokenizer.convert_ids_to_tokens([*ids[:1], *within, *ids[-1:]])
    return " ... ".join(names)


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
