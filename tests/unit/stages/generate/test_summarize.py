"""`sumpipe summarize` in this process: settings, formats, what fails, what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.artifact import RunDir
from pipeline.config import Config
from stages.fetch.config import ScratchModel
from stages.fetch.scratch import new_model, train_bpe
from stages.generate.chosen_model import choose_model
from stages.generate.config import GenerateConfig, SearchConfig
from stages.generate.documents import Document
from stages.generate.engine import Source, Summarizer
from stages.generate.summaries import Portion, Summarize
from stages.schema import Prediction
from stages.text_rules import RULES, CleaningRules
from stages.tokens import Policy, TruncationRules, token_ids, tokenize
from tests.conftest import Answer, CommandLine

torch.set_num_threads(1)

POSITIONS = 32
SHORT = ("--num-beams", 2, "--max-length", 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory of a small BART with random weights."""
    model = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(["a few words to train on"] * 3, 300, model)
    settings = ScratchModel(
        source="scratch",
        d_model=16,
        layers=1,
        heads=2,
        ffn=16,
        max_positions=POSITIONS,
        init_std=0.5,
    )
    new_model(settings, len(tokenizer), seed=1).save_pretrained(model)
    return model


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def rows(answer: Answer) -> list[Prediction]:
    return [Prediction(**json.loads(line)) for line in answer.out.splitlines()]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


TEXTS = ["a few words", "words to train", "on and on"]


def test_summaries_are_the_engines(folder: Path, sumpipe: CommandLine, tmp_path: Path) -> None:
    summarizer = Summarizer(folder, SearchConfig(num_beams=2, max_length=8), "cpu")
    sources = [
        Source(str(number), ids)
        for number, ids in enumerate(token_ids(summarizer.tokenizer, TEXTS), 1)
    ]
    expected = list(summarizer.summarize(sources, 3, "batch size"))
    file = written(tmp_path / "in.txt", "\n".join(TEXTS).encode())
    as_jsonl = sumpipe("summarize", folder, file, *SHORT, "--output-format", "jsonl")
    assert as_jsonl.code == 0, as_jsonl.err
    assert rows(as_jsonl) == expected
    assert "alternatives" not in as_jsonl.out
    as_text = sumpipe("summarize", folder, file, *SHORT)
    assert as_text.out.split("\n")[:-1] == [" ".join(p.prediction.splitlines()) for p in expected]
    assert f"{folder} on cpu, fp32; beams 2, 0 to 8 tokens" in as_text.err
    assert "documents: 3 in " in as_text.err


def test_what_cannot_be_read_fails_alone(
    folder: Path, sumpipe: CommandLine, tmp_path: Path
) -> None:
    file = written(tmp_path / "in.txt", b"a few\n\ncaf\xe9\n \nwords\n")
    answer = sumpipe("summarize", folder, file, *SHORT, "--output-format", "jsonl")
    assert answer.code == 1
    assert [one.stop for one in rows(answer)][1:4] == [
        "empty",
        "failed: line 3: byte 0xe9 at offset 3 is not UTF-8",
        "empty",
    ]
    assert [one.score is None for one in rows(answer)] == [False, True, True, True, False]
    assert "2 empty, 1 failed" in answer.err
    assert "document 3: failed: line 3: byte 0xe9" in answer.err
    as_text = sumpipe("summarize", folder, file, *SHORT, "--quiet")
    assert [bool(line) for line in as_text.out.split("\n")] == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert as_text.err.splitlines()[1:] == [
        "sumpipe: document 3: failed: line 3: byte 0xe9 at offset 3 is not UTF-8"
    ]


def test_an_empty_file_gives_nothing(folder: Path, sumpipe: CommandLine, tmp_path: Path) -> None:
    for form in ("auto", "document", "jsonl", "csv"):
        file = written(tmp_path / "in.txt", b"")
        answer = sumpipe("summarize", folder, file, "--max-length", 8, "--input-format", form)
        assert (answer.code, answer.out) == (0, "")


