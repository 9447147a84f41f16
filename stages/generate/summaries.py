"""Summaries of new documents: read, tokenise, decode, write, a portion at a time and in order."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError

from pipeline.errors import ConfigError, DataError
from pipeline.ordered import in_order
from stages.generate.chosen_model import ChosenModel
from stages.generate.config import SearchConfig
from stages.generate.documents import FIELD_FORMATS, Document, Format
from stages.generate.engine import Source, Summarizer
from stages.schema import Prediction
from stages.text_rules import clean_text
from stages.tokens import tokenize

EMPTY = "empty"
"""`stop` of a document without text."""

_TOKENS_A_DOCUMENT = 512
"""Tokens of the batch for each document of a portion: whole batches of ordinary documents."""


class Portion(NamedTuple):
    """Documents that are decoded together, or what became of them, and the bytes read up to their end."""

    documents: list[Document]
    bytes_read: int


class Summarized(NamedTuple):
    """Predictions of a portion's documents, and the bytes read up to their end."""

    predictions: list[Prediction]
    bytes_read: int


@dataclass(frozen=True, slots=True)
class Summarize:
    """Everything a worker needs to summarise any portion."""

    model: ChosenModel
    batch_tokens: int
    """Source tokens decoded together, padding included."""
    device: str
    threads: int

    def __call__(self, portion: Portion) -> Summarized:
        """Return a prediction for each document; what comes out depends on the portion alone."""
        torch.set_num_threads(self.threads)
        entries = [self._source(document) for document in portion.documents]
        sources = [entry for entry in entries if isinstance(entry, Source)]
        found = self._decoded(sources) if sources else iter(())
        predictions = [next(found) if isinstance(one, Source) else one for one in entries]
        return Summarized(predictions, portion.bytes_read)

    def _source(self, document: Document) -> Source | Prediction:
        """Tokenise a document, or say why it has no summary."""
        if document.failure:
            return _without_summary(document, f"failed: {document.failure}")
        how = self.model.cleaning
        text = document.text if how is None else clean_text(document.text, "document", how).text
        if not text.strip():
            return _without_summary(document, EMPTY)
        summarizer = _summarizer(self.model.folder, self.model.search, self.device)
        limit = self.model.source_tokens
        ((ids, lost),) = tokenize(summarizer.tokenizer, [text], limit, self.model.truncation)
        if lost and self.model.truncation.truncation == "fail":
            total = len(ids) + lost
            reason = f"{total} tokens, {limit} are allowed; --truncation head cuts the rest off"
            return _without_summary(document, f"failed: {reason}")
        return Source(document.id, ids, lost)

    def _decoded(self, sources: list[Source]) -> Iterator[Prediction]:
        longest = max(len(source.token_ids) for source in sources)
        batch_size = max(1, self.batch_tokens // longest)
        setting = f"--batch-tokens (now {self.batch_tokens})"
        summarizer = _summarizer(self.model.folder, self.model.search, self.device)
        return summarizer.summarize(sources, batch_size, setting)


def summarize(
    work: Summarize,
    documents: Iterable[Document],
    bytes_read: Callable[[], int],
    processes: int,
    *,
    one_by_one: bool = False,
) -> Generator[Summarized, None, None]:
    """Yield the predictions of all documents in order, a portion at a time; little is read ahead.

    Portions have a fixed number of documents: how many processes there are changes no byte of what comes out.

    Args:
        work: What to do with each.
        documents: Read as they are needed.
        bytes_read: How far the input is read now.
        processes: Worker processes; with 1, all is done in this one.
        one_by_one: Answer each document before the next is read, for somebody who types them.

    Raises:
        DataError: If the model's files cannot be loaded.
        PipelineError: If memory runs out, naming --batch-tokens.
        LaunchError: If a worker died.
    """
    count = 1 if one_by_one else max(1, work.batch_tokens // _TOKENS_A_DOCUMENT)
    done = in_order(work, _portions(documents, count, bytes_read), processes, work.threads)
    with contextlib.closing(done):
        yield from done


def _portions(
    documents: Iterable[Document], count: int, bytes_read: Callable[[], int]
) -> Iterator[Portion]:
    iterator = iter(documents)
    while portion := list(itertools.islice(iterator, count)):
        yield Portion(portion, bytes_read())


def _without_summary(document: Document, reason: str) -> Prediction:
    return Prediction(document.id, "", None, 0, reason)


@functools.lru_cache(maxsize=1)
def _summarizer(folder: Path, search: SearchConfig, device: str) -> Summarizer:
    try:
        return Summarizer(folder, search, device)
    except (
        *(OSError, ValueError, RuntimeError, SafetensorError),
        *(AttributeError, KeyError, TypeError),  # transformers, of files with other things in them
    ) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{folder}: the model cannot be loaded ({reason[:300]}); are all its files whole? "
            "One that came by git without LFS is a pointer of a hundred bytes"
        ) from error


def chosen_device(asked: str | None, processes: int) -> str:
    """Return the device that a --device option means; None for a GPU if there is one.

    Raises:
        ConfigError: If it is none that can be used here.
    """
    count = torch.cuda.device_count()
    if asked is None:
        return "cuda" if count else "cpu"
    kind, colon, index = asked.partition(":")
    if kind not in {"cpu", "cuda"} or (colon and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"--device {asked!r}: expected cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= count:
        raise ConfigError(f"--device {asked}: torch sees {count} GPUs; use one of them, or cpu")
    if colon and processes > 1:
        raise ConfigError(
            f"--device {asked} with --processes {processes}: each process takes a GPU of its own; give "
            "--device cuda, or --processes 1"
        )
    return asked


def renderer(asked: Literal["auto", "text", "jsonl"], form: Format) -> Callable[[Prediction], str]:
    """Return how predictions are written: as asked, else as the documents came."""
    is_jsonl = asked == "jsonl" or (asked == "auto" and form in FIELD_FORMATS)
    return as_jsonl if is_jsonl else as_text


def as_text(prediction: Prediction) -> str:
    """Return the summary as one line."""
    return " ".join(prediction.prediction.splitlines()) + "\n"


def as_jsonl(prediction: Prediction) -> str:
    """Return the record as a line of JSON; alternatives only if there are any."""
    record = asdict(prediction)
    if not record["alternatives"]:
        del record["alternatives"]
    return json.dumps(record, ensure_ascii=False) + "\n"
