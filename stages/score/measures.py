"""What a summary is like beside ROUGE: how long it is, how much of it is copied, how much repeated."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.score.tokenizers import TOKENIZERS

NOVEL_SIZES = (1, 2, 3, 4)
COPYING = (*(f"novel_{size}gram" for size in NOVEL_SIZES), "coverage", "density", "compression")
MEASURES = ("length_ratio", *COPYING, "repetition")
_REPEATED_SIZE = 3
_ABSENT = -1
_words = TOKENIZERS["unicode"]


def measures(document: str | None, summary: str, reference: str) -> dict[str, float | None]:
    """Return the measures of one summary, by the names in MEASURES.

    With S the words of the summary, A those of the document, F the fragments of S that are copied from A:

    length_ratio:  |S| / words of the reference
    novel_Ngram:   share of the distinct n-grams of S that A does not have
    coverage:      sum of |f| over F, / |S|: the share of words that are copied
    density:       sum of |f| ** 2 over F, / |S|: the mean length, in words, of the fragment a word is in
    compression:   |A| / |S|
    repetition:    share of the distinct trigrams of S that come more than once in it

    Words are those of the `unicode` tokenizer, in lower case and without punctuation. A ratio whose divisor
    is zero has no value: it is None, which `intervals` leaves out of the mean, and it says how many rows have
    a value. So an empty summary has a length ratio (0) and nothing else, and without a document (None)
    there is nothing about copying.

    Source: fragments, coverage, density and compression as in Grusky, Naaman and Artzi (2018), NEWSROOM,
    section 4 (the procedure F(A, S)), and newsroom/analyze/fragments.py at 77b42ee; novel and repeated
    n-grams as in SummEval (Fabbri et al. 2021), data_stats_metric.py at 07a3800.
    Deviations: their words are spaCy's tokens, punctuation included; NEWSROOM's code gives 0 where we give
    None; its search leaps over what it has just matched, and so misses the longest match in some texts that
    repeat themselves.
    """
    words = _words(summary)
    return {
        "length_ratio": _ratio(len(words), len(_words(reference))),
        **(dict.fromkeys(COPYING) if document is None else _copying(document, words)),
        "repetition": _repeated(words, _REPEATED_SIZE),
    }


def _copying(document: str, words: Sequence[str]) -> dict[str, float | None]:
    known, document_ids = _indexed(document)
    longest = _longest_copies(document_ids, [known.get(word, _ABSENT) for word in words])
    fragments = _fragments(longest)
    return {
        **{f"novel_{size}gram": _novel(words, longest, size) for size in NOVEL_SIZES},
        "coverage": _ratio(sum(fragments), len(words)),
        "density": _ratio(sum(length**2 for length in fragments), len(words)),
        "compression": _ratio(len(document_ids), len(words)),
    }


# The systems of a row are measured one after the other: its document is read once.
@functools.lru_cache(maxsize=1)
def _indexed(document: str) -> tuple[dict[str, int], NDArray[np.int32]]:
    """Number the words of a document; returns the numbers by word, and the document in numbers [A]."""
    words = _words(document)
    known = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return known, np.array([known[word] for word in words], dtype=np.int32)


def _longest_copies(document_ids: NDArray[np.int32], summary_ids: Sequence[int]) -> list[int]:
    """Return for each place in the summary how many words from there on stand so in the document, at best.

    run[j] is the length of the match of summary[i:] with document[j:], from the last i to the first: |S|
    numpy operations on [A], whatever the texts are like.
    """
    run = np.zeros(len(document_ids) + 1, dtype=np.int32)
    longest = [0] * len(summary_ids)
    for place in range(len(summary_ids) - 1, -1, -1):
        matches = document_ids == summary_ids[place]
        run[:-1] = np.where(matches, run[1:] + 1, 0)
        longest[place] = int(run.max())
    return longest


def _fragments(longest: Sequence[int]) -> list[int]:
    """Return the lengths of F(A, S): from left to right, the longest copy at each place, then past it."""
    lengths, place = [], 0
    while place < len(longest):
        if longest[place]:
            lengths.append(longest[place])
        place += max(longest[place], 1)
    return lengths


def _novel(words: Sequence[str], longest: Sequence[int], size: int) -> float | None:
    places = range(len(words) - size + 1)
    is_novel = {tuple(words[place : place + size]): longest[place] < size for place in places}
    return _ratio(sum(is_novel.values()), len(is_novel))


def _repeated(words: Sequence[str], size: int) -> float | None:
    counts = Counter(tuple(words[place : place + size]) for place in range(len(words) - size + 1))
    return _ratio(sum(count > 1 for count in counts.values()), len(counts))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
