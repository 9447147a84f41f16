"""The encode stage: limits kept, losses counted, shards that fit together."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from transformers import AutoTokenizer, BartConfig, PreTrainedTokenizerBase

import stages.encode.run as encode
from pipeline.artifact import RunDir
from pipeline.distributed.world import World
from pipeline.errors import ConfigError, DataError
from pipeline.files import record_tree
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, StageContext
from stages.encode.config import EncodeConfig
from stages.fetch.scratch import train_bpe
from stages.finetune.data import EncodedSplit
from stages.schema import Example, write_jsonl

SENTENCE = "the mayor opened a new bridge in dover and many people came to see it"
WORDS = SENTENCE.split()
POSITIONS = 32


def example(number: int) -> Example:
    document = " ".join(WORDS[: 1 + number % len(WORDS)] * (1 + number // 4))
    return Example(f"row-{number}", document, " ".join(WORDS[: 1 + number % 5]))


TRAIN = [example(number) for number in range(20)]
OTHER = [example(3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train_bpe([SENTENCE] * 3, 320, folder)
    BartConfig(max_position_embeddings=POSITIONS).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model)


def new_context(root: Path, model: Path, train: list[Example] = TRAIN) -> StageContext:
    """The context of encode in a run with this model and these examples."""
    run_dir, payload = RunDir(root), {"stage": "any"}
    folder = run_dir.open_partial("fetch", payload) / "model"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    cleaned = run_dir.open_partial("clean", payload)
    for split, rows in (("train", train), ("valid", OTHER), ("test", OTHER)):
        write_jsonl(cleaned / f"{split}.jsonl", rows)
    inputs = {name: run_dir.commit(name, payload, {}, {}) for name in ("fetch", "clean")}
    work = run_dir.open_partial("encode", payload)
    execution = Execution(processes=1, threads=1, ds_profile=Path("zero0.json"))
    progress = Progress("encode", None, console=False)
    return StageContext(
        inputs, work, 1, World(), execution, StopFlag(), progress, guard=lambda: None
    )


def limits(source: int = 12, target: int = 8, truncation: str = "head") -> EncodeConfig:
    return EncodeConfig.model_validate(
        {"max_source_tokens": source, "max_target_tokens": target, "truncation": truncation}
    )


def table_of(folder: Path) -> list[dict[str, object]]:
    tables = [pa.ipc.open_file(str(path)).read_all() for path in sorted(folder.glob("*.arrow"))]
    rows: list[dict[str, object]] = pa.concat_tables(tables).to_pylist()
    return rows


def test_rows_are_the_tokenizers_ids_cut_before_the_end_token(
    tmp_path: Path, model: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    context = new_context(tmp_path, model)
    encode.run(limits(), context)
    cut = 0
    for row, given in zip(table_of(context.work / "train"), TRAIN, strict=True):
        assert row["id"] == given.id
        for role, text, limit in (("source", given.document, 12), ("target", given.summary, 8)):
            ids, full = row[f"{role}_ids"], tokenizer(text)["input_ids"]
            assert isinstance(ids, list)
            assert len(ids) <= limit
            assert ids[0] == 0 and ids[-1] == 2
            assert ids[:-1] == full[: len(ids) - 1]
            assert row[f"{role}_tokens_lost"] == len(full) - len(ids)
            cut += len(full) > limit
    assert 5 < cut < 35  # the sample has both kinds


def test_metrics_count_tokens_and_losses(
    tmp_path: Path, model: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    metrics = encode.run(limits(), new_context(tmp_path, model))
    lengths = [len(tokenizer(given.document)["input_ids"]) for given in TRAIN]
    assert metrics["rows_train"] == 20 and metrics["rows_valid"] == 1
    assert metrics["source_tokens_train"] == sum(min(length, 12) for length in lengths)
    assert metrics["source_tokens_lost_train"] == sum(max(length - 12, 0) for length in lengths)
    assert metrics["source_rows_truncated_train"] == sum(length > 12 for length in lengths)


def test_text_of_exactly_the_limit_is_whole(
    tmp_path: Path, model: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    length = len(tokenizer(OTHER[0].document)["input_ids"])
    context = new_context(tmp_path, model, OTHER)
    metrics = encode.run(limits(source=length, truncation="fail"), context)
    assert metrics["source_tokens_lost_train"] == 0


@pytest.mark.parametrize(("role", "source", "target"), [("source", 12, 32), ("target", 32, 4)])
def test_fail_policy_names_the_row_and_the_setting(
    tmp_path: Path, model: Path, role: str, source: int, target: int
) -> None:
    document = " ".join(WORDS[:2] if role == "target" else WORDS)
    rows = [Example("short", "a", "the"), Example("too-long", document, " ".join(WORDS[:6]))]
    with pytest.raises(DataError) as caught:
        encode.run(limits(source, target, "fail"), new_context(tmp_path, model, rows))
    assert "too-long" in str(caught.value)
    assert f"encode.max_{role}_tokens" in str(caught.value)


@pytest.mark.parametrize("setting", ["max_source_tokens", "max_target_tokens"])
def test_more_tokens_than_the_model_has_positions_are_refused(
    tmp_path: Path, model: Path, setting: str
) -> None:
    config = limits(POSITIONS, POSITIONS).model_copy(update={setting: POSITIONS + 1})
    with pytest.raises(ConfigError, match=f"encode.{setting}: 33 .* 32 positions"):
        encode.run(config, new_context(tmp_path, model))


def test_as_many_tokens_as_positions_are_allowed(tmp_path: Path, model: Path) -> None:
    metrics = encode.run(limits(POSITIONS, POSITIONS), new_context(tmp_path, model))
    assert metrics["rows_train"] == 20


def test_shards_join_to_the_same_rows(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = new_context(tmp_path / "whole", model), new_context(tmp_path / "cut", model)
    expected = encode.run(limits(), whole)
    monkeypatch.setattr(encode, "SHARD_ROWS", 6)
    assert encode.run(limits(), cut) == expected
    assert len(list((cut.work / "train").iterdir())) == 4
    assert table_of(cut.work / "train") == table_of(whole.work / "train")


def test_a_missing_shard_is_made_again_with_the_same_bytes(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "SHARD_ROWS", 6)
    context = new_context(tmp_path, model)
    metrics = encode.run(limits(), context)
    before = record_tree(context.work)
    (context.work / "train" / "00002.arrow").unlink()
    assert encode.run(limits(), context) == metrics
    assert record_tree(context.work) == before


def test_training_reads_what_was_encoded(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "SHARD_ROWS", 6)
    context = new_context(tmp_path, model)
    encode.run(limits(), context)
    split = EncodedSplit(context.work / "train")
    for number, row in enumerate(table_of(context.work / "train")):
        assert split.source(number).tolist() == row["source_ids"]
        assert split.target(number).tolist() == row["target_ids"]


def test_control_tokens_in_a_text_stay_letters(tmp_path: Path, model: Path) -> None:
    text = "<s>the</s> <pad> <mask>"
    context = new_context(tmp_path / "run", model, [Example("a", text, text)])
    encode.run(EncodeConfig(max_source_tokens=32, max_target_tokens=32), context)
    tokenizer = AutoTokenizer.from_pretrained(model)
    split = EncodedSplit(context.work / "train")
    for ids in (split.source(0).tolist(), split.target(0).tolist()):
        assert (ids[0], ids[-1]) == (0, 2)
        assert not {0, 1, 2, tokenizer.mask_token_id} & {*ids[1:-1]}
        assert tokenizer.decode(ids[1:-1]) == text
