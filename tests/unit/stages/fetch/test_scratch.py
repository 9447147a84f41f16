"""New tokenizers and models: BART's layout of ids, round trips, the same again from the same seed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BartTokenizer

from pipeline.errors import DataError
from stages.fetch.config import ScratchModel
from stages.fetch.scratch import gpt2_bpe, new_model, sinusoids, train_bpe

torch.set_num_threads(1)

TEXTS = [
    "The mayor of Dover opened the new bridge on Monday, and about 40 people came.",
    "About 40 people came to Dover. The bridge was closed on Sunday evening .",
    "Nobody opened the closed bridge; the mayor of Selby came to the new museum on Monday.",
] * 3
ODD_TEXT = 'Caf\u00e9 \u4f60\u597d \U0001f600 "quoted" , spaced .  two  blanks\nand a line\ttab'


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> BartTokenizer:
    folder = tmp_path_factory.mktemp("trained")
    train_bpe(TEXTS, 320, folder)
    return AutoTokenizer.from_pretrained(folder)


def test_special_tokens_stand_where_bart_has_them(trained: BartTokenizer) -> None:
    assert trained.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert trained.mask_token_id == len(trained) - 1 == 319
    assert (trained.bos_token_id, trained.pad_token_id, trained.eos_token_id) == (0, 1, 2)
    assert trained.unk_token_id == 3


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1], " leading blank", ODD_TEXT])
def test_text_survives_the_round_trip(trained: BartTokenizer, text: str) -> None:
    ids = trained(text)["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)
    assert all(4 <= token < 319 for token in ids[1:-1])
    assert trained.decode(ids, skip_special_tokens=True) == text


def test_training_learns_words(trained: BartTokenizer) -> None:
    assert len(trained(TEXTS[0])["input_ids"]) < 0.7 * len(TEXTS[0])


def test_two_trainings_give_equal_files(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        train_bpe(iter(TEXTS), 320, folder)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1] and contents[0]


@pytest.fixture
def tiny_bpe(tmp_path: Path) -> Path:
    """GPT-2 style files: four letters, `#` and two merges."""
    folder = tmp_path / "bpe"
    folder.mkdir()
    encoder = {"a": 0, "b": 1, "c": 2, "#": 3, "##": 4, "ab": 5, "<|endoftext|>": 6}
    (folder / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    (folder / "vocab.bpe").write_text("#version: 0.2\na b\n# #\n", encoding="utf-8")
    return folder


# Ids are the file's plus four: ab 5 -> 9, c 2 -> 6, ## 4 -> 8, b 1 -> 5, a 0 -> 4.
@pytest.mark.parametrize(
    ("text", "inner"), [("abc", [9, 6]), ("##ab", [8, 9]), ("ba", [5, 4]), ("#", [7])]
)
def test_made_up_bpe_files_by_hand(
    tiny_bpe: Path, tmp_path: Path, text: str, inner: list[int]
) -> None:
    (tmp_path / "model").mkdir()
    gpt2_bpe(tiny_bpe, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer(text)["input_ids"] == [0, *inner, 2]
    assert tokenizer.mask_token_id == len(tokenizer) - 1 == 11


@pytest.mark.parametrize("missing", ["encoder.json", "vocab.bpe"])
def test_a_missing_bpe_file_is_named(tiny_bpe: Path, tmp_path: Path, missing: str) -> None:
    (tiny_bpe / missing).unlink()
    with pytest.raises(DataError, match=missing):
        gpt2_bpe(tiny_bpe, tmp_path)


def test_real_gpt2_files_give_gpt2_ids_shifted_by_four(tmp_path: Path) -> None:
    data = os.environ.get("SUMPIPE_TEST_DATA")
    if data is None:
        pytest.skip("SUMPIPE_TEST_DATA is not set: no GPT-2 BPE files")
    tokenizer = gpt2_bpe(Path(data) / "gpt2_bpe", tmp_path)
    assert len(tokenizer) == 50_257 + 4 + 1
    # GPT-2 has "Hello" 15496, " world" 995, "!" 0.
    assert tokenizer("Hello world!")["input_ids"] == [0, 15_500, 999, 4, 2]
    assert tokenizer.mask_token_id == 50_261
    ids = tokenizer(ODD_TEXT)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == ODD_TEXT


def scratch(**settings: object) -> ScratchModel:
    base = {"source": "scratch", "d_model": 64, "layers": 1, "heads": 2, "ffn": 96}
    return ScratchModel.model_validate({**base, "max_positions": 40, **settings})


@pytest.mark.parametrize(("init_std", "expected"), [(None, 1 / 8), (0.03, 0.03)])
def test_weights_have_the_spread_asked_for(init_std: float | None, expected: float) -> None:
    model = new_model(scratch(init_std=init_std), 300, seed=1)
    for weight in (
        model.model.shared.weight[2:],
        model.model.encoder.layers[0].fc1.weight,
        model.model.decoder.layers[0].encoder_attn.q_proj.weight,
    ):
        assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05)
        assert abs(float(weight.detach().mean())) < 0.1 * expected


def test_same_seed_same_weights_other_seed_others() -> None:
    one, same, other = (new_model(scratch(), 300, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["model.shared.weight"], other["model.shared.weight"])


def test_model_has_the_shape_asked_for() -> None:
    model = new_model(scratch(layers=2), 300, seed=1)
    config = model.config
    assert (config.encoder_layers, config.decoder_layers, config.vocab_size) == (2, 2, 300)
    assert config.max_position_embeddings == 40
    assert config.decoder_start_token_id == config.eos_token_id == 2
    ids = torch.full((1, 40), 5)  # the longest source and target that it must take
    assert model(input_ids=ids, decoder_input_ids=ids).logits.shape == (1, 40, 300)


def test_sinusoids_by_hand() -> None:
    table = sinusoids(3, 4)  # rates 1 and 10000 ** (-2 / 4) = 1 / 100
    expected = [[math.sin(n), math.sin(n / 100), math.cos(n), math.cos(n / 100)] for n in range(3)]
    torch.testing.assert_close(table, torch.tensor(expected), rtol=0, atol=1e-6)


def test_sinusoids_depend_on_distance_only() -> None:
    table = sinusoids(64, 32).double()
    products = table @ table.T
    for distance in (0, 1, 7):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-4)


def test_position_tables_start_from_sinusoids_in_scale_with_the_tokens() -> None:
    model = new_model(scratch(), 300, seed=1)
    for side in (model.model.encoder, model.model.decoder):
        table = side.embed_positions.weight.detach()
        waves = sinusoids(42, 64)  # a root mean square of 1/sqrt(2)
        torch.testing.assert_close(table / table.norm(), waves / waves.norm())
        assert float((table**2).mean().sqrt()) == pytest.approx(1 / 8, rel=1e-5)
        assert side.embed_positions.weight.requires_grad


def test_position_tables_may_start_at_random() -> None:
    model = new_model(scratch(sinusoid_positions=False), 300, seed=1)
    table = model.model.encoder.embed_positions.weight.detach()
    assert float(table.std()) == pytest.approx(1 / 8, rel=0.1)
    assert not torch.allclose(table, sinusoids(42, 64) / 8, atol=0.05)
