"""The model card: what the Hub reads of it, what it says and does not know, and its code, which is run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard
from pydantic import ValidationError

from pipeline.artifact import Artifact, Manifest
from pipeline.config import JSON
from stages.clean.config import CleanConfig
from stages.decoding import DecodingRules
from stages.encode.config import EncodeConfig
from stages.export.config import ExportSettings
from stages.export.run import run as export
from stages.fetch.config import FetchConfig, ScratchModel
from stages.fetch.scratch import new_model, train_bpe
from stages.finetune.config import FinetuneConfig
from stages.generate.config import GenerateConfig
from stages.report.card import model_card
from stages.report.card_metadata import card_metadata
from stages.report.config import CardConfig, ExpectedConfig
from stages.report.facts import Facts
from stages.report.usage import for_repository, usage_code
from tests.conftest import CommandLine
from tests.unit.stages.export.contexts import new_context
from tests.unit.stages.report.builders import ONE_ROW

torch.set_num_threads(1)

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
LABELS = {"model": "Fine-tuned model", "lead": "Lead (3 sentences)"}
SCRATCH = {"source": "scratch"}
DEMO = {"dataset": {"source": "demo"}, "model": SCRATCH}
HUB = {
    "dataset": {"source": "hub", "path": "team/news", "name": "3.0.0", "revision": "abc"},
    "model": {"source": "hub", "path": "team/bart", "revision": "def"},
}
CATALOGUE = {
    "dataset": {"source": "catalogue", "name": "reddit_tifu_long", "split": "pegasus"},
    "model": SCRATCH,
}
KNOWN = {
    "split_choice": "pegasus",
    "licence": "MIT for the collection",
    "citation": "Kim, Kim, Kim: Abstractive Summarization of Reddit Posts, NAACL 2019",
}


PROVENANCE = {
    "gpus": ["NVIDIA H200, 570"] * 8,
    "git": {"commit": "c0ffee", "modified": False},
    "packages": {"sumpipe": "0.9", "torch": "2.13.0", "deepspeed": "0.19.8"},
    "launch": {"world_size": 8, "ds_profile": "zero2.json"},
}


def figure(mean: float) -> JSON:
    return {"mean": mean, "low": mean - 0.0111, "high": mean + 0.0222}


def profile(base: float, headline_l: str) -> JSON:
    return {
        "settings": {
            "scorer": "rouge-score 0.1.2",
            "tokenizer": "a-z and 0-9",
            "stemmer": "Porter",
            "sentences": "newline",
            "document_sentences": "a line each",
            "postprocess": "none",
            "headline_l": headline_l,
            "interval": {"resamples": 1000, "seed": 17, "confidence": 0.95},
        },
        "systems": {
            system: {
                kind: {"precision": figure(0.9), "recall": figure(0.8), "fmeasure": figure(value)}
                for value, kind in zip((base, base / 2, base / 3, base / 1.5), KINDS, strict=True)
            }
            for system, base in (("model", base), ("lead", base - 0.1))
        },
    }


def rouge_json(**changed: Any) -> JSON:
    profiles = {"rouge-score": profile(0.45678, "rougeLsum"), "rouge155": profile(0.462, "rougeL")}
    return {
        "dataset": "news",
        "split_choice": None,
        "split": "test",
        "rows": 1234,
        "exact_match": 1 / 6,
        "profile": "rouge-score",
        "profiles": profiles,
        "measures": {"model": {"density": figure(2.5)}, "lead": {"density": figure(50.0)}},
        "systems": {system: {"label": label} for system, label in LABELS.items()},
        "warnings": [],
        **changed,
    }


def settings(fetch: JSON, changed: dict[str, JSON]) -> dict[str, JSON]:
    finetune = {"updates": 1000, **changed.get("finetune", {})}
    found = {
        "fetch": FetchConfig.model_validate(fetch),
        "clean": CleanConfig.model_validate(changed.get("clean", {})),
        "encode": EncodeConfig.model_validate(changed.get("encode", {})),
        "finetune": FinetuneConfig.model_validate(finetune),
        "generate": GenerateConfig.model_validate(changed.get("generate", {})),
    }
    # As they come back from a manifest: tuples are lists there.
    return {
        stage: json.loads(json.dumps(config.identity(), default=str))
        for stage, config in found.items()
    }


def facts(
    fetch: JSON = DEMO,
    *,
    known: JSON | None = None,
    rouge: JSON | None = None,
    expected: ExpectedConfig | None = None,
    card: CardConfig | None = None,
    trained: JSON | None = None,
    **changed: JSON,
) -> Facts:
    """A finished run as its card sees it."""
    metrics: dict[str, JSON] = {
        "fetch": known or {},
        "clean": {"rows_kept_train": 9000, "rows_kept_valid": 20, "rows_kept_test": 1234},
        "finetune": {
            "valid_nll_nats_per_token": 1.5,
            "updates": 1000,
            "epochs": 1.25,
            **(trained or {}),
        },
        "generate": {"share_stopped_by_length": 0.0345},
        "export": {"parameters": 1234567, "updates": "600 800 1000"},
        "encode": {},
    }
    configs = settings(fetch, changed)
    if fetch is CATALOGUE:  # what `identity` adds of the catalogue
        configs["fetch"]["dataset"] |= {"path": "ctr4si/reddit_tifu", "revision": "68cc"}
    inputs = {
        stage: Artifact(
            Path("nowhere") / stage,
            Manifest(
                schema_version=1,
                stage=stage,
                fingerprint="0" * 64,
                payload={"config": configs.get(stage, {}), "seed": 17},
                files={},
                metrics=metrics[stage],
                provenance=PROVENANCE if stage == "finetune" else {},
            ),
        )
        for stage in metrics
    }
    return Facts(
        name="tiny",
        inputs=inputs,
        rouge=rouge or rouge_json(),
        curve=({"update": 10, "seconds": 1800.0, "devices": 8},),
        expected=expected,
        card=card or CardConfig(),
    )


def test_the_front_matter_is_what_the_hub_s_own_code_reads() -> None:
    run = facts(HUB)
    card = ModelCard(model_card(run))
    written = card_metadata(run)
    assert card.data.eval_results == written.eval_results
    assert card.data.model_name == "tiny"
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict() == written.to_dict()
    assert card.data.to_dict()["base_model"] == "team/bart"
    assert card.data.to_dict()["datasets"] == ["team/news"]
    assert card.data.to_dict()["pipeline_tag"] == "summarization"
    assert card.data.to_dict()["license"] == "unknown", "by the Hub's name for that"
    assert "language" not in card.data.to_dict()


def test_licence_and_language_are_the_publisher_s() -> None:
    said = CardConfig(licence="cc-by-nc-4.0", language="no")
    text = model_card(facts(card=said))
    assert "- Licence: cc-by-nc-4.0\n- Language: no" in text
    data = ModelCard(text).data.to_dict()
    assert (data["license"], data["language"]) == ("cc-by-nc-4.0", "no"), (
        "not what YAML takes for false"
    )


@pytest.mark.parametrize(
    "wrong",
    [{"licence": "Apache 2"}, {"licence": ""}, {"language": "English"}, {"language": "e n"}],
)
def test_a_licence_and_a_language_have_the_hub_s_names(wrong: JSON) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CardConfig.model_validate(wrong)


def test_the_card_is_for_readers_who_have_not_the_run() -> None:
    text = model_card(facts())
    assert "--set" not in text and "report.expected" not in text and "--restart-from" not in text
    assert "- Hardware: 8 x NVIDIA H200, 4.00 GPU hours in updates\n" in text
    assert "- Made by: sumpipe 0.9, commit c0ffee, torch 2.13.0, deepspeed 0.19.8\n" in text


def test_the_devices_are_those_of_all_launches() -> None:
    run = facts(trained={"device": "NVIDIA A100", "rows_over_lane_tokens": 12})
    curve = [{"update": n, "seconds": 1800.0, "devices": count} for n, count in ((10, 64), (20, 8))]
    text = model_card(replace(run, curve=curve))
    assert "- Processes: 64, then 8; DeepSpeed profile of the last launch zero2.json\n" in text
    assert "- Hardware: 64, then 8 x NVIDIA A100, 36.0 GPU hours in updates\n" in text
    assert re.search(r"- Update: .* padded tokens; 12 longer rows alone in theirs\n", text)


def test_documents_in_two_splits_are_among_the_limits() -> None:
    told = "- 1 document of train is like one of test and stayed"
    assert told in model_card(replace(facts(), leaks={("train", "test"): 1}))
    assert "and stayed" not in model_card(facts())


def test_the_commit_that_was_fetched_is_named_instead_of_a_branch() -> None:
    run = facts(HUB, known={"dataset_commit": "1" * 40, "model_commit": "2" * 40})
    assert results(run)[0].dataset_revision == "1" * 40
    assert f"team/bart at revision {'2' * 40}" in model_card(run)


def test_files_of_a_local_model_are_counted_not_listed() -> None:
    files = {"config.json": "0" * 64, "my secret name.bin": "1" * 64}
    run = facts()
    run.inputs["fetch"].manifest.payload["config"]["model"] = {"source": "local", "path": files}
    text = model_card(run)
    assert "from a local directory (2 files)" in text and "secret" not in text


def results(run: Facts) -> list[EvalResult]:
    found = ModelCard(model_card(run)).data.eval_results
    assert found is not None
    return list(found)


def test_the_model_index_has_the_headline_profile_with_its_intervals() -> None:
    found = results(facts(HUB))
    assert [one.metric_value for one in found] == [45.68, 22.84, 15.23, 30.45]
    names = ["ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum"]
    assert [one.metric_name for one in found] == names
    assert found[0].metric_args == {
        "profile": "rouge-score",
        "stemmer": "Porter",
        "sentences": "newline",
        "confidence": 0.95,
        "low": 44.57,
        "high": 47.9,
    }
    where = found[0]
    assert (where.dataset_type, where.dataset_config) == ("team/news", "3.0.0")
    assert where.dataset_name == "team/news"
    assert (where.dataset_split, where.dataset_revision) == ("test", "abc")


def test_a_split_has_the_name_that_the_hub_gives_it() -> None:
    found = results(facts(HUB, rouge=rouge_json(split="valid")))
    assert found[0].dataset_split == "validation"


def test_a_set_of_the_catalogue_is_named_with_the_way_it_is_cut() -> None:
    run = facts(CATALOGUE, known=KNOWN, rouge=rouge_json(split_choice="pegasus"))
    found = results(run)[0]
    assert (found.dataset_type, found.dataset_revision) == ("ctr4si/reddit_tifu", "68cc")
    assert found.dataset_config is None, "our name for a set is no configuration of the Hub's"
    assert found.dataset_args == {"split_choice": "pegasus"}
    assert ModelCard(model_card(run)).data.to_dict()["datasets"] == ["ctr4si/reddit_tifu"]


def test_what_is_made_here_is_no_dataset_of_the_hub() -> None:
    run = facts(DEMO)
    assert results(run)[0].dataset_type == "demo"
    data = ModelCard(model_card(run)).data.to_dict()
    assert "datasets" not in data and "base_model" not in data
    assert "The data are synthetic" in model_card(run)


def test_every_system_stands_in_the_text_with_its_interval() -> None:
    text = model_card(facts())
    rouge = rouge_json()
    for found in rouge["profiles"].values():
        for system, figures in found["systems"].items():
            cells = " | ".join(
                f"{100 * one['mean']:.2f} ({100 * one['low']:.2f} to {100 * one['high']:.2f})"
                for one in (figures[kind]["fmeasure"] for kind in KINDS)
            )
            assert f"\n| {LABELS[system]} | {cells} |\n" in text
    assert "the 95 % interval of 1,000 bootstrap samples" in text
    assert "Profile `rouge-score` (rouge-score 0.1.2; " in text and "Profile `rouge155` (" in text
    assert re.search(r"\| Density, words \| 2\.500 .*\| 50\.000 ", text)
    assert "; sentences of documents (lead, oracle): a line each)" in text
    assert "1,234 rows of the test split" in text and "Exact match: 16.67 %" in text
    rows = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(rows)) == 2, "a cell too many or too few breaks a table"


def test_one_row_has_no_interval() -> None:
    text = model_card(facts(rouge=rouge_json(rows=1, warnings=[ONE_ROW])))
    assert "Mean F x 100 over 1 row of the test split, against raw references. Exact" in text
    assert f"- {ONE_ROW}\n" in text and "nterval" not in text.replace(ONE_ROW, "")
    assert " to 47.90" not in text
    found = ModelCard(text).data.eval_results
    assert found and not {"confidence", "low", "high"} & (found[0].metric_args or {}).keys()


def test_new_weights_are_not_called_fine_tuned() -> None:
    assert "1,234,567 parameters, trained from random weights by sumpipe" in model_card(facts())
    assert "1,234,567 parameters, fine-tuned by sumpipe" in model_card(facts(HUB))


def test_texts_of_others_stay_in_their_place() -> None:
    odd = "</details> a | b,\nand more"
    expected = ExpectedConfig(rouge1=44.38, source="<b>table 4")
    rouge = rouge_json()
    rouge["profiles"]["rouge-score"]["settings"]["postprocess"] = "<n> is &lt;"
    text = model_card(
        facts(known={"licence": odd, "citation": odd}, expected=expected, rouge=rouge)
    )
    assert text.count("&lt;n> is &amp;lt;") == 2, "in the profile's words and in its note"
    assert text.count("&lt;/details> a \\| b, and more\n") == 3
    assert (
        "| Published: &lt;b>table 4 | 44.38 |" in text and "<b>" not in text and "<n>" not in text
    )


def test_only_splits_that_were_used_are_counted() -> None:
    text = model_card(facts(generate={"split": "valid"}, rouge=rouge_json(split="valid")))
    assert "Rows used: 9,000 train, 20 valid. " in text


def test_many_epochs_and_no_noise_are_told_in_words() -> None:
    text = model_card(facts(trained={"epochs": 1234.5}, finetune={"r3f": {"noise": "none"}}))
    assert "- Updates: 1000 (1,230 epochs)\n" in text
    assert "- R3F: no noise: the passes differ in their dropout alone; lambda" in text


def test_the_training_is_told() -> None:
    average = {"weights": "average"}
    text = model_card(facts(finetune={"selection": average, "optimizer": {"lr": 3e-5}}))
    for told in (
        "BART summarization model with 1,234,567 parameters",
        "Rows used: 9,000 train, 20 valid, 1,234 test.",
        "- Updates: 1000 (1.25 epochs)\n",
        "peak learning rate 3e-05",
        "- Weights: the average of those after updates 600, 800 and 1,000\n",
        "- Seed: 17\n",
        "- Validation nll after the last update: 1.5000 nats per token",
    ):
        assert told in text


def test_a_training_that_stopped_early_is_not_told_as_whole() -> None:
    finetune = {"updates": 3000, "schedule": {"decay": "cosine"}}
    text = model_card(facts(finetune=finetune, trained={"stopped_early": True}))
    assert "- Updates: 1000 of 3000, stopped early (1.25 epochs)\n" in text
    assert "then cosine decay to 0\n" in text


def test_the_weights_that_were_scored_and_updates_left_out_are_told() -> None:
    trained = {"chosen_nll_nats_per_token": 1.25, "skipped_updates": 3, "overflowed_updates": 1}
    run = facts(finetune={"selection": {"weights": "best", "every": 10}}, trained=trained)
    run.inputs["export"].manifest.metrics["updates"] = "600"
    text = model_card(run)
    told = "- Weights: the best by validation nll, after update 600, validation nll 1.2500 nats per token\n"
    assert told in text
    assert "- Skipped, as their loss or gradient was not finite: 3 updates.\n" in text
    assert "- Dropped by loss scaling, as they overflowed fp16: 1 update.\n" in text


def test_a_published_result_is_in_the_text_only() -> None:
    expected = ExpectedConfig(rouge1=44.38, rouge2=21.53, rougeLsum=41.17, source="table 4")
    text = model_card(facts(expected=expected))
    assert "\n| Published: table 4 | 44.38 | 21.53 | - | 41.17 |\n" in text
    assert "44.38" not in text.split("\n---\n")[0], "only what was measured is metadata"


def test_licence_and_citation_of_the_data_are_told_where_they_are_known() -> None:
    text = model_card(facts(CATALOGUE, known=KNOWN))
    assert f"- Licence of the data: {KNOWN['licence']}\n" in text
    assert text.count(KNOWN["citation"]) == 2, "with the data, and among the works to cite"
    text = model_card(facts(HUB))
    assert "- Licence of the data: unknown\n- Citation of the data: unknown\n" in text
    assert "- Licence: unknown\n- Language: unknown\n" in text


def test_the_paper_is_cited_where_its_method_was_used() -> None:
    for weight, is_cited in ((0.1, True), (0.0, False)):
        text = model_card(facts(finetune={"r3f": {"lambda": weight}}))
        assert ("Reducing Representational Collapse, ICLR 2021" in text) == is_cited
        assert ("- R3F: off (lambda 0)\n" in text) == (not is_cited)
        assert "(arXiv 1910.13461)" in text


def test_warnings_about_the_figures_are_among_the_limits() -> None:
    warning = "31 % of the letters of the references are dropped"
    limits = model_card(facts(rouge=rouge_json(warnings=[warning]))).split("## Limits")[1]
    assert f"- {warning}\n" in limits and "3.45 % of the summaries" in limits


def test_without_measures_none_are_spoken_of() -> None:
    assert "Beyond ROUGE" not in model_card(facts(rouge=rouge_json(measures={})))


def test_the_card_says_where_its_code_differs_from_the_run() -> None:
    assert "Where it differs" not in model_card(facts())
    text = model_card(
        facts(
            clean={"rules": ["cnn_dateline", "join_lines"]},
            encode={"truncation": "sentences"},
            generate={"profile": "fairseq"},
        )
    )
    assert (
        "Where it differs from the run: documents were also cleaned by cnn_dateline, join_lines; long "
        "documents were cut otherwise (`sentences`, not their head kept); beams were ranked by the rules "
        "of fairseq." in text
    )


def test_a_pushed_card_loads_the_model_from_its_repository() -> None:
    text = for_repository(model_card(facts()), "team/news")
    assert 'name = "team/news"\n' in text and "export/model" not in text
    of_branch = for_repository(model_card(facts()), "team/news", "v2")
    assert of_branch.count('.from_pretrained(name, revision="v2")') == 2
    assert "from_pretrained(name)" not in of_branch
    with pytest.raises(ValueError, match="where the model is"):
        for_repository(text, "team/news")


WORDS = ["a", "few", "words", "to", "train", "on", "and", "over"]


def test_the_code_of_the_card_runs_and_summarises_as_the_command_does(
    tmp_path: Path, sumpipe: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ScratchModel(
        source="scratch", d_model=16, layers=1, heads=2, ffn=16, max_positions=32, init_std=0.5
    )
    pretrained = tmp_path / "pretrained"
    pretrained.mkdir()
    tokenizer = train_bpe([" ".join(WORDS)] * 3, 300, pretrained)
    for seed in (1, 2):
        model = new_model(shape, len(tokenizer), seed=seed).eval()
        if seed == 1:
            model.save_pretrained(pretrained)
    last = model.model.decoder.layers[-1].final_layer_norm.weight
    with torch.no_grad():  # else it repeats its input tokens, whose embedding is the output's too
        last.copy_(torch.randn(last.shape, generator=torch.Generator().manual_seed(3)))
    context = new_context(tmp_path / "run", pretrained, model)
    rules = DecodingRules(num_beams=3, min_length=4, max_length=12, no_repeat_ngram_size=2)
    export(ExportSettings(decoding=rules), context)
    folder = context.work / "model"
    document = " ".join(WORDS * 8) + " </s> a few"
    file = tmp_path / "document.txt"
    file.write_text(document, encoding="utf-8")
    expected = sumpipe("summarize", folder, file, "--quiet")
    assert expected.code == 0, expected.err
    code = for_repository(usage_code(32), str(folder)).replace('"..."', repr(document))
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out == expected.out
    assert len(set(expected.out.strip())) > 3, "a summary of one letter says little"