def test_a_document_of_a_megabyte_is_cut_and_counted(
    folder: Path, sumpipe: CommandLine, tmp_path: Path
) -> None:
    text = "a few words to train on\n" * 42_000
    assert len(text) > 1_000_000
    file = written(tmp_path / "in.txt", text.encode())
    whole = ("--input-format", "document", "--output-format", "jsonl")
    answer = sumpipe("summarize", folder, file, *SHORT, *whole)
    assert answer.code == 0, answer.err
    (found,) = rows(answer)
    tokenizer = Summarizer(folder, SearchConfig(max_length=8), "cpu").tokenizer
    assert found.source_tokens_lost == len(tokenizer(text, verbose=False)["input_ids"]) - POSITIONS
    assert f"1 truncated ({found.source_tokens_lost} tokens lost)" in answer.err
    strict = sumpipe("summarize", folder, file, *SHORT, *whole, "--truncation", "fail")
    assert strict.code == 1
    assert f"{POSITIONS} are allowed; --truncation head" in rows(strict)[0].stop


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", b"key,body\n1,a few\n2,words\n"),
        ("in.jsonl", b'{"body": "a few"}\n{"body": "words"}'),
    ],
)
def test_fields_have_names(
    folder: Path, sumpipe: CommandLine, tmp_path: Path, name: str, content: bytes
) -> None:
    file = written(tmp_path / name, content)
    answer = sumpipe("summarize", folder, file, *SHORT, "--field", "body")
    assert answer.code == 0, answer.err
    assert [one.id for one in rows(answer)] == ["1", "2"]
    assert all(one.tokens for one in rows(answer))


