"""ROUGE bit by bit against rouge-score 0.1.2, against values by hand, and against ROUGE-1.5.5's figures."""

from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from stages.score.config import ProfileName, Splitter
from stages.score.profiles import Reader, reader
from stages.score.rouge import COLUMNS, ROUGE_TYPES, Scores, flat, rouge

needs_data = pytest.mark.skipif(
    "SUMPIPE_TEST_DATA" not in os.environ, reason="SUMPIPE_TEST_DATA is not set: no real texts"
)
peers = functools.partial(RougeScorer, list(ROUGE_TYPES))


def data(*parts: str) -> Path:
    return Path(os.environ["SUMPIPE_TEST_DATA"]).joinpath(*parts)


def lines(*parts: str) -> list[str]:
    return data(*parts).read_text(encoding="utf-8").rstrip("\n").split("\n")


def score(
    pair: tuple[str, str], name: ProfileName = "rouge-score", splitter: Splitter | None = None
) -> Scores:
    read = reader(name, splitter, None)
    return rouge(read.prediction(pair[0]), read.reference(pair[1]))


def assert_equal_bits(pairs: Iterable[tuple[str, str]], read: Reader, peer: RougeScorer) -> int:
    """Compare precision, recall and F of all types; returns how many pairs there were."""
    count = 0
    for prediction, reference in pairs:
        expected = peer.score(reference, prediction)
        found = rouge(read.prediction(prediction), read.reference(reference))
        for name in ROUGE_TYPES:
            assert found[name] == tuple(expected[name]), (name, prediction, reference)
        count += 1
    return count


def fuzzed(draw: random.Random) -> str:
    """A text of few or many different words, with what tokenizers and splitters stumble over."""
    words: list[str] = draw.choice(
        [
            ["a", "b"],
            [*"abcdef"],
            ["running", "flies", "dying", "skies", "generalization", "ness", "can't", "42", "_"],
            [
                "\u00e9t\u00e9",
                "\u0130stanbul",
                "\u212aelvin",
                "\u4e2d\u6587",
                "cats",
                "\u0661",
                "na\u00efve",
            ],
            [
                "".join(draw.choices("esingdaltiony\u0301", k=draw.randrange(1, 9)))
                for _ in range(9)
            ],
        ]
    )
    ends = [" ", " ", " ", "\n", "\n \n", ". ", "\r\n", "\u2028", "\t", "-"]
    count = draw.choice([0, 1, 2, 5, 12, 25])
    return "".join(draw.choice(words) + draw.choice(ends) for _ in range(count))


