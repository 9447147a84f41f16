"""Decoding with a model whose tokens are letters, so that a summary's text shows its ids.

Shapes: T target positions, V vocabulary.
"""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Protocol

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration

from stages.fetch.scratch import gpt2_bpe
from stages.generate.config import GenerateConfig, SearchConfig
from stages.generate.engine import Source, Summarizer
from stages.generate.huggingface import generation_settings
from stages.schema import Prediction

torch.set_num_threads(1)

BOS, PAD, EOS, START = 0, 1, 2, 2
LETTERS = "abcdefgh"  # ids 4 to 11, between four special tokens and <mask>
VOCABULARY = 4 + len(LETTERS) + 1


def new_bart(eos_bias: float, **settings: object) -> BartForConditionalGeneration:
    """Random weights; special tokens other than </s> are never chosen freely."""
    torch.manual_seed(1)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        init_std=0.4,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=START,
        **settings,
    )
    bart = BartForConditionalGeneration(config)
    bart.final_logits_bias[0, [BOS, PAD, 3, VOCABULARY - 1]] = -1e4
    bart.final_logits_bias[0, EOS] = eos_bias
    return bart.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory; summaries end early or at the limit, depending on the source."""
    bpe, model = tmp_path_factory.mktemp("bpe"), tmp_path_factory.mktemp("model")
    encoder = {letter: index for index, letter in enumerate(LETTERS)}
    (bpe / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    (bpe / "vocab.bpe").write_text("#version: 0.2\n", encoding="utf-8")
    gpt2_bpe(bpe, model)
    new_bart(eos_bias=1.0).save_pretrained(model)
    return model


@pytest.fixture(scope="module")
def bart(folder: Path) -> BartForConditionalGeneration:
    return BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def sources(count: int = 8) -> list[Source]:
    random = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 20, (count,), generator=random).tolist()
    return [
        Source(f"row-{n}", [BOS, *torch.randint(4, 12, (length,), generator=random).tolist(), EOS])
        for n, length in enumerate(lengths)
    ]


class Decode(Protocol):
    """Summaries of the sources under settings."""

    def __call__(self, folder: Path, **settings: object) -> list[Prediction]: ...


@pytest.fixture(params=["sumpipe", "huggingface"])
def decode(request: pytest.FixtureRequest) -> Decode:
    """Decodes with each engine."""

    def predictions(folder: Path, **settings: object) -> list[Prediction]:
        settings = {"max_length": 12, "force_bos": False, "engine": request.param, **settings}
        config = GenerateConfig.model_validate(settings)
        summarizer = Summarizer(folder, config)
        return list(summarizer.summarize(sources(), config.batch_size, "generate.batch_size"))

    return predictions


def log_probabilities(bart: BartForConditionalGeneration, source: Source, ids: list[int]) -> Tensor:
    """log p of each next token [V] after the start token and `ids`."""
    with torch.no_grad():
        logits_TV = bart(
            input_ids=torch.tensor([source.token_ids]),
            decoder_input_ids=torch.tensor([[START, *ids]]),
        ).logits[0]
    return logits_TV[-1].double().log_softmax(-1)


def ids_of(prediction: Prediction, *, force_bos: bool) -> list[int]:
    """All generated tokens, <s> and </s> included."""
    letters = [4 + LETTERS.index(letter) for letter in prediction.prediction]
    return [*([BOS] if force_bos else []), *letters, EOS]


def true_score(
    bart: BartForConditionalGeneration, source: Source, prediction: Prediction, **settings: object
) -> float:
    """Log-probability over length ** penalty; forced tokens cost nothing, as in Hugging Face."""
    config = GenerateConfig.model_validate({"max_length": 12, "force_bos": False, **settings})
    ids = ids_of(prediction, force_bos=config.force_bos)
    total = 0.0
    for at, token in enumerate(ids):
        is_forced = (at == 0 and config.force_bos) or at == config.max_length - 2
        if not is_forced:
            total += float(log_probabilities(bart, source, ids[:at])[token])
    return total / len(ids) ** config.length_penalty


@pytest.mark.parametrize("force_bos", [False, True])
@pytest.mark.parametrize("min_length", [0, 6])
def test_greedy_takes_the_likeliest_token_at_each_step(
    folder: Path,
    decode: Decode,
    bart: BartForConditionalGeneration,
    force_bos: bool,
    min_length: int,
) -> None:
    found = decode(folder, num_beams=1, force_bos=force_bos, min_length=min_length)
    for source, prediction in zip(sources(), found, strict=True):
        ids: list[int] = [BOS] if force_bos else []
        while EOS not in ids:
            log_p_V = log_probabilities(bart, source, ids)
            if 1 + len(ids) < min_length:  # the start token counts
                log_p_V[EOS] = -torch.inf
            is_last = 1 + len(ids) == 12 - 1
            ids.append(EOS if is_last else int(log_p_V.argmax()))
        assert ids_of(prediction, force_bos=force_bos) == ids
        assert prediction.tokens == len(ids)
        assert prediction.stop == ("length" if len(ids) == 11 else "eos")


def test_both_reasons_to_stop_are_in_the_sample(folder: Path, decode: Decode) -> None:
    assert {prediction.stop for prediction in decode(folder, num_beams=1)} == {"eos", "length"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length_penalty": 2.0},
        {"length_penalty": 0.0},
        {"force_bos": True},
        {"min_length": 6},
        {"no_repeat_ngram_size": 2},
    ],
    ids=lambda settings: " ".join(settings) or "plain",
)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_score_is_the_models_log_probability_over_length(
    folder: Path,
    decode: Decode,
    bart: BartForConditionalGeneration,
    num_beams: int,
    settings: dict[str, object],
) -> None:
    found = decode(folder, num_beams=num_beams, **settings)
    for source, prediction in zip(sources(), found, strict=True):
        expected = true_score(bart, source, prediction, **settings)
        assert prediction.score == pytest.approx(expected, abs=1e-4)


def test_a_wide_beam_finds_the_best_of_all_sequences(
    folder: Path, decode: Decode, bart: BartForConditionalGeneration
) -> None:
    # One or two free letters before the forced end: 1 + 8 + 64 sequences.
    found = decode(folder, num_beams=80, max_length=4, early_stopping=False, length_penalty=0.7)
    texts = [
        "".join(letters)
        for length in range(3)
        for letters in itertools.product(LETTERS, repeat=length)
    ]
    for source, prediction in zip(sources(), found, strict=True):
        scores = {
            text: true_score(
                bart, source, Prediction("", text, 0, 0, ""), max_length=4, length_penalty=0.7
            )
            for text in texts
        }
        best = max(texts, key=scores.__getitem__)
        assert prediction.prediction == best
        assert prediction.score == pytest.approx(scores[best], abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batch_size_does_not_change_predictions(
    folder: Path, decode: Decode, num_beams: int
) -> None:
    alone = decode(folder, num_beams=num_beams, batch_size=1)
    for batch_size in (3, 8):
        together = decode(folder, num_beams=num_beams, batch_size=batch_size)
        for one, other in zip(alone, together, strict=True):
            assert (one.id, one.prediction, one.tokens, one.stop) == (
                other.id,
                other.prediction,
                other.tokens,
                other.stop,
            )
            assert one.score == pytest.approx(other.score, abs=1e-4)


def test_predictions_come_in_source_order(folder: Path, decode: Decode) -> None:
    assert [prediction.id for prediction in decode(folder, batch_size=3)] == [
        source.id for source in sources()
    ]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_forced_bos_is_counted_but_not_shown(folder: Path, decode: Decode, num_beams: int) -> None:
    for prediction in decode(folder, num_beams=num_beams, force_bos=True):
        assert prediction.tokens == len(prediction.prediction) + 2
    for prediction in decode(folder, num_beams=num_beams, force_bos=False):
        assert prediction.tokens == len(prediction.prediction) + 1


@pytest.mark.parametrize("num_beams", [1, 3])
def test_lengths_stay_in_their_bounds(folder: Path, decode: Decode, num_beams: int) -> None:
    # Both count the start token, `tokens` does not.
    found = decode(folder, num_beams=num_beams, min_length=5, max_length=9)
    assert all(5 <= prediction.tokens <= 8 for prediction in found)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_no_ngram_comes_twice(folder: Path, decode: Decode, num_beams: int) -> None:
    # Eight letters can follow each letter, so ten leave a choice to the end.
    free = decode(folder, num_beams=num_beams, min_length=8)
    banned = decode(folder, num_beams=num_beams, min_length=8, no_repeat_ngram_size=2)

    def repeats(prediction: Prediction) -> bool:
        pairs = list(itertools.pairwise(prediction.prediction))
        return len(set(pairs)) < len(pairs)

    assert any(map(repeats, free))
    assert not any(map(repeats, banned))


@pytest.mark.parametrize(
    "of_model",
    [
        {"forced_bos_token_id": 7},
        {"repetition_penalty": 5.0},
        {"suppress_tokens": [4, 5, 6, 7]},
        {"min_new_tokens": 8},
        {"encoder_no_repeat_ngram_size": 1},
        {"num_return_sequences": 2, "num_beams": 2},
    ],
    ids=lambda of_model: next(iter(of_model)),
)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_models_own_generation_settings_are_not_used(
    folder: Path, decode: Decode, tmp_path: Path, num_beams: int, of_model: dict[str, object]
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **of_model}), encoding="utf-8")
    assert decode(tmp_path, num_beams=num_beams) == decode(folder, num_beams=num_beams)


def test_settings_are_hugging_faces_for_ours(bart: BartForConditionalGeneration) -> None:
    config = GenerateConfig(
        num_beams=4, min_length=56, max_length=142, length_penalty=2.0, no_repeat_ngram_size=3
    )
    found = generation_settings(config, bart.config)
    # BART's published CNN/DailyMail settings, as facebook/bart-large-cnn has them.
    assert (found.num_beams, found.min_length, found.max_length) == (4, 56, 142)
    assert (found.length_penalty, found.no_repeat_ngram_size) == (2.0, 3)
    assert found.early_stopping is True and found.do_sample is False
    assert (found.forced_bos_token_id, found.forced_eos_token_id) == (BOS, EOS)


@pytest.mark.parametrize("profile", ["huggingface", "fairseq"])
def test_a_source_that_fails_says_why_and_spoils_no_other(
    folder: Path, bart: BartForConditionalGeneration, tmp_path: Path, profile: str
) -> None:
    broken = copy.deepcopy(bart)
    with torch.no_grad():
        broken.model.encoder.embed_positions.weight[2 + 12 :] = (
            torch.nan
        )  # too far for the long ones
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken.save_pretrained(tmp_path)
    config = SearchConfig.model_validate({"max_length": 12, "num_beams": 3, "profile": profile})
    given = [*sources(), Source("none", []), Source("foreign", [BOS, VOCABULARY, EOS])]
    whole = list(Summarizer(folder, config).summarize(given, 2, "batch_size"))
    found = list(Summarizer(tmp_path, config).summarize(given, 2, "batch_size"))
    for source, one, other in zip(given, found, whole, strict=True):
        if source.id in {"none", "foreign"}:
            assert one == other and one.stop.startswith("failed: ")
        elif len(source.token_ids) > 12:
            assert (one.prediction, one.score, one.tokens) == ("", None, 0)
            assert one.stop.startswith("failed: the model's output is not finite")
        else:
            assert one.prediction == other.prediction and one.stop == other.stop
    assert 2 < sum(one.score is None for one in found) < len(found) - 2


def test_what_no_sequence_reaches_is_no_alternative(folder: Path) -> None:
    config = SearchConfig(
        max_length=3, num_beams=4, return_sequences=4
    )  # <s> </s> and nothing else
    for one in Summarizer(folder, config).summarize(sources(), 4, "batch_size"):
        assert (one.prediction, one.tokens, one.alternatives) == ("", 2, [])


def test_an_untied_model_keeps_both_its_embeddings(
    folder: Path, tmp_path: Path, decode: Decode
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    untied = new_bart(eos_bias=1.0, tie_word_embeddings=False)
    untied.save_pretrained(tmp_path)
    source, found = sources()[0], decode(tmp_path, num_beams=1)[0]
    ids: list[int] = []
    while EOS not in ids and len(ids) < 10:
        ids.append(int(log_probabilities(untied, source, ids).argmax()))
    assert ids_of(found, force_bos=False)[: len(ids)] == ids
