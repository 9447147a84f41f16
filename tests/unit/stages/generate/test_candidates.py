"""Candidates against plain loops.

Shapes: B sources, K beams, V vocabulary, T tokens.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stages.generate.candidates import (
    Constraints,
    ban,
    ban_repeats,
    best_of_rows,
    padded_width,
    propose,
)
from stages.generate.products import Product, can_pack, replace_linears
from stages.generate.search import Rules, begin


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 50_265])
def test_padding_makes_whole_blocks_and_leaves_one_column(vocabulary: int) -> None:
    width = padded_width(vocabulary)
    assert width % 64 == 0
    assert vocabulary < width <= vocabulary + 64


@pytest.mark.parametrize("count", [1, 2, 8, 16, 40])
@pytest.mark.parametrize("width", [64, 640, 6400])
def test_the_best_of_a_row_are_found_by_way_of_its_blocks(width: int, count: int) -> None:
    random = torch.Generator().manual_seed(count)
    values = torch.randn(3, 2, width, generator=random, dtype=torch.float64)
    values[0, 0, :] = -torch.inf
    values[0, 0, 5] = 1.0
    found, columns = best_of_rows(values, count)
    assert torch.equal(found, values.topk(min(count, width)).values)
    assert torch.equal(values.gather(2, columns), found)
    assert all(len(set(row)) == len(row) for rows in columns.tolist() for row in rows)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_an_ngram_is_banned_where_it_would_come_again(size: int) -> None:
    random = torch.Generator().manual_seed(size)
    tokens_BKT = torch.randint(5, (4, 3, 8), generator=random)
    length_B = torch.tensor([1, 2, 5, 8])
    logits_BKV = torch.zeros(4, 3, 64)
    ban_repeats(logits_BKV, tokens_BKT, length_B, size)
    for source, length in enumerate(length_B.tolist()):
        for beam in range(3):
            ids = tokens_BKT[source, beam, :length].tolist()
            grams = {tuple(ids[at : at + size]) for at in range(length - size + 1)}
            last = ids[length - size + 1 :] if size > 1 else []
            banned = {token for token in range(5) if (*last, token) in grams}
            found = logits_BKV[source, beam, :-1].isinf().nonzero().flatten().tolist()
            assert set(found) == (banned if length >= size else set())


def test_an_end_is_banned_until_the_least_length() -> None:
    rules = Rules(num_beams=2, max_length=9, eos_id=2)
    beams = begin(3, rules, 2, torch.zeros(()))._replace(length_B=torch.tensor([1, 3, 4]))
    logits_BKV = torch.zeros(3, 2, 64)
    ban(logits_BKV, beams, Constraints(max_length=9, eos_id=2, min_length=4))
    assert logits_BKV[:, 0, 2].tolist() == [-torch.inf, -torch.inf, 0.0]
    assert logits_BKV[:, :, 3:].eq(0.0).all()


@pytest.mark.parametrize("scores_forced", [False, True])
def test_a_forced_token_is_the_only_candidate_of_each_beam(scores_forced: bool) -> None:
    rules = Rules(num_beams=2, max_length=9, eos_id=2)
    beams = begin(1, rules, 2, torch.zeros((), dtype=torch.float64))
    beams = beams._replace(
        length_B=torch.tensor([8]), scores_BK=torch.tensor([[-1.0, -1.5]], dtype=torch.float64)
    )
    logits_BKV = torch.zeros(1, 2, 64, dtype=torch.float64)
    logits_BKV[0, 1, 2] = 3.0  # the second beam likes the end better
    log_p = logits_BKV.log_softmax(2)[0, :, 2]
    constraints = Constraints(max_length=9, eos_id=2, scores_forced=scores_forced)
    found = propose(logits_BKV, beams, constraints)
    assert found.tokens_BC.unique().tolist() == [2]
    scores = [-1.0 + float(log_p[0]), -1.5 + float(log_p[1])] if scores_forced else [-1.0, -1.5]
    order = sorted((0, 1), key=lambda beam: -scores[beam])
    assert found.beams_BC[0, :2].tolist() == order
    expected = [scores[beam] for beam in order]
    assert found.scores_BC[0, :2].tolist() == pytest.approx(expected, abs=1e-12)
    assert found.scores_BC[0, 2:].isinf().all()


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]
)
def test_a_product_is_the_linear_layer_it_stands_for(
    dtype: torch.dtype, tolerance: float, rows: int
) -> None:
    torch.manual_seed(rows)
    layer = nn.Sequential(nn.Linear(96, 130)).to(dtype)
    x = torch.randn(2, rows, 96, dtype=dtype)
    with torch.inference_mode():
        expected = F.linear(x.double(), layer[0].weight.double(), layer[0].bias.double())
        assert can_pack(layer[0].weight) == (dtype != torch.float64)  # as on every x86 build
        without_bias = Product(layer[0].weight, None)(x) + layer[0].bias
        replace_linears(layer)
        found = layer(x)
    assert (found.double() - expected).abs().max() <= tolerance
    assert (without_bias.double() - expected).abs().max() <= 2 * tolerance
