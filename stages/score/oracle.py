"""The extractive oracle: the sentences of a document that a summarizer that only copies would best choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZES = (1, 2)
"""ROUGE-1 and ROUGE-2."""
_ROUNDING = 1e-12

Tokenize = Callable[[str], Sequence[Hashable]]


def oracle(
    sentences: Sequence[str], reference: str, tokenize: Tokenize, limit: int | None = None
) -> str:
    """Return the greedy extractive summary of a document for a reference, one sentence a line.

    While it raises ROUGE-1 F + ROUGE-2 F of the sentences chosen so far, the sentence that raises it most is
    added, the first of equals; the sentences stand in the document's order.

    Source: Nallapati, Zhai and Zhou (2017), SummaRuNNer (extractive training); the sum of both figures is Liu
    and Lapata's (2019): PreSumm `greedy_selection` at 2695635.
    Deviations: n-grams are counted and clipped as ROUGE does, where PreSumm takes sets; no limit of three
    sentences. Bigrams across two chosen sentences, which ROUGE has, are not counted, as there.

    Args:
        sentences: The document.
        reference: The summary that is to be met.
        tokenize: Gives the tokens of a text, as the scorer sees them.
        limit: Most sentences to choose; None for no limit.

    Returns:
        The summary: empty if no sentence shares a token with the reference. It is no upper bound: choosing
        greedily may miss the best set.
    """
    chosen = choose([tokenize(sentence) for sentence in sentences], tokenize(reference), limit)
    return "\n".join(sentences[number] for number in sorted(chosen))


def choose(
    sentences: Sequence[Sequence[Hashable]],
    reference: Sequence[Hashable],
    limit: int | None = None,
) -> list[int]:
    """Return the numbers of the sentences, given as tokens, in the order in which they are chosen."""
    tables = [_table(sentences, reference, size) for size in SIZES]
    chosen: list[int] = []
    reached = 0.0
    while len(chosen) < (len(sentences) if limit is None else min(limit, len(sentences))):
        figures_S = np.sum([_f_with_one_more(table, chosen) for table in tables], axis=0)
        figures_S[chosen] = 0.0
        best = int(figures_S.argmax())
        if figures_S[best] <= reached + _ROUNDING:
            break
        reached = figures_S[best]
        chosen.append(best)
    return chosen


class _Table(NamedTuple):
    """The n-grams of one size: S sentences, G distinct n-grams of the reference."""

    counts_SG: NDArray[np.int64]
    wanted_G: NDArray[np.int64]
    """How often each is in the reference."""
    totals_S: NDArray[np.int64]
    """N-grams of each sentence, others included."""


def _table(
    sentences: Sequence[Sequence[Hashable]], reference: Sequence[Hashable], size: int
) -> _Table:
    wanted = _ngrams(reference, size)
    columns = {ngram: number for number, ngram in enumerate(wanted)}
    counts_SG = np.zeros((len(sentences), len(wanted)), dtype=np.int64)
    totals_S = np.zeros(len(sentences), dtype=np.int64)
    for row, sentence in enumerate(sentences):
        found = _ngrams(sentence, size)
        totals_S[row] = found.total()
        for ngram in found.keys() & wanted.keys():
            counts_SG[row, columns[ngram]] = found[ngram]
    return _Table(counts_SG, np.array([*wanted.values()], dtype=np.int64), totals_S)


def _ngrams(tokens: Sequence[Hashable], size: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[place : place + size]) for place in range(len(tokens) - size + 1))


def _f_with_one_more(table: _Table, chosen: list[int]) -> NDArray[np.float64]:
    """Return ROUGE F [S] of the chosen sentences with each sentence beside them: 2 shared / both lengths."""
    have_G = table.counts_SG[chosen].sum(axis=0)
    shared_S = np.minimum(have_G + table.counts_SG, table.wanted_G).sum(axis=1)
    lengths_S = table.totals_S[chosen].sum() + table.totals_S + table.wanted_G.sum()
    f_S: NDArray[np.float64] = 2 * shared_S / np.maximum(lengths_S, 1)
    return f_S
