"""Parameters from sizes alone, against the models that transformers builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from pipeline.errors import DataError
from stages.finetune.sizes import KNOWN, read_sizes, sizes_of_config

CONFIGS: list[dict[str, Any]] = [
    {"vocab_size": 311, "d_model": 24, "encoder_layers": 1, "decoder_layers": 2},
    {"vocab_size": 50, "d_model": 64, "encoder_layers": 3, "decoder_layers": 1},
    {"encoder_ffn_dim": 20, "decoder_ffn_dim": 70, "max_position_embeddings": 9, "d_model": 32},
    {},  # bart-large, as transformers has it by default
]


def built(**settings: Any) -> BartForConditionalGeneration:
    """Build a model without memory for its weights."""
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 2}
    with torch.device("meta"):
        return BartForConditionalGeneration(BartConfig(**heads, **settings))


@pytest.mark.parametrize("settings", CONFIGS)
def test_parameters_are_those_of_the_model(settings: dict[str, Any]) -> None:
    model = built(**settings)
    sizes = sizes_of_config(model.config.to_dict(), "config")
    assert sizes.parameters == sum(p.numel() for p in model.parameters())
    linear = {id(m.weight): m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)}
    del linear[id(model.lm_head.weight)]
    assert sizes.product_parameters == sum(weight.numel() for weight in linear.values())


def test_known_models_have_their_published_parameters() -> None:
    assert KNOWN["facebook/bart-base"].parameters == 139_420_416
    assert KNOWN["facebook/bart-large"].parameters == 406_291_456


def test_sizes_are_read_from_a_saved_model(tmp_path: Path) -> None:
    config = BartConfig(d_model=48, encoder_attention_heads=4, decoder_attention_heads=4)
    config.save_pretrained(tmp_path)
    assert read_sizes(tmp_path / "config.json").d_model == 48


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "t5"}, "'t5'"),
        ({"d_model": None}, "d_model is None"),
        ({"vocab_size": 0}, "vocab_size is 0"),
    ],
)
def test_another_configuration_is_refused(change: dict[str, Any], told: str) -> None:
    config = {**BartConfig().to_dict(), **change}
    with pytest.raises(DataError, match=told):
        sizes_of_config(config, "config.json")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_no_configuration_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"config\.json"):
        read_sizes(path)


def test_an_untied_head_is_refused_or_counted() -> None:
    """transformers ties the words of BART unless told otherwise; then the head is a matrix of its own."""
    config = json.loads(BartConfig(tie_word_embeddings=False).to_json_string())
    with pytest.raises(DataError, match="tie_word_embeddings"):
        sizes_of_config(config, "config.json")
