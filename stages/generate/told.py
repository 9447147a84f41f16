"""What `summarize` says on stderr: what it works with, how far it is, what came of it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeline.log import PLAIN_SECONDS
from stages.generate.chosen_model import ChosenModel
from stages.schema import Prediction

_REASONS = 3
"""Failures whose reasons are told."""


def say(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"sumpipe: {text}\n")
    sys.stderr.flush()


def introduce(model: ChosenModel, device: str) -> None:
    """Say which model, where, how it decodes, and where that is from."""
    search = model.search
    start = "after <s>, " if search.force_bos else ""
    repeats = f"no repeated {size}-grams, " if (size := search.no_repeat_ngram_size) else ""
    say(
        f"{model.folder} on {device}, {search.precision}; beams {search.num_beams}, "
        f"{search.min_length} to {search.max_length} tokens, length penalty {search.length_penalty:g}, "
        f"{start}{repeats}documents of up to {model.source_tokens} tokens "
        f"({model.settings_from}; options override)"
    )
    if (how := model.cleaning) is not None:
        rules = f", then {', '.join(how.rules)}" if how.rules else ""
        say(f"documents are cleaned as the run's were: Unicode {how.unicode_form}, blanks{rules}")
    if (kept := model.truncation).truncation == "head_tail":
        say(f"of longer documents head and tail are kept, {kept.head_share:.0%} of that the head")
    elif kept.truncation == "sentences":
        say("of longer documents the first sentences that fit are kept")
    for name in model.cleaned_otherwise:
        say(f"the run's documents were cleaned by another version of {name}: summaries may differ")
    for name in model.not_used:
        say(f"{model.settings_from}: {name} is not used, there is no such setting here")


@dataclass(slots=True)
class Tally:
    """What became of the documents so far."""

    documents: int = 0
    truncated: int = 0
    tokens_lost: int = 0
    empty: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    """Of the first failures, with the document's id."""
    started: float = field(default_factory=time.monotonic)

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Count documents."""
        for prediction in predictions:
            self.documents += 1
            self.truncated += prediction.source_tokens_lost > 0
            self.tokens_lost += prediction.source_tokens_lost
            if prediction.stop.startswith("failed: "):
                self.failed += 1
                if self.failed <= _REASONS:
                    self.reasons.append(f"document {prediction.id}: {prediction.stop}")
            elif prediction.score is None:
                self.empty += 1

    def conclude(self, *, quiet: bool) -> None:
        """Say the counts, and why documents failed, which is said in any case."""
        if not quiet or self.failed:
            say(
                f"documents: {self.documents} in {time.monotonic() - self.started:.1f} s, "
                f"{self.truncated} truncated ({self.tokens_lost} tokens lost), {self.empty} empty, "
                f"{self.failed} failed"
            )
        for reason in self.reasons:
            say(reason)
        if self.failed > len(self.reasons):
            say(
                f"and {self.failed - len(self.reasons)} more failed; --output-format jsonl has every reason"
            )


@contextlib.contextmanager
def progress(size: int | None, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Give a function that is told of documents done and bytes read.

    A bar if stderr is a terminal and stdout is none (summaries on the same screen are progress enough),
    a line every few seconds elsewhere.

    Args:
        size: Bytes of the input, None if nobody knows.
        quiet: Say nothing.
    """
    if quiet or (sys.stderr.isatty() and sys.stdout.isatty()):
        yield lambda _documents, _bytes_read: None
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("0", total=size)
            yield lambda documents, bytes_read: bar.update(
                task, description=str(documents), completed=bytes_read
            )
    else:
        yield _lines(size)


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description} documents"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _lines(size: int | None) -> Callable[[int, int], None]:
    started = said = time.monotonic()

    def tell(documents: int, bytes_read: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < PLAIN_SECONDS:
            return
        said = now
        share = f", {bytes_read / size:.0%} of the input read" if size else ""
        say(f"documents: {documents}, {documents / (now - started):.2g} a second{share}")

    return tell
