"""The encode stage: limits kept, losses counted, shards that fit together."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer, BartConfig, PreTrainedTokenizerBase

import stages.encode.rows as encode_rows
import stages.encode.run as encode
import stages.schema as schema
from pipeline.artifact import RunDir
from pipeline.distributed.world import World
from pipeline.errors import ConfigError, DataError
from pipeline.files import record_tree
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, StageContext
from stages.encode.config import EncodeConfig
from stages.fetch.scratch import gpt2_bpe, train_bpe
from stages.finetune.data import EncodedSplit, collate
from stages.schema import Example, write_shards
from stages.tokens import Policy, Tokens, TruncationRules, kept, light, token_ids, tokenize

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
        write_shards(cleaned / split, rows)
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
    whole = new_context(tmp_path / "whole", model)
    monkeypatch.setattr(schema, "SHARD_ROWS", 6)
    cut = new_context(tmp_path / "cut", model)
    assert encode.run(limits(), cut) == encode.run(limits(), whole)
    assert len(list((cut.work / "train").iterdir())) == 4
    assert table_of(cut.work / "train") == table_of(whole.work / "train")


def test_shards_that_are_there_are_kept_and_the_others_made(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SHARD_ROWS", 6)
    straight, resumed = (new_context(tmp_path / name, model) for name in ("straight", "resumed"))
    (step,) = encode.shards(limits(), resumed)
    step.folder.mkdir(parents=True)
    for shard in (0, 2):  # what a run that was killed has left
        step.work(shard)
    assert encode.run(limits(), resumed) == encode.run(limits(), straight)
    assert record_tree(resumed.work) == record_tree(straight.work)


def test_training_reads_what_was_encoded(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SHARD_ROWS", 6)
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


def rules(truncation: Policy, head_share: float = 0.75) -> TruncationRules:
    return TruncationRules(truncation=truncation, head_share=head_share)


@pytest.mark.parametrize(
    ("policy", "share", "limit", "expected"),
    [
        ("head", 0.75, 12, (11, 1)),
        ("fail", 0.75, 12, (11, 1)),
        ("head_tail", 0.75, 12, (1 + 7, 3 + 1)),  # 7.5 of 10 rounded down
        ("head_tail", 0.25, 512, (1 + 127, 383 + 1)),  # 127.5 of 510
        ("head_tail", 0.01, 4, (1, 3)),
        ("head_tail", 0.99, 4, (2, 2)),
        ("sentences", 0.75, 12, (9, 1)),  # ends at 5 and 9 fit beside </s>, that at 12 does not
        ("sentences", 0.75, 10, (9, 1)),
        ("sentences", 0.75, 9, (5, 1)),
        ("sentences", 0.75, 5, (4, 1)),  # the first is too long: its head
    ],
)
def test_what_each_policy_keeps(
    policy: Policy, share: float, limit: int, expected: tuple[int, int]
) -> None:
    assert kept(limit, rules(policy, share), lambda: [5, 9, 12]) == expected
    assert sum(expected) <= limit


def test_head_and_tail_meet_in_the_middle(tokenizer: PreTrainedTokenizerBase) -> None:
    text = " ".join(WORDS * 3)
    (whole,) = token_ids(tokenizer, [text])
    (found,) = tokenize(tokenizer, [text], 22, rules("head_tail"))
    assert found == Tokens([*whole[:16], *whole[-6:]], len(whole) - 22)


SENTENCES = 'The mayor came. "A new bridge!" (In dover.)\nmany people. saw it... It opened? and so 3. 4 more.'
ENDS = (
    "The mayor came.",
    'The mayor came. "A new bridge!"',
    'The mayor came. "A new bridge!" (In dover.)',
    'The mayor came. "A new bridge!" (In dover.)\nmany people. saw it...',
    'The mayor came. "A new bridge!" (In dover.)\nmany people. saw it... It opened? and so 3.',
)


def test_whole_sentences_are_kept_as_far_as_they_fit(tokenizer: PreTrainedTokenizerBase) -> None:
    (whole,) = token_ids(tokenizer, [SENTENCES])
    prefixes = token_ids(tokenizer, list(ENDS))
    for limit in range(4, len(whole)):
        fitting = [ids for ids in prefixes if len(ids) <= limit]
        expected = max(fitting, key=len) if fitting else [*whole[: limit - 1], whole[-1]]
        (found,) = tokenize(tokenizer, [SENTENCES], limit, rules("sentences"))
        assert found == Tokens(expected, len(whole) - len(expected)), limit
    assert tokenize(tokenizer, [SENTENCES], len(whole), rules("sentences")) == [Tokens(whole, 0)]


@pytest.mark.parametrize("before", ["\n", "\n \n", " \n"])
def test_line_breaks_before_the_first_word_end_no_sentence(
    before: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    text = before + "the mayor opened the new bridge and then " * 4
    (whole,) = token_ids(tokenizer, [text])
    (found,) = tokenize(tokenizer, [text], 12, rules("sentences"))
    assert found == Tokens([*whole[:11], whole[-1]], len(whole) - 12)


def test_whole_sentences_of_real_documents_are_their_own_tokens(tmp_path: Path) -> None:
    """What is kept is what the tokenizer makes of the kept text alone, and the next sentence does not fit."""
    data = os.environ.get("SUMPIPE_TEST_DATA")
    if data is None:
        pytest.skip("SUMPIPE_TEST_DATA is not set: no real documents")
    bpe, limit, cut = gpt2_bpe(Path(data) / "gpt2_bpe", tmp_path), 256, 0
    for folder in ("cnndm", "reddit_tldr"):
        lines = (Path(data) / folder / "test.jsonl").read_text(encoding="utf-8").splitlines()[:80]
        texts = [json.loads(line)["document"] for line in lines]
        for text, whole, found in zip(
            texts,
            token_ids(bpe, texts),
            tokenize(bpe, texts, limit, rules("sentences")),
            strict=True,
        ):
            assert len(found.ids) + found.lost == len(whole)
            if not found.lost:
                assert found.ids == whole
                continue
            shown = bpe.decode(found.ids[1:-1])
            assert text.startswith(shown)
            assert token_ids(bpe, [shown]) == [found.ids]
            assert shown[-1] in ".!?\"'\u201d)" or text[len(shown)] == "\n"
            cut += 1
    assert cut > 60


def test_losses_of_a_policy_are_counted(
    tmp_path: Path, model: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = EncodeConfig(max_source_tokens=12, max_target_tokens=8, truncation="sentences")
    rows = [Example("a", "The mayor came. He saw it all and went to dover again.", "the mayor")]
    context = new_context(tmp_path, model, rows)
    metrics = encode.run(config, context)
    ((whole,), (first,)) = (
        token_ids(tokenizer, [text]) for text in (rows[0].document, "The mayor came.")
    )
    assert len(first) <= 12 < len(whole)
    (row,) = table_of(context.work / "train")
    assert (row["source_ids"], row["source_tokens_lost"]) == (first, len(whole) - len(first))
    assert metrics["source_tokens_lost_train"] == len(whole) - len(first)
    assert metrics["source_rows_truncated_train"] == 1


@pytest.mark.parametrize("policy", ["head", "head_tail", "sentences"])
def test_the_decoder_reads_the_target_shifted_behind_the_end_token(
    tmp_path: Path, model: Path, policy: Policy
) -> None:
    """Of what is encoded finetune makes sources <s> x </s>, targets <s> y </s>, decoder inputs </s> <s> y."""
    context = new_context(tmp_path, model)
    encode.run(limits(truncation=policy), context)
    split = EncodedSplit(context.work / "train")
    pairs = [(split.source(number), split.target(number)) for number in range(len(TRAIN))]
    batch = collate(pairs, pad_id=1, start_id=2, device=torch.device("cpu"))
    for number, (source, target) in enumerate(pairs):
        assert (source[0], source[-1], target[0], target[-1]) == (0, 2, 0, 2)
        assert not np.isin(source[1:-1], (0, 1, 2)).any()
        shifted = [2, *target[:-1].tolist()]
        assert batch.decoder_ids_BT[number, : len(target)].tolist() == shifted
        assert batch.target_ids_BT[number, : len(target)].tolist() == target.tolist()


@pytest.mark.parametrize("start", [0, None])
def test_a_decoder_that_begins_otherwise_is_refused(
    start: int | None, tmp_path: Path, model: Path
) -> None:
    other = Path(shutil.copytree(model, tmp_path / "model"))
    settings = json.loads((other / "config.json").read_text(encoding="utf-8"))
    settings["decoder_start_token_id"] = start
    (other / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(
        DataError, match=rf"has decoder_start_token_id {start}; expected 2, .* </s>"
    ):
        encode.run(limits(), new_context(tmp_path / "run", other))


def test_a_tokenizer_that_is_not_barts_is_refused(tmp_path: Path, model: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "model"))
    settings = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    settings["post_processor"] = {
        "type": "Sequence",
        "processors": [],
    }  # puts nothing around a text
    (other / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    (other / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        ),
        encoding="utf-8",
    )
    with pytest.raises(DataError, match=r"row-0: the tokenizer of .* expected <s> \.\.\. </s>"):
        encode.run(limits(), new_context(tmp_path / "run", other))


def test_a_special_token_within_a_row_is_refused_by_name(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_rows, "tokenize", lambda *_: [Tokens([0, 5, 1, 6, 2], 0)])
    with pytest.raises(DataError, match=r"row-3: .* its source <s> \.\.\. <pad> \.\.\. </s>"):
        encode.run(limits(), new_context(tmp_path, model, OTHER))


HOSTILE = [
    "",
    "<s>the</s> <pad> <mask>",
    "\u4e2d\u6587 \U0001f600 \u0001",
    " the  mayor\n",
    SENTENCES,
]


def test_ids_and_ends_are_those_of_transformers_also_in_a_worker(
    model: Path, tmp_path: Path
) -> None:
    """A worker is given the tokenizer's own engine; a tokenizer.json that would cut changes nothing."""
    other = Path(shutil.copytree(model, tmp_path / "model"))
    settings = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    settings["truncation"] = cut
    (other / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    for folder in (model, other):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        called = tokenizer(
            HOSTILE, verbose=False, split_special_tokens=True, return_offsets_mapping=True
        )
        sent = pickle.loads(pickle.dumps(light(AutoTokenizer.from_pretrained(folder))))
        for given in (sent, tokenizer):
            assert token_ids(given, HOSTILE) == called["input_ids"]
            found = light(given).encode_batch(HOSTILE)
            assert [text.offsets for text in found] == called["offset_mapping"]


def test_workers_need_neither_transformers_nor_torch() -> None:
    code = "import sys, stages.encode.rows; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_slow_tokenizer_is_refused_by_name() -> None:
    slow = SimpleNamespace(is_fast=False, name_or_path="models/mine")
    with pytest.raises(DataError, match=r"models/mine: its tokenizer, a SimpleNamespace, is slow"):
        token_ids(cast(PreTrainedTokenizerBase, slow), ["a"])
