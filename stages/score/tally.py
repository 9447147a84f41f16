"""What is counted of scored rows: the tallies of portions add up to that of all."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from stages.score.config import Splitter
from stages.score.identity import text_number
from stages.score.profiles import Reader
from stages.score.sentences import document_sentences, split_sentences
from stages.score.systems import RANDOM, Row
from stages.score.tokenizers import letters

LONG = 80
"""Words of a sentence that are too many: of Reddit posts 59 % have such a line, 2 % such a sentence."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Numbers that add up, each with its own."""

    def __add__(self, other: Self) -> Self:
        return type(self)(
            *(getattr(self, one.name) + getattr(other, one.name) for one in fields(self))
        )


@dataclass(frozen=True, slots=True)
class Side(_Sums):
    """Of the references, or of the predictions."""

    texts: int = 0
    empty: int = 0
    letters: int = 0
    dropped: int = 0
    """Letters that the `ascii` tokenizer drops."""
    run_on: int = 0
    """Texts with several sentences, all in one line."""


@dataclass(frozen=True, slots=True)
class Tally(_Sums):
    """Of rows."""

    references: Side = Side()
    predictions: Side = Side()
    """As the headline profile post-processes them."""
    exact: int = 0
    """Predictions that are their reference, white space aside; none of them empty, which scores 0."""
    failed: int = 0
    """Predictions that could not be made."""
    documents: int = 0
    """Rows that have one."""
    unsplit: int = 0
    """Documents with a sentence of more than LONG words, if baselines are made of sentences."""
    reference_numbers: int = 0
    """The sum of `text_number`."""
    document_numbers: int = 0
    random_numbers: int = 0
    """The same of the training summaries that were drawn; 0 if none were."""


def tally(row: Row, read: Reader, *, has_sentences: bool) -> Tally:
    """Count a row.

    Args:
        row: Is scored.
        read: Of the headline profile.
        has_sentences: Whether baselines are made of the sentences of its document.
    """
    prediction, document = read.processed(row.prediction), row.document
    return Tally(
        references=side(row.reference),
        predictions=side(prediction),
        exact=int(prediction.split() == row.reference.split() != []),
        failed=int(row.stop.startswith("failed")),
        documents=int(document is not None),
        unsplit=int(has_sentences and document is not None and is_unsplit(document, read.splitter)),
        reference_numbers=text_number(row.id, row.reference),
        document_numbers=0 if document is None else text_number(row.id, document),
        random_numbers=text_number(row.id, row.given[RANDOM]) if RANDOM in row.given else 0,
    )


def side(text: str) -> Side:
    """Count a text of one side."""
    found, dropped = letters(text)
    stripped = text.strip()
    return Side(
        texts=1,
        empty=int(not stripped),
        letters=found,
        dropped=dropped,
        run_on=int("\n" not in stripped and len(split_sentences(text, "simple")) > 1),
    )


def is_unsplit(document: str, splitter: Splitter) -> bool:
    """Whether what stands for a document's sentences cannot all be sentences."""
    return any(len(one.split()) > LONG for one in document_sentences(document, splitter))
