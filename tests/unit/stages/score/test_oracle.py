"""The greedy oracle against a plain greedy search, and under the best of all sets of sentences."""

from __future__ import annotations

from collections import Counter
from itertools import chain, combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from stages.score.oracle import choose, oracle

DOCUMENT = [
    "It rained on Sunday.",
    "The mayor opened the bridge.",
    "Nobody had an umbrella.",
    "Hundreds of people came.",
]
Sentences = list[list[str]]


def test_sentences_of_the_reference_are_found_in_the_order_of_the_document() -> None:
    reference = "Hundreds of people came.\nThe mayor opened the bridge."
    assert oracle(DOCUMENT, reference, str.split) == f"{DOCUMENT[1]}\n{DOCUMENT[3]}"
    assert oracle(DOCUMENT, reference, str.split, limit=1) == DOCUMENT[1]


def test_the_first_of_equal_sentences_is_taken_once() -> None:
    assert choose([["b"], ["a"], ["a"]], ["a", "a"]) == [1, 2]
    assert choose([["b"], ["a"], ["a"]], ["a"]) == [1]


def test_nothing_in_common_gives_no_sentence() -> None:
    assert oracle(DOCUMENT, "xyz", str.split) == ""
    assert oracle(DOCUMENT, "", str.split) == ""
    assert oracle([], "xyz", str.split) == ""


def value(sentences: Sentences, reference: list[str]) -> float:
    """ROUGE-1 F + ROUGE-2 F, no bigram across sentences."""
    total = 0.0
    for grams in (lambda words: [(word,) for word in words], lambda words: list(pairwise(words))):
        found = Counter(chain.from_iterable(map(grams, sentences)))
        wanted = Counter(grams(reference))
        total += 2 * (found & wanted).total() / max(found.total() + wanted.total(), 1)
    return total


def plain_greedy(sentences: Sentences, reference: list[str]) -> list[int]:
    chosen: list[int] = []
    while True:
        now = value([sentences[number] for number in chosen], reference)
        best, at = max(
            ((value([sentences[n] for n in [*chosen, number]], reference), -number)
             for number in range(len(sentences)) if number not in chosen),
            default=(0.0, 0),
        )  # fmt: skip
        if best <= now + 1e-12:
            return chosen
        chosen.append(-at)


words = st.lists(st.sampled_from("abcd"), max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.lists(words, max_size=5), st.lists(st.sampled_from("abcd"), max_size=8))
def test_it_is_the_plain_search_and_no_better_than_the_best(
    sentences: Sentences, reference: list[str]
) -> None:
    chosen = choose(sentences, reference)
    assert chosen == plain_greedy(sentences, reference)
    found = value([sentences[number] for number in chosen], reference)
    sets = chain.from_iterable(combinations(sentences, size) for size in range(len(sentences) + 1))
    assert found <= max(value(list(some), reference) for some in sets) + 1e-12
    assert found >= max((value([one], reference) for one in sentences), default=0.0) - 1e-12


def test_it_beats_the_lead_by_rouge() -> None:
    reference = "People came as the mayor opened a bridge"
    scorer = RougeScorer(["rouge1"])
    lead = "\n".join(DOCUMENT[:2])
    best = oracle(DOCUMENT, reference, lambda text: text.lower().strip(".").split())
    ours, theirs = (scorer.score(reference, text)["rouge1"].fmeasure for text in (best, lead))
    assert best == f"{DOCUMENT[1]}\n{DOCUMENT[3]}"
    assert ours > theirs
