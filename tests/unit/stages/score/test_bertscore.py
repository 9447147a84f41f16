"""BERTScore from a tiny model made here, against the package's own scorer and by definition."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from pipeline.errors import ConfigError
from stages.score import bertscore
from stages.score.bertscore import bert_scores, load_embedder, settings

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LAYERS, POSITIONS = 3, 24
PAIRS = [
    ("ab cd", "ab cd"),
    ("ab", "xyz q"),
    ("", "xyz"),
    ("a longer text here", "some words"),
    ("ab", "  "),
    ("", ""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that knows letters; random, which is as good for arithmetic."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=POSITIONS,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def package() -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("bert_score", reason="the `bertscore` extra is not installed")


def test_without_the_package_the_way_to_get_it_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    monkeypatch.delitem(sys.modules, "bert_score.utils", raising=False)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[bertscore\]'"):
        load_embedder(folder, 2)


@pytest.mark.usefixtures("package")
def test_figures_are_those_of_the_package_and_empty_texts_get_nothing(folder: Path) -> None:
    from bert_score import BERTScorer

    found = list(bert_scores(load_embedder(folder, 2), PAIRS))
    scorer = BERTScorer(model_type=str(folder), num_layers=2, device="cpu")
    scorer._tokenizer.model_max_length = (
        POSITIONS  # the package fails on tokenizers without a limit
    )
    full = [number for number, pair in enumerate(PAIRS) if all(text.strip() for text in pair)]
    theirs = scorer.score([PAIRS[number][0] for number in full], [PAIRS[n][1] for n in full])
    for number, *expected in zip(full, *theirs, strict=True):
        assert found[number] == pytest.approx([float(part) for part in expected], abs=1e-6)
    for number in {*range(len(PAIRS))} - {*full}:
        assert found[number] == (0.0, 0.0, 0.0)
    assert found[0] == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


@pytest.mark.usefixtures("package")
def test_a_pair_by_the_definition(folder: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = ("ab cd", "bad q")
    vectors = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        layer = hidden.hidden_states[1][0]
        vectors.append(layer / layer.norm(dim=1, keepdim=True))
    # [CLS] and [SEP], at both ends, may be matched but do not count.
    similar = vectors[0] @ vectors[1].T
    precision = similar.amax(1)[1:-1].mean().item()
    recall = similar.amax(0)[1:-1].mean().item()
    (found,) = bert_scores(load_embedder(folder, 1), [texts])
    expected = (precision, recall, 2 * precision * recall / (precision + recall))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("package")
def test_portions_change_nothing_but_last_digits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load_embedder(folder, 2)
    whole = list(bert_scores(embedder, PAIRS))
    monkeypatch.setattr(bertscore, "_PAIRS_AT_ONCE", 1)
    for one, other in zip(bert_scores(embedder, iter(PAIRS)), whole, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.usefixtures("package")
def test_texts_that_are_cut_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    embedder = load_embedder(folder, 2)
    assert embedder.limit == POSITIONS - 2
    (found,) = bert_scores(embedder, [("a " * 60, "a b")])
    assert 0 < found.fmeasure <= 1
    assert "the ends of 1 text did not count: tiny sees no more than 22 tokens" in caplog.text


@pytest.mark.usefixtures("package")
def test_the_layer_is_asked_for_or_known_by_name(folder: Path) -> None:
    for layer in (0, LAYERS + 1):
        with pytest.raises(ConfigError, match=f"{layer} is no layer of tiny; give one from 1 to 3"):
            load_embedder(folder, layer)
    with pytest.raises(ConfigError, match="no layer for a model named tiny; give one from 1 to 3"):
        load_embedder(folder, None)
    known = folder.with_name("google-byt5-small")
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        load_embedder(known, None)
    assert settings(load_embedder(folder, 3))["layer"] == 3


@pytest.mark.usefixtures("package")
def test_a_folder_that_the_package_would_misread_is_refused(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "t5-like"
    link.mkdir()
    for file in folder.iterdir():
        (link / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="has `t5` in its path"):
        load_embedder(link, 2)
    elsewhere = tmp_path / "fine"
    elsewhere.symlink_to(link)
    if "t5" not in str(tmp_path):
        assert load_embedder(elsewhere, 2).folder == elsewhere, "linking it elsewhere is the advice"
    named = tmp_path / "byt5-like"
    named.mkdir()
    (named / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"score\.bertscore\.model"):
        load_embedder(named, 2)


@pytest.mark.usefixtures("package")
def test_a_model_is_known_by_its_files_and_not_by_its_name(folder: Path, tmp_path: Path) -> None:
    def digest(path: Path) -> object:
        return settings(load_embedder(path, 2))["model_sha256"]

    copy = shutil.copytree(folder, tmp_path / "renamed")
    (copy / "README.md").write_text("A card is no part of it.", encoding="utf-8")
    assert digest(copy) == digest(folder)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        other = shutil.copytree(folder, tmp_path / name)
        content = (other / name).read_bytes()
        (other / name).write_bytes(content[:-1] + b"\0" if "model" in name else content + b" ")
        assert digest(other) != digest(folder), name


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_files_that_came_in_part_are_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"cannot be loaded .* are all its files whole") as told:
        load_embedder(broken, 2)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("package")
def test_layers_that_the_weights_lack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("bert_score.utils.get_model", refuse)
    with pytest.raises(ConfigError, match=r"cannot be loaded \(AssertionError\)"):
        load_embedder(folder, 2)
