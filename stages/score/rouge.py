"""ROUGE-1, -2, -L and -Lsum of two texts that are already words: what rouge-score 0.1.2 gives, bit by bit.

rouge-score (google-research, `rouge_scorer.py`) is the reference. What differs is only how: each text is
counted once for all types and partners, and subsequences are found by bits (lcs.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple, TypeVar

from stages.score.lcs import lcs_length, lcs_places, positions

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
PARTS = ("precision", "recall", "fmeasure")
COLUMNS = tuple(f"{name}_{part}" for name in ROUGE_TYPES for part in PARTS)
"""The figures of a pair, in the order that `flat` has them."""


class Score(NamedTuple):
    """Figures of one ROUGE type, as fractions."""

    precision: float
    recall: float
    fmeasure: float


Gram = TypeVar("Gram", str, tuple[str, str])
Scores = dict[str, Score]
"""By ROUGE type."""


@dataclass(frozen=True, slots=True)
class Words:
    """A text as words, and what ROUGE counts of it."""

    sentences: tuple[list[str], ...]
    """Those with words."""
    words: list[str]
    unigrams: Counter[str]
    bigrams: Counter[tuple[str, str]]


def counted(sentences: Sequence[list[str]]) -> Words:
    """Count what ROUGE needs of a text, given as the words of each sentence."""
    words = list(chain.from_iterable(sentences))
    kept = tuple(filter(None, sentences))
    return Words(kept, words, Counter(words), Counter(pairwise(words)))


def rouge(prediction: Words, reference: Words) -> Scores:
    """Score a prediction against a reference.

    ROUGE-n:    n-grams in common, each counted as often as in the text that has it less often
    ROUGE-L:    words of a longest common subsequence of both texts, each taken as one sequence
    ROUGE-Lsum: words of the union, for each reference sentence, of its longest common subsequences with all
                predicted sentences; a word counts no more often than either text has it (Lin 2004,
                section 3.2, clipped as ROUGE-1.5.5 does)

    Returns:
        Precision: that, divided by the prediction's n-grams (words for L); recall: by the reference's;
        fmeasure: their harmonic mean. All 0 where there is nothing in common.
    """
    length, found = len(reference.words), len(prediction.words)
    places = positions(reference.words)
    common = lcs_length(places, length, prediction.words)
    # One sentence each: the union is that subsequence, and clipping changes nothing.
    is_plain = len(reference.sentences) <= 1 and len(prediction.sentences) <= 1
    union = common if is_plain else _union_hits(prediction, reference)
    return {
        "rouge1": _score(_overlap(prediction.unigrams, reference.unigrams), found, length),
        "rouge2": _score(_overlap(prediction.bigrams, reference.bigrams), found - 1, length - 1),
        "rougeL": _score(common, found, length),
        "rougeLsum": _score(union, found, length),
    }


def flat(scores: Scores) -> tuple[float, ...]:
    """Return the figures in the order of COLUMNS."""
    return tuple(chain.from_iterable(scores.values()))


def _overlap(first: Counter[Gram], second: Counter[Gram]) -> int:
    return sum(min(times, second[gram]) for gram, times in first.items() if gram in second)


def _union_hits(prediction: Words, reference: Words) -> int:
    unused_predicted, unused = prediction.unigrams.copy(), reference.unigrams.copy()
    hits = 0
    for sentence in reference.sentences:
        places = positions(sentence)
        union = 0
        for predicted in prediction.sentences:
            if not places.keys().isdisjoint(predicted):
                union |= lcs_places(places, len(sentence), predicted)
        for place, word in enumerate(sentence):
            if union >> place & 1 and unused_predicted[word] > 0 and unused[word] > 0:
                hits += 1
                unused_predicted[word] -= 1
                unused[word] -= 1
    return hits


def _score(common: int, predicted: int, wanted: int) -> Score:
    # In the order of rouge-score's operations: another one may give other last bits.
    precision, recall = common / max(predicted, 1), common / max(wanted, 1)
    if precision + recall == 0:
        return Score(precision, recall, 0.0)
    return Score(precision, recall, 2 * precision * recall / (precision + recall))
