"""Random models, sources and settings for the comparisons of beam search with its oracles."""

from __future__ import annotations

import copy
import random
from typing import Literal, NamedTuple

import torch
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

from stages.generate.config import SearchConfig
from stages.generate.decoding import BartModel, Hypothesis, decode
from stages.generate.engine import search_of

BOS, PAD, EOS, VOCABULARY = 0, 1, 2, 60


class Case(NamedTuple):
    """One search."""

    bart: BartForConditionalGeneration
    config: SearchConfig
    sources: list[list[int]]
    slots: int


def random_case(seed: int, profile: Literal["huggingface", "fairseq"]) -> Case:
    """A tiny BART in float64 whose summaries end early, late or at the limit, and how to search it."""
    rng = random.Random(seed)
    num_beams, max_length = rng.randint(1, 8), rng.randint(4, 24)
    is_fairseq = profile == "fairseq"
    config = SearchConfig(
        profile=profile,
        num_beams=num_beams,
        max_length=max_length,
        min_length=rng.choice([0, 0, rng.randint(0, max_length - 1)]),
        length_penalty=rng.choice([0.5, 0.8, 1.0, 1.5, 2.0]),
        early_stopping=True if is_fairseq else rng.choice([True, False, "never"]),
        no_repeat_ngram_size=rng.randint(0, 4),
        force_bos=rng.random() < 0.5,
        force_eos=is_fairseq or rng.random() < 0.5,
        return_sequences=rng.randint(1, num_beams),
    )
    batch = rng.randint(1, 9)
    sources = [
        [BOS, *(rng.randrange(4, VOCABULARY) for _ in range(rng.randint(0, 20))), EOS]
        for _ in range(batch)
    ]
    bart = random_bart(seed, eos_bias=rng.choice([0.0, 1.0, 2.0, 3.0, 4.0]))
    return Case(bart, config, sources, slots=rng.randint(1, batch))


def random_bart(seed: int, eos_bias: float) -> BartForConditionalGeneration:
    """Random weights and, by the seed, another kind of BART: untied, scaled, of other halves."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=rng.randint(1, 2),
        decoder_layers=rng.randint(1, 3),
        encoder_attention_heads=rng.choice([1, 2, 4]),
        decoder_attention_heads=rng.choice([1, 2, 4]),
        encoder_ffn_dim=32,
        decoder_ffn_dim=rng.choice([24, 32]),
        activation_function=rng.choice(["gelu", "gelu", "relu", "silu"]),
        max_position_embeddings=40,
        init_std=0.5,
        scale_embedding=rng.random() < 0.5,
        tie_word_embeddings=rng.random() < 0.8,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=rng.choice([EOS, EOS, BOS, 5]),
    )
    bart = BartForConditionalGeneration(config).double().eval()
    if rng.random() < 0.3:
        bart.final_logits_bias.normal_()
    bart.final_logits_bias[0, EOS] = eos_bias
    bart.generation_config = GenerationConfig()
    return bart


def ours(case: Case) -> list[list[Hypothesis]]:
    """What our engine finds for each source, the best first."""
    model = BartModel(copy.deepcopy(case.bart))
    search = search_of(case.config, case.bart.config)
    found = dict(decode(model, case.sources, search, case.slots))
    return [found[number] for number in range(len(case.sources))]
