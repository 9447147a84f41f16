"""The export stage: the directory holds the trained weights, or nothing is exported."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BartForConditionalGeneration, GenerationConfig

from pipeline.errors import CheckpointError, CorruptArtifact, Preempted
from pipeline.files import record_tree
from pipeline.stage import StageContext
from stages.decoding import DecodingRules
from stages.export.config import ExportSettings
from stages.export.run import _copy_tokenizer, average_state, run
from stages.fetch.scratch import new_model, train_bpe
from stages.generate.chosen_model import choose_model
from tests.unit.stages.export.contexts import NEWEST, SMALL, State, new_context, prefixed

torch.set_num_threads(1)

RULES = DecodingRules()


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = train_bpe(["a few words to train on"] * 3, 300, folder)
    new_model(SMALL, len(tokenizer), seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(pretrained: Path) -> BartForConditionalGeneration:
    """Another model of the same shape, as training would leave it."""
    vocabulary = len(AutoTokenizer.from_pretrained(pretrained))
    return new_model(SMALL, vocabulary, seed=2).eval()


def test_the_exported_model_is_the_trained_one(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(tmp_path, pretrained, trained)
    metrics = run(ExportSettings(decoding=RULES), context)
    exported = BartForConditionalGeneration.from_pretrained(context.work / "model")
    expected = trained.state_dict()
    for name, tensor in exported.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert metrics["updates"] == "7"
    assert metrics["largest_logit_difference"] < 1e-5
    assert metrics["parameters"] == sum(weight.numel() for weight in trained.parameters())


def test_the_directory_has_all_that_hugging_face_needs(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(tmp_path, pretrained, trained)
    metrics = run(ExportSettings(decoding=RULES), context)
    folder = context.work / "model"
    text = "a few words"
    expected = AutoTokenizer.from_pretrained(pretrained)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == expected
    files = {path.name for path in folder.iterdir()}
    assert files == {path.name for path in pretrained.iterdir()}
    assert metrics["model_bytes"] == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(
    "rules",
    [
        DecodingRules(profile="fairseq", min_length=6, max_length=30, length_penalty=2.0),
        DecodingRules(num_beams=1, max_length=9, force_bos=False, no_repeat_ngram_size=3),
        DecodingRules(max_length=32, early_stopping="never", force_eos=False),
    ],
    ids=["fairseq", "greedy", "patient"],
)
def test_the_model_says_how_it_is_decoded(
    rules: DecodingRules, tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(tmp_path, pretrained, trained)
    run(ExportSettings(decoding=rules), context)
    folder = context.work / "model"
    found = choose_model(folder, {}).search
    assert (
        DecodingRules(**{name: getattr(found, name) for name in DecodingRules.model_fields})
        == rules
    )
    settings = GenerationConfig.from_pretrained(folder)  # what Hugging Face's own generate goes by
    assert settings.num_beams == rules.num_beams
    assert (settings.forced_bos_token_id == 0) == rules.force_bos


def test_a_stop_says_that_nothing_of_it_is_kept(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(tmp_path, pretrained, trained)
    context.stop.request("SIGTERM")
    with pytest.raises(Preempted, match="SIGTERM; export keeps nothing of it and begins anew"):
        run(ExportSettings(decoding=RULES), context)
    assert context.progress.latest is None


def test_the_shared_embedding_is_stored_once(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(tmp_path, pretrained, trained)
    run(ExportSettings(decoding=RULES), context)
    stored = load_file(context.work / "model" / "model.safetensors")
    shape = trained.model.shared.weight.shape
    assert [name for name, tensor in stored.items() if tensor.shape == shape] == [
        "model.shared.weight"
    ]


WEIGHT = "bart.model.encoder.layers.0.fc1.weight"
BIAS = "bart.model.encoder.layers.0.fc1.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(WEIGHT), "fc1.weight: missing"),
        (lambda state: state.update({"bart.extra": torch.zeros(2)}), "extra: not in the model"),
        (lambda state: state.update({WEIGHT: torch.zeros(0)}), r"fc1.weight: \(0,\), expected"),
        (lambda state: state.update({WEIGHT: state[WEIGHT].flatten()}), r"\(256,\), expected"),
    ],
    ids=["missing", "extra", "partitioned", "flattened"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path,
    pretrained: Path,
    trained: BartForConditionalGeneration,
    change: Callable[[State], object],
    message: str,
) -> None:
    context = new_context(tmp_path, pretrained, trained, change)
    with pytest.raises(CorruptArtifact, match=message):
        run(ExportSettings(decoding=RULES), context)


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_weights_that_are_not_the_trainers_are_refused(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration, value: float
) -> None:
    context = new_context(tmp_path, pretrained, trained, lambda state: state[WEIGHT].fill_(value))
    with pytest.raises(CorruptArtifact, match="logit"):
        run(ExportSettings(decoding=RULES), context)


def test_a_tied_weight_that_came_loose_is_refused(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(
        tmp_path, pretrained, trained, lambda state: state["bart.lm_head.weight"][20, 0].add_(1.0)
    )
    with pytest.raises(CorruptArtifact, match="logit"):
        run(ExportSettings(decoding=RULES), context)


def test_the_tolerance_is_that_of_the_recipe(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(tmp_path, pretrained, trained, lambda state: state[WEIGHT].add_(1e-3))
    with pytest.raises(CorruptArtifact, match="logit"):
        run(ExportSettings(decoding=RULES, logit_tolerance=1e-9), context)
    metrics = run(ExportSettings(decoding=RULES, logit_tolerance=10.0), context)
    assert metrics["largest_logit_difference"] > 1e-9


def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(tmp_path, pretrained, trained)
    (file,) = (tmp_path / "finetune" / "checkpoints").rglob("*.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="update_00000007"):
        run(ExportSettings(decoding=RULES), context)


def test_a_rerun_writes_the_same_files(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    context = new_context(tmp_path, pretrained, trained)
    metrics = run(ExportSettings(decoding=RULES), context)
    before = record_tree(context.work)
    (context.work / "model" / "leftover.txt").write_text("from an interrupted attempt")
    assert run(ExportSettings(decoding=RULES), context) == metrics
    assert record_tree(context.work) == before


def like(pretrained: Path, seed: int) -> State:
    """Weights of the same shape, as training would have left them at another update."""
    vocabulary = len(AutoTokenizer.from_pretrained(pretrained))
    return prefixed(new_model(SMALL, vocabulary, seed=seed))


def exported(context: StageContext) -> State:
    model = BartForConditionalGeneration.from_pretrained(context.work / "model")
    return prefixed(model)


def test_the_best_checkpoint_is_exported_and_not_the_newest(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    older = {update: like(pretrained, seed=10 + update) for update in (2, 4)}
    context = new_context(tmp_path, pretrained, trained, older=older, chosen=(4,))
    metrics = run(ExportSettings(decoding=RULES), context)
    found = exported(context)
    assert found.keys() == older[4].keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, older[4][name]), name
    assert metrics["updates"] == "4"
    assert metrics["largest_logit_difference"] < 1e-5


def test_the_average_is_the_float64_mean_of_the_chosen(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    older = {update: like(pretrained, seed=10 + update) for update in (1, 2, 4)}
    newest = prefixed(trained)
    # (1e8 + 1 - 1e8) / 3: float32 would lose the 1.
    for value, state in zip((1e8, 1.0, -1e8), (older[2], older[4], newest), strict=True):
        state[BIAS][0] = value
    context = new_context(
        tmp_path,
        pretrained,
        trained,
        lambda state: state[BIAS][0].fill_(-1e8),
        older=older,
        chosen=(2, 4, NEWEST),
    )
    metrics = run(ExportSettings(decoding=RULES, logit_tolerance=1e9), context)
    assert metrics["updates"] == "2 4 7"
    found, parts = exported(context), (older[2], older[4], newest)
    for name, tensor in found.items():
        mean = sum(part[name].numpy().astype(np.float64) for part in parts) / 3
        np.testing.assert_allclose(tensor.numpy(), mean, rtol=2**-23, atol=1e-8, err_msg=name)
    assert found[BIAS][0].item() == pytest.approx(1 / 3, abs=1e-7)


def test_an_average_has_one_checkpoint_in_memory_and_tied_weights_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """BART-large's has to fit the memory of a job that prepares data."""
    read: list[weakref.ref[np.ndarray]] = []

    def read_state(folder: Path) -> State:
        assert all(state() is None for state in read), "an earlier checkpoint is still in memory"
        memory = np.full(6, float(folder.name), np.float32)
        read.append(weakref.ref(memory))
        flat = torch.from_numpy(memory)
        return {"head": flat[:4], "bias": flat[4:], "embedding": flat[:4]}

    monkeypatch.setattr("stages.export.run.full_state", read_state)
    mean = average_state([Path("1"), Path("2"), Path("4")])
    assert list(map(torch.Tensor.tolist, mean.values())) == [
        [torch.tensor(7 / 3).item()] * tensor.numel() for tensor in mean.values()
    ]
    assert mean["head"] is mean["embedding"]
    assert mean.keys() == {"head", "bias", "embedding"}
    assert {tensor.dtype for tensor in mean.values()} == {torch.float32}


