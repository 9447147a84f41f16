"""Write clean examples and a ledger that accounts for every row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.stage import Metrics, StageContext
from stages.clean.config import CleanConfig
from stages.normalize import normalize
from stages.schema import SPLITS, Example, RawRow, read_jsonl, write_jsonl

_ROWS_BETWEEN_STOPS = 1000
_LEDGER = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("origin", pa.string()),
        ("outcome", pa.string()),
        ("document_chars_raw", pa.int32()),
        ("document_chars", pa.int32()),
        ("summary_chars_raw", pa.int32()),
        ("summary_chars", pa.int32()),
    ]
)


def run(config: CleanConfig, context: StageContext) -> Metrics:
    """Write {split}.jsonl of Examples and ledger/{split}.parquet with one record a row."""
    (context.work / "ledger").mkdir(exist_ok=True)
    metrics: Metrics = {}
    for number, split in enumerate(SPLITS):
        source = context.inputs["fetch"].file(f"raw/{split}.jsonl")
        outcomes = _clean_split(config, split, source, context)
        for outcome, count in sorted(outcomes.items()):
            metrics[f"rows_{outcome}_{split}"] = count
        if outcomes["kept"] == 0:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            raise DataError(f"the {split} split has no usable row left ({counts})")
        context.progress.update(number + 1, len(SPLITS), "split")
    return metrics


def _clean_split(
    config: CleanConfig, split: str, source: Path, context: StageContext
) -> Counter[str]:
    examples, ledger = [], []
    for number, row in enumerate(read_jsonl(source, RawRow)):
        if number % _ROWS_BETWEEN_STOPS == 0:
            context.stop.check()
        document = normalize(row.document, config.unicode_form)
        summary = normalize(row.summary, config.unicode_form)
        outcome = _outcome(document, summary)
        if outcome == "kept":
            examples.append(Example(row.id, document, summary))
        ledger.append(
            {
                "id": row.id,
                "split": split,
                "origin": row.origin,
                "outcome": outcome,
                "document_chars_raw": len(row.document),
                "document_chars": len(document),
                "summary_chars_raw": len(row.summary),
                "summary_chars": len(summary),
            }
        )
    table = pa.Table.from_pylist(ledger, schema=_LEDGER)
    pq.write_table(table, context.work / "ledger" / f"{split}.parquet")
    write_jsonl(context.work / f"{split}.jsonl", examples)
    return Counter(str(entry["outcome"]) for entry in ledger)


def _outcome(document: str, summary: str) -> str:
    if not document:
        return "empty_document"
    return "kept" if summary else "empty_summary"
