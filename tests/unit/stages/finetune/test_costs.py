"""FLOPs of a micro-batch, against torch's counter on a real model and figures by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BartConfig, BartForConditionalGeneration

from stages.finetune.costs import Costs

BART_LARGE = Costs(1024, 12, 12, 4096, 4096, 50_265)


@pytest.mark.parametrize(("rows", "source", "target"), [(1, 2, 2), (3, 11, 5), (2, 5, 16)])
def test_equals_what_torch_counts(rows: int, source: int, target: int) -> None:
    config = BartConfig(
        d_model=16,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=40,
        decoder_ffn_dim=24,
        vocab_size=50,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    model = BartForConditionalGeneration(config).eval()
    source_ids, target_ids = (torch.full((rows, width), 7) for width in (source, target))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=source_ids, decoder_input_ids=target_ids, use_cache=False)
    costs = Costs.of_model(config.to_dict())
    counted = counter.get_total_flops()
    assert int(costs.of(*np.asarray([rows, source, target]))) == counted


def test_bart_large_on_an_article_by_hand() -> None:
    """One row of 700 tokens to 70, d = 1024, f = 4096, 12 + 12 layers, V = 50,265.

    encoder 12 x 700 x (12 x 1024^2 + 2 x 1024 x 700), decoder 12 x (70 x (14 x 1024^2 + 2 x 1024 x 770)
    + 700 x 2 x 1024^2), head 70 x 1024 x 50,265; each times 2.
    """
    encoder = 235_477_401_600
    decoder = 24_662_507_520 + 2_649_292_800 + 35_232_153_600
    head = 7_205_990_400
    assert int(BART_LARGE.of(*np.asarray([1, 700, 70]))) == encoder + decoder + head


def test_rows_add_up() -> None:
    shapes = np.asarray([[1, 5, 40], [700, 35, 12], [70, 10, 142]])
    one = BART_LARGE.of(np.ones(3, dtype=np.int64), *shapes[1:])
    assert BART_LARGE.of(*shapes).tolist() == (shapes[0] * one).tolist()
