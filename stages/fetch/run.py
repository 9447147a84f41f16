"""Bring rows and model into the run directory; each file appears when it is whole."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoConfig

from pipeline.errors import DataError
from pipeline.stage import Metrics, StageContext
from stages.fetch.config import (
    DemoDataset,
    FetchConfig,
    HubModel,
    LocalDataset,
    LocalModel,
    ScratchModel,
)
from stages.fetch.demo_corpus import demo_rows
from stages.fetch.hub import hub_model, hub_rows
from stages.fetch.identity import model_files, split_files
from stages.fetch.local_rows import read_rows
from stages.fetch.scratch import gpt2_bpe, new_model, train_bpe
from stages.schema import SPLITS, RawRow, read_jsonl, write_jsonl

_logger = logging.getLogger(__name__)


def run(config: FetchConfig, context: StageContext) -> Metrics:
    """Write raw/{train,valid,test}.jsonl and model/ (weights, configuration, tokenizer)."""
    raw = context.work / "raw"
    raw.mkdir(exist_ok=True)
    metrics: Metrics = {}
    for number, split in enumerate(SPLITS):
        context.stop.check()
        path = raw / f"{split}.jsonl"
        if not path.exists():
            write_jsonl(path, _rows(config, split, context))
        metrics[f"rows_{split}"] = count = sum(1 for _ in read_jsonl(path, RawRow))
        if count == 0:
            path.unlink()
            raise DataError(
                f"the {split} split is empty: fetch needs at least one row in each split"
            )
        context.progress.update(number + 1, len(SPLITS), "split")
    context.stop.check()
    _bring_model(config, context)
    shutil.rmtree(context.work / "download", ignore_errors=True)
    architecture = AutoConfig.from_pretrained(context.work / "model")
    if architecture.model_type != "bart":
        raise DataError(
            f"fetch.model: is a {architecture.model_type} model; only bart is supported"
        )
    metrics["vocabulary_size"] = architecture.vocab_size
    metrics["max_positions"] = architecture.max_position_embeddings
    return metrics


def _rows(config: FetchConfig, split: str, context: StageContext) -> Iterator[RawRow]:
    dataset = config.dataset
    if isinstance(dataset, DemoDataset):
        count = getattr(dataset, f"{split}_rows")
        for number, row in enumerate(demo_rows(split, count, context.seed)):
            yield RawRow(row["id"], row["document"], row["summary"], f"demo {split}:{number}")
    elif isinstance(dataset, LocalDataset):
        yield from read_rows(split_files(dataset.path)[split], split, dataset.columns)
    else:
        yield from hub_rows(dataset, split, context.work / "download")


def _bring_model(config: FetchConfig, context: StageContext) -> None:
    final, partial = context.work / "model", context.work / "model.partial"
    if final.is_dir():
        return
    model = config.model
    if isinstance(model, HubModel):
        hub_model(model, partial)  # continues what an earlier attempt left
        shutil.rmtree(partial / ".cache", ignore_errors=True)
    else:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    if isinstance(model, LocalModel):
        for file in model_files(model.path):
            shutil.copyfile(file, partial / file.name)
    if isinstance(model, ScratchModel):
        _make_scratch(model, partial, context)
    partial.rename(final)


def _make_scratch(model: ScratchModel, folder: Path, context: StageContext) -> None:
    if model.bpe is not None:
        tokenizer = gpt2_bpe(model.bpe, folder)
    else:
        rows = read_jsonl(context.work / "raw" / "train.jsonl", RawRow)
        texts = (text for row in rows for text in (row.document, row.summary))
        tokenizer = train_bpe(texts, model.vocab_size, folder)
    weights = new_model(model, len(tokenizer), context.seed)
    weights.save_pretrained(folder)
    parameters = sum(parameter.numel() for parameter in weights.parameters())
    _logger.info("new model: %d parameters, vocabulary %d", parameters, len(tokenizer))
