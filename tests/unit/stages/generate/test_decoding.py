"""Our beam search against Hugging Face's and against fairseq's rules, in float64.

Shapes: S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers.generation.utils
from transformers import BartForConditionalGeneration

from stages.generate import huggingface
from stages.generate.config import SearchConfig
from stages.generate.decoding import BartModel, Hypothesis, decode
from stages.generate.engine import search_of
from tests.unit.stages.generate.random_search import (
    BOS,
    EOS,
    PAD,
    VOCABULARY,
    Case,
    ours,
    random_bart,
    random_case,
)

torch.set_num_threads(1)

FEW, MANY = range(150), range(150, 1000)


class Float64(ModuleType):
    """torch for Hugging Face, which sums scores in float32 whatever the model: here in float64."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in {"float", "float32"} else getattr(torch, name)


@pytest.fixture
def exact_scores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(transformers.generation.utils, "torch", Float64("torch"))
    yield


def check_against_hugging_face(seeds: range) -> None:
    compared = 0
    for seed in seeds:
        case = random_case(seed, "huggingface")
        expected = dict(huggingface.decode(case.bart, case.sources, case.config, len(case.sources)))
        for number, found in enumerate(ours(case)):
            count = case.config.return_sequences
            for one, other in zip(found[:count], expected[number], strict=True):
                assert one.token_ids == other.token_ids, (seed, number, case.config)
                assert one.score == pytest.approx(other.score, abs=1e-9), (seed, number)
                compared += 1
    assert compared > 10 * len(seeds)


@pytest.mark.usefixtures("exact_scores")
def test_sequences_and_scores_are_hugging_faces() -> None:
    check_against_hugging_face(FEW)


@pytest.mark.slow
@pytest.mark.usefixtures("exact_scores")
def test_sequences_and_scores_are_hugging_faces_in_many_more_cases() -> None:
    check_against_hugging_face(MANY)


def fairseq_search(
    bart: BartForConditionalGeneration, source: list[int], config: SearchConfig
) -> list[Hypothesis]:
    """fairseq's beam search of one source, without caches, batches or tensors of beams.

    Written from fairseq's sequence_generator.py and search.py: step counts generated tokens, the prefix <s>
    keeps its log-probability, an end counts only among the first beams, and the list takes what comes first.
    """
    K, longest = config.num_beams, config.max_length - 2  # max_len: tokens before </s>
    beams: list[tuple[list[int], float]] = [([bart.config.decoder_start_token_id], 0.0)]
    finalized: list[Hypothesis] = []
    for step in range(longest + 1):
        candidates = []
        for ids, score in beams:
            log_p = log_probabilities(bart, source, ids)
            log_p[PAD] = -math.inf
            allowed = list(range(VOCABULARY))
            if step >= longest:
                allowed = [EOS]
            elif step == 0 and config.force_bos:
                allowed = [BOS]
            elif step < config.min_length - 1:
                log_p[EOS] = -math.inf
            if len(allowed) > 1:
                for token in repeats(ids, config.no_repeat_ngram_size):
                    log_p[token] = -math.inf
            candidates += [
                (score + log_p[t], ids, t) for t in allowed if score + log_p[t] > -math.inf
            ]
        candidates = sorted(candidates, key=lambda one: -one[0])[: 2 * K]
        for score, ids, token in candidates[:K]:
            if token == EOS and len(finalized) < K:
                ending = [*ids, EOS][1:]
                finalized.append(Hypothesis(ending, score / (step + 1) ** config.length_penalty))
        if len(finalized) == K:
            break
        beams = [([*ids, token], score) for score, ids, token in candidates if token != EOS][:K]
    return sorted(finalized, key=lambda one: -one.score)


def log_probabilities(
    bart: BartForConditionalGeneration, source: list[int], ids: list[int]
) -> list[float]:
    with torch.no_grad():
        logits_TV = bart(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([ids])
        ).logits[0]
    log_p: list[float] = logits_TV[-1].log_softmax(-1).tolist()
    return log_p


