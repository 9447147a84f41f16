"""Examples as token ids: what each worker does, without importing transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import pyarrow as pa

from pipeline.errors import DataError
from pipeline.shards import FileShards
from stages.encode.config import EncodeConfig
from stages.schema import Example, read_jsonl
from stages.tokens import tokenize

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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


class Frame(NamedTuple):
    """The ids that stand around a text, and all that may not stand within."""

    begin: int
    end: int
    special: frozenset[int]


@dataclass(frozen=True, slots=True)
class EncodedRows(FileShards):
    """Token ids, one Arrow file for each file of examples."""

    config: EncodeConfig
    tokenizer: Tokenizer
    frame: Frame
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
                encoded(self.tokenizer, self.frame, rows[at : at + _PORTION], self.config)
                for at in range(0, max(len(rows), 1), _PORTION)
            ]
            writer.write_table(pa.concat_tables(tables).combine_chunks())


def encoded(
    tokenizer: Tokenizer, frame: Frame, rows: list[Example], config: EncodeConfig
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
            if not _is_framed(ids, frame):
                shown = _shown(ids, tokenizer, frame)
                raise DataError(
                    f"{row.id}: the tokenizer of fetch.model makes its {role} {shown}; "
                    "expected <s> ... </s> without special tokens within, as BART's does. Give a model with "
                    "BART's tokenizer"
                )
            columns[f"{role}_ids"].append(ids)
            columns[f"{role}_tokens_lost"].append(lost)
    return pa.table(columns, schema=_SCHEMA)


def _is_framed(ids: list[int], frame: Frame) -> bool:
    """Tell whether ids are <s> ... </s>, no special token between them."""
    return (ids[0], ids[-1]) == frame[:2] and frame.special.isdisjoint(ids[1:-1])


def _shown(ids: list[int], tokenizer: Tokenizer, frame: Frame) -> str:
    """Return the ends of a text's tokens and the special ones within, by name."""
    within = [id_ for id_ in ids[1:-1] if id_ in frame.special][:3]
    return " ... ".join(str(tokenizer.id_to_token(id_)) for id_ in (ids[0], *within, ids[-1]))