def test_an_output_file_appears_when_it_is_whole(
    folder: Path, sumpipe: CommandLine, tmp_path: Path
) -> None:
    good = written(tmp_path / "in.txt", b"a few\n\xff\n")
    out = tmp_path / "out.txt"
    answer = sumpipe("summarize", folder, good, *SHORT, "--output", out)
    assert (answer.code, answer.out) == (1, "")  # one failed, the other is there
    assert [bool(line) for line in out.read_text(encoding="utf-8").split("\n")] == [
        True,
        False,
        False,
    ]
    before = out.read_bytes()
    bad = written(tmp_path / "bad.csv", b"a,b\n1,2\n")
    assert sumpipe("summarize", folder, bad, *SHORT, "--output", out).code == 1
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "in.txt", "out.txt"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--min-length", 9, "--max-length", 8], ["--min-length 9", "--max-length 8"]),
        (["--max-length", 33], ["--max-length", "32 positions"]),
        (["--device", "tpu"], ["--device 'tpu'", "cuda:N"]),
        (["--device", "cuda:99"], ["--device cuda:99", "GPUs"]),
        (["--field", "text"], ["--field text", "--input-format"]),
        (["--output", "MODEL"], ["--output", "no regular file"]),
        (["--output", "MODEL/no/out"], ["--output", "cannot be written"]),
        (["--input-format", "xml"], ["--input-format", "jsonl"]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_a_mistake_is_a_message(
    folder: Path, sumpipe: CommandLine, tmp_path: Path, arguments: list[object], told: list[str]
) -> None:
    file = written(tmp_path / "in.txt", b"a few\n")
    options = [str(argument).replace("MODEL", str(folder)) for argument in arguments]
    answer = sumpipe("summarize", folder, file, *options)
    assert (answer.code, answer.out) == (2, "")
    assert all(word in answer.err for word in told), answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("victim", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_without_a_part_says_which(
    copied: Path, sumpipe: CommandLine, tmp_path: Path, victim: str
) -> None:
    (copied / victim).unlink()
    answer = sumpipe("summarize", copied, written(tmp_path / "in.txt", b"a few\n"))
    assert answer.code == 2
    word = {"model.safetensors": "weights", "tokenizer.json": "tokenizer"}.get(victim, victim)
    assert word in answer.err and str(copied) in answer.err


def test_weights_that_are_a_pointer_are_told(
    copied: Path, sumpipe: CommandLine, tmp_path: Path
) -> None:
    (copied / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    answer = sumpipe("summarize", copied, written(tmp_path / "in.txt", b"a few\n"), *SHORT)
    assert answer.code == 1
    assert "cannot be loaded" in answer.err and "LFS" in answer.err
    assert "Traceback" not in answer.err


def test_missing_weights_are_no_random_ones(
    copied: Path, sumpipe: CommandLine, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    name = next(name for name in weights if name.endswith("fc1.weight"))
    del weights[name]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    answer = sumpipe("summarize", copied, written(tmp_path / "in.txt", b"a few\n"), *SHORT)
    assert answer.code == 1
    assert "1 weights" in answer.err and name in answer.err


def test_another_kind_of_model_is_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    (copied / "config.json").write_text(
        json.dumps({**config, "model_type": "t5"}), encoding="utf-8"
    )
    with pytest.raises(Exception, match="model_type is 't5'"):
        choose_model(copied, {})


def of_model(folder: Path, **settings: object) -> Path:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def test_settings_are_the_models_where_it_has_them(copied: Path) -> None:
    file = of_model(
        copied,
        num_beams=3,
        min_length=5,
        max_length=20,
        length_penalty=2.0,
        no_repeat_ngram_size=3,
        early_stopping="never",
        repetition_penalty=1.5,
        do_sample=True,
        diversity_penalty=0.0,
    )
    found = choose_model(copied, {"num_beams": 5})
    assert found.search == SearchConfig(
        num_beams=5,
        min_length=5,
        max_length=20,
        length_penalty=2.0,
        no_repeat_ngram_size=3,
        early_stopping="never",
    )
    assert found.settings_from == str(file)
    assert found.not_used == ("do_sample", "repetition_penalty")
    assert found.source_tokens == POSITIONS


def test_settings_of_an_old_folder_are_in_its_config(copied: Path) -> None:
    (copied / "generation_config.json").unlink()
    file = copied / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "num_beams": 6, "max_length": 30}), encoding="utf-8")
    found = choose_model(copied, {})
    assert (found.search.num_beams, found.search.max_length) == (6, 30)
    assert found.settings_from == str(file)


def test_a_token_that_cannot_be_forced_is_refused(copied: Path) -> None:
    of_model(copied, forced_bos_token_id=9, max_length=20)
    with pytest.raises(Exception, match="forced_bos_token_id 9"):
        choose_model(copied, {})


@pytest.fixture
def run_dir(folder: Path, tmp_path: Path) -> RunDir:
    """A run whose export is committed."""
    run_dir = RunDir(tmp_path / "run")
    shutil.copytree(folder, run_dir.open_partial("export", {"stage": "export"}) / "model")
    run_dir.commit("export", {"stage": "export"}, {}, {})
    generate: Config = GenerateConfig(
        num_beams=3, max_length=9, profile="fairseq", return_sequences=2
    )
    recipe = {"encode": {"max_source_tokens": 12}, "generate": generate.settings()}
    run_dir.recipe.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return run_dir


def test_a_run_brings_its_settings(run_dir: RunDir, sumpipe: CommandLine, tmp_path: Path) -> None:
    lines = [b"a few", b"words to train on" * 9, "a \u00a0few\u200b ".encode()]
    file = written(tmp_path / "in.txt", b"\n".join(lines))
    answer = sumpipe("summarize", run_dir.root, file, "--output-format", "jsonl")
    assert answer.code == 0, answer.err
    assert (
        f"beams 3, 0 to 9 tokens, length penalty 1, after <s>, documents of up to 12 tokens ({run_dir.recipe}"
        in (answer.err)
    )
    short, long, untidy = rows(answer)
    assert (untidy.prediction, untidy.score) == (short.prediction, short.score)  # as clean has it
    assert short.source_tokens_lost == 0 < long.source_tokens_lost
    assert [len(one.alternatives) for one in (short, long)] == [1, 1]
    alone = choose_model(run_dir.root, {"num_beams": 1}).search
    assert (alone.num_beams, alone.return_sequences, alone.profile) == (1, 1, "fairseq")


def with_settings(run_dir: RunDir, clean: Config, **encode: object) -> None:
    recipe = yaml.safe_load(run_dir.recipe.read_text(encoding="utf-8"))
    recipe |= {"clean": clean.settings(), "encode": {**recipe["encode"], **encode}}
    run_dir.recipe.write_text(yaml.safe_dump(recipe), encoding="utf-8")


def test_new_documents_are_cleaned_by_the_run_s_rules(
    run_dir: RunDir, sumpipe: CommandLine, tmp_path: Path
) -> None:
    """A rule for summaries alone changes no document; the summary that a document gives of itself goes."""
    with_settings(run_dir, CleaningRules(rules=("join_lines", "reddit_tldr", "html_entities")))
    plain = {"text": "a few words\non & on"}
    untidy = {"text": "a  few words\non &amp; on\n**TL;DR:** train"}
    given_away = {"text": "TL;DR: train"}
    lines = [json.dumps(one) for one in (plain, untidy, given_away)]
    file = written(tmp_path / "in.jsonl", "\n".join(lines).encode())
    answer = sumpipe("summarize", run_dir.root, file)
    assert answer.code == 0, answer.err
    as_it_is, cleaned, empty = rows(answer)
    assert (cleaned.prediction, cleaned.score) == (as_it_is.prediction, as_it_is.score)
    assert empty.stop == "empty"
    told = "Unicode NFC, blanks, then join_lines, reddit_tldr, html_entities"
    assert f"documents are cleaned as the run's were: {told}" in answer.err


def test_a_rule_that_is_not_here_is_refused(run_dir: RunDir) -> None:
    with_settings(run_dir, CleaningRules())
    text = run_dir.recipe.read_text(encoding="utf-8").replace("rules: []", "rules: [of_tomorrow]")
    run_dir.recipe.write_text(text, encoding="utf-8")
    with pytest.raises(Exception, match=r"recipe.yaml, clean: .*\n.*no rule 'of_tomorrow'"):
        choose_model(run_dir.root, {})


def test_another_version_of_a_rule_is_told(
    run_dir: RunDir, sumpipe: CommandLine, tmp_path: Path
) -> None:
    config = CleaningRules(rules=("reddit_tldr", "html_entities"))
    with_settings(run_dir, config)
    file = written(tmp_path / "in.txt", b"a few\n")
    assert "another version" not in sumpipe("summarize", run_dir.root, file).err
    versions = {"reddit_tldr": 7, "html_entities": RULES["html_entities"].version}
    payload = {"stage": "clean", "config": {**config.identity(), "rule_versions": versions}}
    run_dir.open_partial("clean", payload)
    run_dir.commit("clean", payload, {}, {})
    answer = sumpipe("summarize", run_dir.root, file)
    now = RULES["reddit_tldr"].version
    assert f"by another version of reddit_tldr 7, here {now}: summaries may differ" in answer.err
    assert "html_entities 1, here" not in answer.err


@pytest.mark.parametrize("policy", ["head", "head_tail", "sentences"])
def test_new_documents_are_cut_as_the_run_cut_them(
    run_dir: RunDir, sumpipe: CommandLine, tmp_path: Path, policy: Policy
) -> None:
    with_settings(run_dir, CleaningRules(), truncation=policy, head_share=0.5)
    text = "A few. On and on. And words to train on."
    file = written(tmp_path / "in.txt", text.encode())
    chosen = choose_model(run_dir.root, {})
    rules = TruncationRules(truncation=policy, head_share=0.5)
    assert (chosen.truncation, chosen.source_tokens) == (rules, 12)
    summarizer = Summarizer(chosen.folder, chosen.search, "cpu")
    ((ids, lost),) = tokenize(summarizer.tokenizer, [text], 12, rules)
    (expected,) = summarizer.summarize([Source("1", ids, lost)], 1, "batch size")
    as_jsonl = ("--output-format", "jsonl")
    assert rows(sumpipe("summarize", run_dir.root, file, *as_jsonl)) == [expected]
    assert expected.source_tokens_lost == lost > 0
    with_settings(run_dir, CleaningRules(), truncation="fail", head_share=0.5)
    assert rows(sumpipe("summarize", run_dir.root, file, *as_jsonl))[0].stop.startswith("failed: ")
    asked = sumpipe("summarize", run_dir.root, file, *as_jsonl, "--truncation", policy)
    assert rows(asked) == [expected]


def test_a_run_without_export_says_how_to_finish_it(run_dir: RunDir) -> None:
    run_dir.remove("export")
    with pytest.raises(Exception, match=r"export is not done.*--to export"):
        choose_model(run_dir.root, {})


def test_out_of_memory_names_the_option(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("stages.generate.decoding.decode", fail)
    work = Summarize(choose_model(folder, {"max_length": 8}), 64, "cpu", 1)
    with pytest.raises(Exception, match=r"lower --batch-tokens \(now 64\)"):
        work(Portion([Document("1", "a few")], 0))