def repeats(ids: list[int], size: int) -> set[int]:
    """Tokens that would complete an n-gram which is there already."""
    if size == 0 or len(ids) < size:
        return set()
    last = ids[len(ids) - size + 1 :]
    starts = range(len(ids) - size + 1)
    return {ids[at + size - 1] for at in starts if ids[at : at + size - 1] == last}


@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 40), marks=pytest.mark.slow)])
def test_the_fairseq_profile_is_fairseqs_search(seeds: range) -> None:
    for seed in seeds:
        case = random_case(seed, "fairseq")
        for source, found in zip(case.sources[:3], ours(case), strict=False):
            expected = fairseq_search(case.bart, source, case.config)
            assert [one.token_ids for one in found[: len(expected)]] == [
                one.token_ids for one in expected
            ], (seed, case.config)
            for one, other in zip(found, expected, strict=False):
                assert one.score == pytest.approx(other.score, abs=1e-9)


def test_the_profiles_differ_by_what_forced_tokens_cost() -> None:
    case = random_case(5, "huggingface")
    config = SearchConfig(num_beams=8, min_length=5, max_length=6, force_bos=True)
    of_hugging_face = ours(case._replace(config=config))
    of_fairseq = ours(case._replace(config=config.model_copy(update={"profile": "fairseq"})))
    ids = of_hugging_face[0][0].token_ids
    assert len(ids) == 5
    start = case.bart.config.decoder_start_token_id
    log_p = [
        log_probabilities(case.bart, case.sources[0], [start, *ids[:n]])[ids[n]] for n in range(5)
    ]
    assert of_hugging_face[0][0].score == pytest.approx(sum(log_p[1:-1]) / 5, abs=1e-9)
    scores = {tuple(one.token_ids): one.score for one in of_fairseq[0]}
    assert scores[tuple(ids)] == pytest.approx(sum(log_p) / 5, abs=1e-9)


@pytest.mark.parametrize("slots", [1, 2, 5, 40])
def test_neither_slots_nor_order_change_a_summary(slots: int) -> None:
    bart = random_bart(3, eos_bias=2.0)
    config = SearchConfig(num_beams=4, max_length=20, no_repeat_ngram_size=3)
    sources = [source for seed in range(6) for source in random_case(seed, "huggingface").sources]
    alone = [ours(Case(bart, config, [source], 1))[0] for source in sources]
    together = ours(Case(bart, config, sources, slots))
    backwards = ours(Case(bart, config, sources[::-1], slots))[::-1]
    lengths = {len(found[0].token_ids) for found in alone}
    assert len(lengths) > 3  # sources leave at different times
    for one, other, third in zip(alone, together, backwards, strict=True):
        for a, b, c in zip(one, other, third, strict=True):
            assert a.token_ids == b.token_ids == c.token_ids
            assert b.score == pytest.approx(a.score, abs=1e-12)
            assert c.score == pytest.approx(a.score, abs=1e-12)


def test_a_source_whose_output_is_not_finite_spoils_no_other() -> None:
    bart = random_bart(3, eos_bias=1.0)
    config = SearchConfig(num_beams=3, max_length=12)
    sources = [[BOS, 10 + n, 20, EOS] for n in range(6)]
    expected = ours(Case(bart, config, sources, 2))
    model = BartModel(copy.deepcopy(bart))
    weight_VM = bart.model.shared.weight.detach().clone()
    weight_VM[50] = math.nan
    model.encoder.embed_tokens.weight = torch.nn.Parameter(weight_VM)
    poisoned = [
        [BOS, 50, 50, 50, EOS],
        *sources,
    ]  # the longest: the first in a slot that others take later
    found = dict(decode(model, poisoned, search_of(config, bart.config), 2))
    assert not math.isfinite(found[0][0].score)
    for number, hypotheses in enumerate(expected, 1):
        assert [one.token_ids for one in found[number]] == [one.token_ids for one in hypotheses]
