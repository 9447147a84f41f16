"""Turn raw rows into clean examples and a ledger that accounts for every row."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.config import JSON
from pipeline.errors import CorruptArtifact, DataError
from pipeline.files import read_json, sha256_file, write_json
from pipeline.shards import Shards
from pipeline.stage import Metrics, StageContext
from stages.clean.candidates import MOST_PARTNERS, Candidates
from stages.clean.cleaned import CleanedRows, raw_files
from stages.clean.config import CleanConfig
from stages.clean.filters import KEPT
from stages.clean.verdicts import LEDGER, Verdicts
from stages.schema import SPLITS, shard_files

DUPLICATES = "duplicates.json"
_SHOWN = 20
"""Pairs of each kind in duplicates.json; all are in the ledger."""
_NEIGHBOURS = (
    *("duplicate_of", "duplicate_similarity", "duplicate_is_equal"),
    *("leak_of", "leak_split", "leak_similarity", "leak_is_equal"),
)


def run(config: CleanConfig, context: StageContext) -> Metrics:
    """Write {split}/ (Examples), ledger/{split}/ (one record a raw row) and duplicates.json.

    Raises:
        DataError: If a split has no row left, or if splits leak into each other and the recipe forbids it.
    """
    context.adopt(functools.partial(_make, config, context), (*SPLITS, LEDGER))
    return _metrics(config, context)


def _make(config: CleanConfig, context: StageContext) -> Path:
    for step in shards(config, context):
        context.share(step)
    _, candidates, verdicts = _steps(config, context)
    found = _duplicates(verdicts.folder / LEDGER, candidates.compared_in_part())
    write_json(context.work / DUPLICATES, found)
    return verdicts.folder


def shards(config: CleanConfig, context: StageContext) -> Iterator[Shards]:
    """Yield the steps: rows cleaned one by one, rows that may be alike, what becomes of each row."""
    rows, candidates, verdicts = _steps(config, context)
    claims = context.claims
    for name, step, count in (
        ("rows", rows, len(rows.raw)),
        ("candidates", candidates, candidates.count),
        ("verdicts", verdicts, len(rows.raw)),
    ):
        yield Shards(step, count, step.folder, claims / name, f"shard of {name}")


def _steps(config: CleanConfig, context: StageContext) -> tuple[CleanedRows, Candidates, Verdicts]:
    raw = raw_files(context.inputs["fetch"].directory("raw"))
    folder = context.shared
    rows = CleanedRows(folder / "rows", config, raw)
    candidates = Candidates(folder / "candidates", rows)
    return rows, candidates, Verdicts(folder / "verdicts", rows, candidates)


def _duplicates(ledger: Path, in_part: int) -> JSON:
    """Count what is alike: within each split, and of each split in those before it."""
    counts: Counter[tuple[str, str, str]] = Counter()
    shown: dict[tuple[str, str], list[JSON]] = {}
    for split in SPLITS:
        for entry in _entries(ledger / split, ["id", *_NEIGHBOURS]):
            for kind, other in (("duplicate", split), ("leak", entry["leak_split"])):
                if (of := entry[f"{kind}_of"]) is not None:
                    facts = {name: entry[f"{kind}_{name}"] for name in ("similarity", "is_equal")}
                    counts[split, other, "equal" if facts["is_equal"] else "near"] += 1
                    pair = {"id": entry["id"], "is_like": of, **facts}
                    examples = shown.setdefault((split, other), [])
                    if len(examples) < _SHOWN:
                        examples.append(pair)
    found = [
        {
            "split": split,
            "in": other,
            "equal": counts[split, other, "equal"],
            "near": counts[split, other, "near"],
            "examples": examples,
        }
        for (split, other), examples in shown.items()
    ]
    return {"found": found, "rows_compared_in_part": in_part}


def _entries(folder: Path, columns: list[str]) -> Iterator[JSON]:
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()


def _content(folder: Path) -> str:
    """Return one checksum of the examples of a split: what encode reads."""
    digest = hashlib.sha256()
    for path in shard_files(folder):
        digest.update(bytes.fromhex(sha256_file(path)))
    return digest.hexdigest()


def _metrics(config: CleanConfig, context: StageContext) -> Metrics:
    """Count the ledger and compare it with what fetch brought; `content_...` name the examples.

    Those depend on versions too (of Unicode's tables, of the signatures), which no fingerprint names.
    """
    metrics: Metrics = {}
    leaks = 0
    for split in SPLITS:
        outcomes: Counter[str] = Counter()
        duplicates = 0
        for entry in _entries(context.work / LEDGER / split, ["outcome", *_NEIGHBOURS]):
            outcomes[entry["outcome"]] += 1
            duplicates += entry["duplicate_of"] is not None
            leaks += entry["leak_of"] is not None
        fetched = context.inputs["fetch"].manifest.metrics.get(f"rows_{split}")
        if fetched is not None and fetched != outcomes.total():
            raise CorruptArtifact(
                f"the ledger has {outcomes.total()} rows of {split}, fetch brought {fetched}"
            )
        if outcomes[KEPT] == 0:
            counts = ", ".join(
                f"{count} {name}" for name, count in sorted(outcomes.items()) if count
            )
            raise DataError(f"the {split} split has no usable row left ({counts})")
        metrics |= {f"rows_{name}_{split}": n for name, n in sorted(outcomes.items()) if n}
        if duplicates:
            metrics[f"duplicates_{split}"] = duplicates
        metrics[f"content_{split}"] = _content(context.work / split)
    if in_part := read_json(context.work / DUPLICATES)["rows_compared_in_part"]:
        metrics["rows_compared_in_part"] = in_part
        metrics["warning_candidates"] = (
            f"{in_part:,} documents share a band with more than {MOST_PARTNERS} others of a split, and were "
            f"compared with the first {MOST_PARTNERS} of these alone: a copy may go unseen, and the row that "
            "one is said to be like may not be the most similar (of equal documents the first is counted)"
        )
    if leaks:
        metrics["leaks"] = leaks
        told = f"{leaks} documents are like one of another split"
        if config.duplicates.on_leak == "fail":
            raise DataError(
                f"{told}; {context.work / DUPLICATES} has counts and examples. Mend the splits, or set "
                "clean.duplicates.on_leak to drop (the copy in training, or else in validation, goes) or to "
                "report; in either case with --restart-from clean"
            )
        is_dropped = config.duplicates.on_leak == "drop"
        done = "they are left out" if is_dropped else "that leaves none of them out"
        metrics["warning_leaks"] = (
            f"{told}; {done} (clean.duplicates.on_leak). clean/{DUPLICATES} has counts and "
            "examples, the ledger all of them"
        )
    return metrics
