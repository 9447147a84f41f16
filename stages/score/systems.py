"""What is scored on each row: the model, baselines that show what its figures mean, and other systems."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from stages.rouge_json import MODEL
from stages.score.config import Baseline, LeadConfig
from stages.score.oracle import oracle
from stages.score.profiles import Reader
from stages.score.sentences import document_sentences, lead
from stages.score.wording import several

RANDOM: Baseline = "random_training_summary"
MADE_OF_DOCUMENTS: frozenset[Baseline] = frozenset({"lead", "oracle"})
"""The baselines that are made of documents."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prediction with what it is compared with."""

    id: str
    document: str | None
    """None where nobody gave documents; then no baseline is made of them."""
    reference: str
    prediction: str
    stop: str = ""
    """How the model's generation ended; empty if that is not known."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Texts of other systems by name, those of random_training_summary among them."""
    other_reference: str = ""
    """Another row's."""
    bertscore: tuple[float, float, float] | None = None
    """Precision, recall and F of the prediction, where it is asked for."""


class Candidate(NamedTuple):
    """A text of a system, and the reference that it is scored against."""

    system: str
    text: str
    reference: str


def candidates(
    row: Row, baselines: tuple[Baseline, ...], first: LeadConfig, read: Reader
) -> Iterator[Candidate]:
    """Yield what is scored on a row, in the order of tables.

    lead:                            the beginning of the document
    oracle:                          the sentences of the document that a copier would best choose
    random_training_summary:         what ROUGE gives to a text that knows nothing of the document
    model_against_another_reference: the same for the model's own text; one that reads its document scores
                                     far less against another's reference
    """
    yield Candidate(MODEL, row.prediction, row.reference)
    texts = dict(row.given)
    name: str
    for name in baselines:
        if name == "model_against_another_reference":
            yield Candidate(name, row.prediction, row.other_reference)
        elif name == RANDOM:
            yield Candidate(name, texts.pop(name), row.reference)
        else:
            assert row.document is not None, "who gives no documents asks for no baselines of them"
            yield Candidate(
                name, _extract(name, row.document, row.reference, first, read), row.reference
            )
    for name, text in texts.items():
        yield Candidate(name, text, row.reference)


def _extract(name: str, document: str, reference: str, first: LeadConfig, read: Reader) -> str:
    if name == "lead":
        return lead(document, first.unit, first.count, read.splitter)
    sentences = document_sentences(document, read.splitter)
    return oracle(sentences, reference, functools.partial(_words, read))


def _words(read: Reader, text: str) -> list[str]:
    return read.reference(text).words


def labels(
    baselines: tuple[Baseline, ...], first: LeadConfig, others: Mapping[str, str]
) -> dict[str, str]:
    """Return the systems in the order of tables, with what people call them."""
    words = {
        "lead": f"Lead ({several(first.count, first.unit.removesuffix('s'))})",
        "oracle": "Extractive oracle",
        RANDOM: "Random training summary",
        "model_against_another_reference": "Model against another row's reference",
    }
    return {MODEL: "Model", **{name: words[name] for name in baselines}, **others}