def test_checkpoints_that_tie_other_weights_have_no_average(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = torch.zeros(2), torch.ones(2)
    states = {"1": {"a": one, "b": one}, "2": {"a": one, "b": other}}
    monkeypatch.setattr("stages.export.run.full_state", lambda folder: dict(states[folder.name]))
    with pytest.raises(CheckpointError, match="2: has or ties other weights than 1"):
        average_state([Path("1"), Path("2")])


@pytest.mark.parametrize("chosen", [(4,), (2, 4)])
def test_the_newest_is_compared_with_the_trainer_whatever_was_chosen(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration, chosen: tuple[int, ...]
) -> None:
    older = {update: prefixed(trained) for update in (2, 4)}
    context = new_context(
        tmp_path,
        pretrained,
        trained,
        lambda state: state[WEIGHT].fill_(0.5),
        older=older,
        chosen=chosen,
    )
    with pytest.raises(CorruptArtifact, match="logit"):
        run(ExportSettings(decoding=RULES), context)


def test_a_chosen_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    older = {4: {name: t for name, t in prefixed(trained).items() if name != WEIGHT}}
    context = new_context(tmp_path, pretrained, trained, older=older, chosen=(4,))
    with pytest.raises(CorruptArtifact, match=r"fc1\.weight: missing"):
        run(ExportSettings(decoding=RULES), context)


def test_a_chosen_checkpoint_of_broken_weights_is_refused(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    broken = prefixed(trained)
    broken[WEIGHT].fill_(float("nan"))
    context = new_context(tmp_path, pretrained, trained, older={4: broken}, chosen=(4,))
    with pytest.raises(CorruptArtifact, match="nan"):
        run(ExportSettings(decoding=RULES), context)


@pytest.mark.parametrize("chosen", [(3,), (3, NEWEST)])
def test_a_chosen_checkpoint_that_is_missing_is_named(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration, chosen: tuple[int, ...]
) -> None:
    context = new_context(tmp_path, pretrained, trained, chosen=chosen)
    with pytest.raises(CheckpointError, match="update_00000003"):
        run(ExportSettings(decoding=RULES), context)
    assert not (context.work / "model").exists()


def test_a_chosen_checkpoint_that_is_damaged_is_named(
    tmp_path: Path, pretrained: Path, trained: BartForConditionalGeneration
) -> None:
    older = {update: prefixed(trained) for update in (2, 4)}
    context = new_context(tmp_path, pretrained, trained, older=older, chosen=(2, 4))
    (file,) = (tmp_path / "finetune" / "checkpoints" / "update_00000002").rglob("*.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"update_00000002.*sha256"):
        run(ExportSettings(decoding=RULES), context)


def test_only_the_tokenizer_s_files_come_along(tmp_path: Path) -> None:
    """A folder cloned from the Hub has its own card, and may have secrets and other weights."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    theirs = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt")
    theirs += ("vocab.json", "added_tokens.json", "sentencepiece.bpe.model")
    others = ("README.md", ".env", ".gitattributes", "tf_model.h5", "model.safetensors")
    others += ("trainer_state.json", "all_results.json", ".credentials.json", "old.model")
    others += ("config.json", "generation_config.json", "model.safetensors.index.json")
    for name in (*theirs, *others):
        (source / name).write_text(name, encoding="utf-8")
    _copy_tokenizer(source, target)
    assert {path.name for path in target.iterdir()} == set(theirs)
