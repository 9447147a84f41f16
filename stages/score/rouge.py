"""ROUGE by the reference implementation, over whole systems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from rouge_score.rouge_scorer import RougeScorer

from pipeline.preemption import StopFlag
from stages.score.sentences import Splitter, split_sentences

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_PAIRS_BETWEEN_STOPS = 100

Scores = dict[str, dict[str, float]]
"""Precision, recall and fmeasure by ROUGE type, as fractions."""


def score_pairs(
    pairs: Sequence[tuple[str, str]], *, stemmer: bool, splitter: Splitter, stop: StopFlag
) -> Iterator[Scores]:
    """Score (prediction, reference) pairs one by one.

    ROUGE-L takes each text as one sequence; ROUGE-Lsum takes it sentence by sentence, split by `splitter`.
    """
    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=stemmer)
    for number, (prediction, reference) in enumerate(pairs):
        if number % _PAIRS_BETWEEN_STOPS == 0:
            stop.check()
        lines = ["\n".join(split_sentences(text, splitter)) for text in (reference, prediction)]
        found = scorer.score(*lines)
        yield {name: found[name]._asdict() for name in ROUGE_TYPES}


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Return the mean of each figure over examples: the point estimate that is published."""
    return {
        name: {part: fmean(one[name][part] for one in scores) for part in scores[0][name]}
        for name in ROUGE_TYPES
    }