@pytest.mark.parametrize("count", [3_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_fuzzed_texts_give_equal_bits(count: int) -> None:
    draw = random.Random(count)
    pairs = ((fuzzed(draw), fuzzed(draw)) for _ in range(count))
    assert assert_equal_bits(pairs, reader("rouge-score", None, None), peers(True)) == count


def realsumm(line_break: str) -> list[tuple[str, str]]:
    """Pairs of 25 systems; each sentence ends in ` . `, references have marks around theirs."""
    references = [
        line.replace("<t>", "").replace("</t>", "\n")
        for line in lines("scoring_realsumm", "references.txt")
    ]
    return [
        (line.replace(" . ", f" .{line_break}"), reference)
        for path in sorted(data("scoring_realsumm", "summaries").iterdir())
        for line, reference in zip(lines(str(path)), references, strict=True)
    ]


@needs_data
def test_some_cnn_dm_outputs_give_equal_bits() -> None:
    read = reader("rouge-score", None, None)
    assert assert_equal_bits(realsumm("\n")[::13], read, peers(True)) == 193


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("line_break", ["\n", " "])
def test_all_cnn_dm_outputs_give_equal_bits(line_break: str) -> None:
    read = reader("rouge-score", None, None)
    assert assert_equal_bits(realsumm(line_break), read, peers(True)) == 25 * 100


@needs_data
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_documents_give_equal_bits(step: int) -> None:
    """Long texts, as lead and oracle are made of, before and behind: against a reference, and as one."""
    documents = [text.replace(" . ", " .\n") for text in lines("scoring_realsumm", "documents.txt")]
    references = [reference for _, reference in realsumm("\n")[: len(documents)]]
    pairs = [*zip(documents, references, strict=True)][::step]
    pairs += [(reference, document) for document, reference in pairs]
    read = reader("rouge-score", None, None)
    assert assert_equal_bits(pairs, read, peers(True)) == 2 * 100 // step


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("system", ["convs2s", "topic-convs2s", "lead"])
def test_xsum_outputs_give_equal_bits(system: str) -> None:
    folder = "scoring_xsum_preds"
    texts = (f"{system}-test-output.txt", "gold-test-sentences.txt")
    pairs = zip(*(lines(folder, name) for name in texts), strict=True)
    read = reader("rouge-score", None, None)
    assert assert_equal_bits(pairs, read, peers(True)) == 11_334


@needs_data
def test_google_s_texts_give_equal_bits() -> None:
    folder = "google_rouge_testdata"
    pairs = [*zip(lines(folder, "prediction.txt"), lines(folder, "target.txt"), strict=True)]
    whole = [data(folder, f"{name}_multi.0.txt").read_text() for name in ("prediction", "target")]
    for read, is_stemmed in ((reader("rouge-score", None, None), True), (PLAIN, False)):
        assert assert_equal_bits([*pairs, (whole[0], whole[1])], read, peers(is_stemmed)) > 2


# rouge-score's tokenizer without a stemmer is no profile; Google's values by hand need it.
PLAIN = reader("unicode", None, None)


@needs_data
def test_the_nine_values_by_hand_of_rouge_155() -> None:
    folder = "google_rouge_testdata"
    expected = json.loads(data(folder, "expected.json").read_text(encoding="utf-8"))
    predictions, targets = (lines(folder, f"{name}.txt") for name in ("prediction", "target"))
    multi = expected["multi"]
    whole = tuple(data(folder, multi[name]).read_text() for name in ("prediction", "target"))
    wanted: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        *((one, (predictions[one["line"]], targets[one["line"]])) for one in expected["pairs"]),
        (multi, whole),
    ]
    assert len(wanted) == 9
    for one, (prediction, target) in wanted:
        found = score((prediction, target), "rouge-score" if one["stem"] else "unicode")
        figures = found[one["type"]]
        assert [round(figure, 5) for figure in figures] == [one["p"], one["r"], one["f"]], one


# Prediction of 3 words, reference of 4: 2 words, 1 of 2 and 3 pairs, and a sequence of 2 agree.
def test_a_pair_by_hand() -> None:
    found = score(("the cat sat", "the cat was here"))
    for name in ("rouge1", "rougeL", "rougeLsum"):
        assert found[name] == pytest.approx((2 / 3, 2 / 4, 4 / 7))
    assert found["rouge2"] == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    assert flat(found)[COLUMNS.index("rouge2_recall")] == pytest.approx(1 / 3)


def test_sentences_count_for_lsum_and_not_for_l() -> None:
    found = score(("gamma delta\nalpha beta", "alpha beta\ngamma delta"))
    assert (found["rougeL"].fmeasure, found["rougeLsum"].fmeasure) == (0.5, 1.0)


def test_the_splitter_makes_the_sentences_of_lsum() -> None:
    pair = ("Gamma delta. Alpha beta.", "Alpha beta. Gamma delta.")
    by_line, by_rule = score(pair), score(pair, splitter="simple")
    assert (by_line["rougeLsum"].fmeasure, by_rule["rougeLsum"].fmeasure) == (0.5, 1.0)
    assert [by_line[name] for name in ROUGE_TYPES[:3]] == [
        by_rule[name] for name in ROUGE_TYPES[:3]
    ]


def test_a_word_of_the_union_counts_no_more_often_than_it_stands_there() -> None:
    """Both reference sentences would claim the prediction's only `alpha`."""
    found = score(("alpha beta", "alpha gamma\nalpha delta"))
    assert found["rougeLsum"] == pytest.approx((1 / 2, 1 / 4, 1 / 3))


@pytest.mark.parametrize("pair", [("", ""), ("", "a word"), ("a word", ""), ("...", "a word")])
def test_texts_without_words_score_nothing(pair: tuple[str, str]) -> None:
    assert set(flat(score(pair))) == {0.0}
