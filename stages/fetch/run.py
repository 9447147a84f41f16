"""Bring rows and model into the run directory; each file appears when it is whole."""

from __future__ import annotations

import hashlib
import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from transformers import AutoConfig

from pipeline.errors import DataError
from pipeline.files import sha256_file, tree_files
from pipeline.preemption import StopFlag
from pipeline.stage import Metrics, StageContext
from stages.fetch.config import FetchConfig, HubModel, LocalModel, ScratchModel
from stages.fetch.hub import commit_of, hub_model
from stages.fetch.identity import model_files
from stages.fetch.notes import noted, notes
from stages.fetch.scratch import gpt2_bpe, new_model, train_bpe
from stages.fetch.source import Source, source_of
from stages.schema import SPLITS, RawRow, read_shards, write_shards

_logger = logging.getLogger(__name__)


def run(config: FetchConfig, context: StageContext) -> Metrics:
    """Write raw/{train,valid,test}/, rows in files of limited size, and model/ (weights, tokenizer).

    The metrics `content_...` name what came: neither a branch nor a library's version decides it.
    """
    raw = context.work / "raw"
    raw.mkdir(exist_ok=True)
    context.guard()
    for leftover in (*context.work.glob(".*.tmp"), *raw.glob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    source = source_of(config.dataset, context)
    metrics: Metrics = dict(source.facts)
    for number, split in enumerate(SPLITS):
        context.stop.check()
        if not (raw / split).exists():
            rows = _until_stopped(source.rows(split), context.stop, split)
            write_shards(raw / split, rows, context.guard)
        metrics |= _counted(raw / split, source, split, context)
        context.progress.update(number + 1, len(SPLITS), "split")
    context.stop.check()
    _bring_model(config, context)
    metrics["content_model"] = _content_of_files(context.work / "model")
    metrics |= notes(context.work)
    context.guard()
    shutil.rmtree(context.work / "download", ignore_errors=True)
    architecture = AutoConfig.from_pretrained(context.work / "model")
    if architecture.model_type != "bart":
        raise DataError(
            f"fetch.model: is a {architecture.model_type} model; only bart is supported"
        )
    metrics["vocabulary_size"] = architecture.vocab_size
    metrics["max_positions"] = architecture.max_position_embeddings
    return metrics


def _until_stopped(rows: Iterable[RawRow], stop: StopFlag, split: str) -> Iterator[RawRow]:
    kept = "" if split == SPLITS[0] else f"the splits before {split} are kept, "
    for row in rows:
        stop.check(f"{kept}{split} begins anew")
        yield row


def _counted(folder: Path, source: Source, split: str, context: StageContext) -> Metrics:
    """Count the rows of a split, and compare them with what is known of it."""
    count, faults, first = 0, 0, ""
    content = hashlib.sha256()
    for row in read_shards(folder, RawRow):
        count += 1
        for text in (row.id, row.document, row.summary, row.fault):  # origin: files may be renamed
            data = text.encode("utf-8")
            content.update(len(data).to_bytes(8, "big") + data)
        if row.fault:
            faults += 1
            first = first or f"{row.origin}: {row.fault}"
    if count == faults:
        context.guard()
        shutil.rmtree(folder)
        what = f"has no row that can be read; the first is {first}" if count else "is empty"
        raise DataError(f"the {split} split {what}: fetch needs at least one row in each split")
    expected = source.expected().get(split, count)
    if count != expected:
        told = f"the {split} split has {count:,} rows, the catalogue says {expected:,}"
        if source.check_rows:
            raise DataError(
                f"{told}: it is not the published set, or not all of it. Bring it again, or take it as it is "
                "with --set fetch.dataset.check_rows=false"
            )
        _logger.warning("%s", told)
    _logger.info("%s: %s rows, %s of them unreadable", split, f"{count:,}", f"{faults:,}")
    return {
        f"rows_{split}": count,
        f"rows_unreadable_{split}": faults,
        f"content_{split}": content.hexdigest(),
    }


def _content_of_files(folder: Path) -> str:
    """Return one checksum of the names and bytes of a folder's files."""
    lines = [f"{sha256_file(path)}  {name}\n" for name, path in tree_files(folder).items()]
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def _bring_model(config: FetchConfig, context: StageContext) -> None:
    final, model = context.work / "model", config.model
    if final.is_dir():
        return
    if isinstance(model, HubModel):
        commit = noted(
            context, "model_commit", lambda: commit_of("model", model.path, model.revision)
        )
        made = context.work / "download" / "model"  # an interrupted download continues
        hub_model(model, str(commit), made)
        context.guard()
        shutil.rmtree(made / ".cache", ignore_errors=True)
    else:
        made = context.work / f".model.{uuid.uuid4().hex}.tmp"
        made.mkdir()
    if isinstance(model, LocalModel):
        for file in model_files(model.path):
            shutil.copyfile(file, made / file.name)
    if isinstance(model, ScratchModel):
        _make_scratch(model, made, context)
    context.guard()
    made.rename(final)


def _make_scratch(model: ScratchModel, folder: Path, context: StageContext) -> None:
    if model.bpe is not None:
        tokenizer = gpt2_bpe(model.bpe, folder)
    else:
        rows = read_shards(context.work / "raw" / "train", RawRow)
        texts = (text for row in rows for text in (row.document, row.summary))
        tokenizer = train_bpe(texts, model.vocab_size, folder)
    weights = new_model(model, len(tokenizer), context.seed)
    weights.save_pretrained(folder)
    parameters = sum(parameter.numel() for parameter in weights.parameters())
    _logger.info("new model: %d parameters, vocabulary %d", parameters, len(tokenizer))
