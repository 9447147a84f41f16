"""The search rule against enumeration: a model small enough to try every sequence.

Shapes: V vocabulary, B sources, T tokens so far, K beams, C candidates.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from stages.generate.search import Beams, Candidates, Rules, advance, begin

EOS, START = 0, 0
LETTERS = (1, 2, 3)
V = 1 + len(LETTERS)


def markov(seed: int, sources: int = 3) -> Tensor:
    """log p of the next token given the last one and the length so far, for each source [B, T, V, V]."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(sources, 12, V, V, generator=random, dtype=torch.float64) * 2
    return logits.log_softmax(3)


def candidates(log_p_BTVV: Tensor, beams: Beams, count: int) -> Candidates:
    """The plain rule: every continuation of every beam, sorted."""
    at_BK1 = (beams.length_B - 1)[:, None, None].expand(-1, beams.tokens_BKT.shape[1], 1)
    last_BK = beams.tokens_BKT.gather(2, at_BK1).squeeze(2)
    now_BVV = log_p_BTVV[torch.arange(len(log_p_BTVV)), beams.length_B]
    log_p_BKV = now_BVV.gather(1, last_BK.unsqueeze(2).expand(-1, -1, V))
    scores_BC, at_BC = (log_p_BKV + beams.scores_BK.unsqueeze(2)).flatten(1).topk(count)
    return Candidates(scores_BC, at_BC // V, at_BC % V)


def search(log_p_BTVV: Tensor, rules: Rules) -> Beams:
    beams = begin(len(log_p_BTVV), rules, START, log_p_BTVV)
    factors = rules.length_factors(log_p_BTVV)
    while not beams.is_done_B.all():
        proposed = candidates(log_p_BTVV, beams, 2 * rules.num_beams)
        beams, parents_BK = advance(beams, proposed, rules, factors)
        assert parents_BK.max() < rules.num_beams
    return beams


def all_scores(log_p_TVV: Tensor, rules: Rules) -> dict[tuple[int, ...], float]:
    """Beam scores of every sequence that ends with </s> or at the longest length."""
    longest = rules.max_length - 1
    scores = {}
    for length in range(1, longest + 1):
        for letters in itertools.product(LETTERS, repeat=length - 1):
            for last in (EOS, *LETTERS) if length == longest else (EOS,):
                ids = (*letters, last)
                pairs = itertools.pairwise((START, *ids))
                total = sum(float(log_p_TVV[n, a, b]) for n, (a, b) in enumerate(pairs, 1))
                scores[ids] = total / length**rules.length_penalty
    return scores


def found(beams: Beams, source: int) -> list[tuple[tuple[int, ...], float]]:
    return [
        (tuple(ids[1:length]), score)
        for ids, score, length in zip(
            beams.finished_tokens_BKT[source].tolist(),
            beams.finished_scores_BK[source].tolist(),
            beams.finished_length_BK[source].tolist(),
            strict=True,
        )
        if length
    ]


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_that_holds_everything_finds_the_best_sequences(
    seed: int, length_penalty: float
) -> None:
    # At most 27 unfinished sequences and 4 endings of each: nothing is ever dropped.
    log_p_BTVV = markov(seed)
    rules = Rules(100, 5, EOS, length_penalty, early_stopping="never")
    beams = search(log_p_BTVV, rules)
    for source, log_p_TVV in enumerate(log_p_BTVV):
        scores = all_scores(log_p_TVV, rules)
        best = sorted(scores, key=scores.__getitem__, reverse=True)
        for (ids, score), expected in zip(found(beams, source), best[:20], strict=False):
            assert ids == expected
            assert score == pytest.approx(scores[expected], abs=1e-12)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_finished_beams_are_sequences_with_their_scores(
    num_beams: int, early_stopping: bool | str
) -> None:
    log_p_BTVV = markov(7)
    rules = Rules(num_beams, 6, EOS, 0.7, early_stopping)  # type: ignore[arg-type]
    beams = search(log_p_BTVV, rules)
    for source, log_p_TVV in enumerate(log_p_BTVV):
        scores, hypotheses = all_scores(log_p_TVV, rules), found(beams, source)
        assert hypotheses
        assert [score for _, score in hypotheses] == sorted(
            (score for _, score in hypotheses), reverse=True
        )
        assert len({ids for ids, _ in hypotheses}) == len(hypotheses)
        for ids, score in hypotheses:
            assert score == pytest.approx(scores[ids], abs=1e-12)


def test_one_beam_takes_the_likeliest_token_until_the_first_end() -> None:
    log_p_BTVV = markov(3)
    beams = search(log_p_BTVV, Rules(1, 8, EOS, 1.0, early_stopping="never"))
    for source, log_p_TVV in enumerate(log_p_BTVV):
        ids, last = [], START
        while len(ids) < 7 and (not ids or last != EOS):
            last = int(log_p_TVV[len(ids) + 1, last].argmax())
            ids.append(last)
        [(greedy, _)] = found(beams, source)
        assert list(greedy) == ids


def test_a_source_that_is_done_keeps_what_it_has_finished() -> None:
    log_p_BTVV = markov(11, sources=1)
    rules = Rules(2, 12, EOS, 1.0, early_stopping=True)
    beams = search(log_p_BTVV, rules)
    later, _ = advance(
        beams, candidates(log_p_BTVV, beams, 4), rules, rules.length_factors(log_p_BTVV)
    )
    for before, after in zip(beams[2:], later[2:], strict=True):  # lengths, what is finished, done
        assert torch.equal(before, after)


def finished_of(takes_first: bool) -> list[float]:
    """Two beams, one end found already; two better ones come in one step."""
    rules = Rules(2, 9, EOS, 0.0, early_stopping=True, takes_first=takes_first)
    like = torch.zeros((), dtype=torch.float64)
    beams, factors = begin(1, rules, START, like), rules.length_factors(like)

    def step(beams: Beams, scores: list[float], tokens: list[int]) -> Beams:
        proposed = Candidates(
            torch.tensor([scores], dtype=like.dtype),
            torch.zeros(1, 4, dtype=torch.int64),
            torch.tensor([tokens]),
        )
        return advance(beams, proposed, rules, factors)[0]

    beams = step(beams, [-3.0, -4.0, -5.0, -6.0], [EOS, 1, 2, 3])
    assert beams.finished_scores_BK[0, 0] == -3.0 and not beams.is_done_B[0]
    beams = step(beams, [-1.0, -2.0, -5.0, -6.0], [EOS, EOS, 2, 3])
    assert beams.is_done_B[0]
    return beams.finished_scores_BK[0].tolist()


def test_where_fairseq_and_hugging_face_fill_the_list_differently() -> None:
    assert finished_of(takes_first=True) == [-1.0, -3.0]  # the list was full
    assert finished_of(takes_first=False) == [-1.0, -2.0]  # the worst makes room


def test_an_end_beyond_the_first_beams_is_no_end() -> None:
    rules = Rules(1, 9, EOS)
    like = torch.zeros((), dtype=torch.float64)
    proposed = Candidates(
        torch.tensor([[-1.0, -2.0]], dtype=like.dtype),
        torch.zeros(1, 2, dtype=torch.int64),
        torch.tensor([[2, EOS]]),
    )
    beams, _ = advance(begin(1, rules, START, like), proposed, rules, rules.length_factors(like))
    assert not beams.finished_length_BK.any()
    assert beams.tokens_BKT[0, 0, :2].tolist() == [START, 2]
    assert beams.scores_BK[0].tolist() == [-1.0]
