"""ROUGE against the reference implementation and by hand."""

from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer

from pipeline.errors import Preempted
from pipeline.preemption import StopFlag
from stages.score.rouge import ROUGE_TYPES, Scores, mean_scores, score_pairs
from stages.score.sentences import Splitter

PAIRS = [
    ("The mayors opened bridges.\nMany people came.", "A mayor opened the bridge.\nNobody came."),
    ("Many people came. The bridge opened.", "The bridge opened. Many people came."),
    ("", "A reference without a prediction."),
    ("caf\u00e9 d\u00e9j\u00e0 vu 42-43", "cafe deja vu 42 43"),
    ("same text here", "same text here"),
]


def score(
    pairs: list[tuple[str, str]], *, stemmer: bool = False, splitter: Splitter = "newline"
) -> list[Scores]:
    return list(score_pairs(pairs, stemmer=stemmer, splitter=splitter, stop=StopFlag()))


@pytest.mark.parametrize("stemmer", [False, True])
def test_figures_are_those_of_rouge_score(stemmer: bool) -> None:
    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=stemmer)
    for found, (prediction, reference) in zip(score(PAIRS, stemmer=stemmer), PAIRS, strict=True):
        expected = scorer.score(reference, prediction)
        for name in ROUGE_TYPES:
            assert tuple(found[name].values()) == tuple(expected[name])
            assert list(found[name]) == ["precision", "recall", "fmeasure"]


# Prediction of 3 words, reference of 4: 2 words, 1 of 2 and 3 pairs, and a sequence of 2 agree.
def test_a_pair_by_hand() -> None:
    (found,) = score([("the cat sat", "the cat was here")])
    for name in ("rouge1", "rougeL", "rougeLsum"):
        assert found[name] == pytest.approx(
            {"precision": 2 / 3, "recall": 2 / 4, "fmeasure": 4 / 7}
        )
    assert found["rouge2"] == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 3, "fmeasure": 2 / 5}
    )


def test_sentences_count_for_lsum_and_not_for_l() -> None:
    (found,) = score([("gamma delta\nalpha beta", "alpha beta\ngamma delta")])
    assert found["rougeL"]["fmeasure"] == 0.5
    assert found["rougeLsum"]["fmeasure"] == 1.0


def test_the_splitter_makes_the_sentences_of_lsum() -> None:
    pair = ("Gamma delta. Alpha beta.", "Alpha beta. Gamma delta.")
    (by_line,), (by_rule,) = score([pair]), score([pair], splitter="simple")
    assert by_line["rougeLsum"]["fmeasure"] == 0.5
    assert by_rule["rougeLsum"]["fmeasure"] == 1.0
    for name in ("rouge1", "rouge2", "rougeL"):
        assert by_line[name] == by_rule[name]


def test_stemming_joins_forms_of_a_word() -> None:
    pair = ("bridges opened", "bridge opening")
    (plain,), (stemmed,) = score([pair]), score([pair], stemmer=True)
    assert plain["rouge1"]["fmeasure"] == 0.0
    assert stemmed["rouge1"]["fmeasure"] == 1.0


def test_mean_is_over_examples() -> None:
    found = mean_scores(score([("alpha beta", "alpha beta"), ("alpha", "gamma"), ("a b", "a c")]))
    assert found["rouge1"]["fmeasure"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert found["rouge2"]["fmeasure"] == pytest.approx(1 / 3)


def test_a_stop_is_heard() -> None:
    stop = StopFlag()
    stop.request("SIGTERM")
    with pytest.raises(Preempted):
        list(score_pairs(PAIRS, stemmer=True, splitter="newline", stop=stop))
