"""The exported folder in other hands: transformers' auto classes, and CTranslate2 after its converter."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BartForConditionalGeneration

from stages.decoding import DecodingRules
from stages.export.config import ExportSettings
from stages.export.run import run
from stages.fetch.config import ScratchModel
from stages.fetch.scratch import new_model, train_bpe
from tests.unit.stages.export.contexts import new_context

torch.set_num_threads(1)

SHAPE = ScratchModel(
    source="scratch", d_model=16, layers=2, heads=2, ffn=32, max_positions=32, init_std=0.5
)
WORDS = ["a", "few", "words", "to", "train", "on", "and", "over"]
STEPS = 20
"""Most tokens of a summary without the start token."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a model whose greedy summaries are more than one token repeated."""
    pretrained = tmp_path_factory.mktemp("pretrained")
    tokenizer = train_bpe([" ".join(WORDS)] * 3, 300, pretrained)
    new_model(SHAPE, len(tokenizer), seed=1).save_pretrained(pretrained)
    trained = new_model(SHAPE, len(tokenizer), seed=2).eval()
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=noise))
        # Else the output resembles the input token's embedding, which both share, and repeats it.
        last = trained.model.decoder.layers[-1].final_layer_norm.weight
        last.copy_(torch.randn(last.shape, generator=noise))
    context = new_context(tmp_path_factory.mktemp("run"), pretrained, trained)
    run(ExportSettings(decoding=DecodingRules(num_beams=1, max_length=STEPS + 1)), context)
    return context.work / "model"


def texts(count: int) -> list[str]:
    draw = random.Random(5)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 20))) for _ in range(count)]


def test_the_folder_loads_offline_without_a_remark(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model, report = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, BartForConditionalGeneration)
    assert not any(report.values()), report
    assert AutoTokenizer.from_pretrained(folder)(WORDS[0])["input_ids"][0] == 0
    assert not caplog.text


def test_the_configuration_says_what_converters_ask_for(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["normalize_before"], config["normalize_embedding"]) == (False, True)


def test_a_pretrained_configuration_that_says_otherwise_is_corrected(tmp_path: Path) -> None:
    """BART's code goes by neither key; a converter that believed it would build another model.

    Nor do other rules of decoding stay, which transformers 4's summarization pipeline would take.
    """
    pretrained = tmp_path / "pretrained"
    pretrained.mkdir()
    tokenizer = train_bpe([" ".join(WORDS)] * 3, 300, pretrained)
    model = new_model(SHAPE, len(tokenizer), seed=1)
    model.config.update({"normalize_before": True, "normalize_embedding": False})
    model.config.update({"task_specific_params": {"summarization": {"num_beams": 4}}})
    model.save_pretrained(pretrained)
    context = new_context(tmp_path / "run", pretrained, model.eval())
    run(ExportSettings(decoding=DecodingRules(max_length=30)), context)
    config = json.loads((context.work / "model" / "config.json").read_text(encoding="utf-8"))
    assert (config["normalize_before"], config["normalize_embedding"]) == (False, True)
    assert "task_specific_params" not in config


@pytest.fixture
def ctranslate2_installed() -> None:
    if importlib.util.find_spec("ctranslate2") is None:
        message = "CTranslate2 is not installed (pip install ctranslate2)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.mark.usefixtures("ctranslate2_installed")
def test_ctranslate2_finds_the_same_tokens_and_probabilities(folder: Path, tmp_path: Path) -> None:
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(tmp_path / "converted"))
    translator = ctranslate2.Translator(str(tmp_path / "converted"), intra_threads=1)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sources = [tokenizer(text)["input_ids"] for text in texts(16)]
    as_tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in sources]
    # Its own default is one token at least; a forced <s> is a prefix there.
    found = translator.translate_batch(
        as_tokens,
        target_prefix=[["<s>"]] * len(sources),
        beam_size=1,
        min_decoding_length=0,
        max_decoding_length=STEPS,
    )
    scored = translator.score_batch(as_tokens, [tokens[1:-1] for tokens in reversed(as_tokens)])
    distinct = set()
    for ids, target, summary, score in zip(sources, reversed(sources), found, scored, strict=True):
        source_1S = torch.tensor([ids])
        greedy = model.generate(input_ids=source_1S, forced_eos_token_id=None)[0, 1:].tolist()
        without_end = greedy[:-1] if greedy[-1] == 2 else greedy
        assert tokenizer.convert_tokens_to_ids(summary.hypotheses[0]) == without_end
        distinct |= set(without_end)
        wanted = torch.tensor([*target[1:-1], 2])
        with torch.no_grad():
            logits_TV = model(
                input_ids=source_1S, decoder_input_ids=torch.tensor([[2, *target[1:-1]]])
            ).logits[0]
        expected = logits_TV.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(score.log_probs), expected, rtol=1e-4, atol=1e-4)
    assert len(distinct) > 10, "the summaries would be equal for many models"
