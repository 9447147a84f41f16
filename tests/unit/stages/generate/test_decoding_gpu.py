"""What only a CUDA device shows: steps replayed as graphs, an encoder beside them, a look every few steps."""

from __future__ import annotations

import copy

import pytest
import torch

from stages.generate.decoding import BartModel, decode
from stages.generate.engine import search_of
from tests.unit.stages.generate.random_search import ours, random_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_gpu_finds_in_float64_what_a_cpu_finds() -> None:
    for seed in range(30):
        case = random_case(seed, "huggingface" if seed % 2 else "fairseq")
        model = BartModel(copy.deepcopy(case.bart).to("cuda"))
        search = search_of(case.config, case.bart.config)
        found = dict(decode(model, case.sources, search, case.slots))
        for number, expected in enumerate(ours(case)):
            for one, other in zip(found[number], expected, strict=True):
                assert one.token_ids == other.token_ids, (seed, number)
                assert one.score == pytest.approx(other.score, abs=1e-9)
