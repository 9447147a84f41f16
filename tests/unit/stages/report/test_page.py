"""The page: figures as scored, text escaped, nothing loaded from elsewhere, and what is missing said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.config import JSON
from stages.pages import run_page
from stages.report.config import ExpectedConfig, ReportConfig
from stages.report.run import run
from tests.unit.stages.report.builders import (
    HUB,
    LABELS,
    ONE_ROW,
    ROUGE_TYPES,
    ROWS,
    STAGES,
    Row,
    begin,
    figure,
    lines,
    new_run,
    profile,
    records,
    report_context,
    rouge_json,
    write_launches,
)
from tests.unit.stages.report.reading import assert_whole, rows_of, text_of

PUBLISHED = {"rouge1": 44.38, "rouge2": 21.5, "rougeLsum": 41.17, "source": "<table> 4"}


def test_every_figure_of_rouge_json_is_on_the_page_with_its_interval(tmp_path: Path) -> None:
    page = run_page(new_run(tmp_path / "run").root)
    systems = rouge_json()["profiles"]["rouge-score"]["systems"]
    found = rows_of(page, "rouge-score: F x 100")
    for system, means in systems.items():
        cells = [
            f"{100 * one['mean']:.2f}<small>{100 * one['low']:.2f}–{100 * one['high']:.2f}</small>"  # noqa: RUF001
            for one in (means[kind]["fmeasure"] for kind in ROUGE_TYPES)
        ]
        assert found[LABELS[system].replace("'", "&#39;")] == cells
    told = text_of(page)
    assert "16.67 % of the model's summaries" in told
    assert "rouge-score 0.1.2; words: lower case, runs of a-z and 0-9; stemming: Porter" in told
    assert "31.27 where rouge-score gives 30.94" in told, "papers mix the two"


def test_a_published_result_stands_right_below_the_run_s_and_is_called_so(tmp_path: Path) -> None:
    page = run_page(new_run(tmp_path / "run", report={"expected": PUBLISHED}).root)
    found = rows_of(page, "rouge-score: F x 100")
    assert list(found)[1] == "Published: &lt;table&gt; 4"
    assert found["Published: &lt;table&gt; 4"] == ["44.38", "21.50", "-", "41.17"]
    assert "The published row is quoted, not measured" in text_of(page)


def test_without_a_published_result_that_is_said(tmp_path: Path) -> None:
    told = text_of(run_page(new_run(tmp_path / "run").root))
    assert "No published result is given" in told and "Published" not in told


@pytest.mark.parametrize(
    "wrong", [{"rouge1": 101.0}, {"rouge2": -1.0}, {"source": "a|b"}, {"source": ""}]
)
def test_a_published_result_is_in_percent_and_its_source_one_cell(wrong: JSON) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ExpectedConfig.model_validate({"rouge1": 40.0, "source": "table 4", **wrong})


def test_several_profiles_are_said_not_to_compare(tmp_path: Path) -> None:
    profiles = {
        "rouge-score": profile({"model": 0.45, "lead": 0.3}),
        "rouge155": profile({"model": 0.4567, "lead": 0.31}),
    }
    rouge = rouge_json(profiles=profiles)
    page = run_page(new_run(tmp_path / "run", rouge=rouge, report={"expected": PUBLISHED}).root)
    told = text_of(page)
    assert "Figures of different profiles (rouge-score and rouge155) do not compare." in told
    assert "rouge155: These figures compare with those of the Perl script ROUGE-1.5.5" in told
    assert "rouge-score: Most papers use the Perl script" in told
    assert told.count("ROUGE-Lsum compares only where") == 1, "it is so for all"
    tiles = text_of(page).partition(" Results ")[0]
    assert re.search(r"ROUGE-1 45\.00 \S+ rouge155: 45\.67 published: 44\.38", tiles), (
        "like with like"
    )
    assert rows_of(page, "rouge155: F x 100")["Model"][0].startswith("45.67")
    assert "Published: &lt;table&gt; 4" in rows_of(page, "rouge155: F x 100")


@pytest.mark.parametrize("headline", ["rouge155", "unicode"])
def test_every_profile_beside_a_published_row_says_what_it_compares_with(
    tmp_path: Path, headline: str
) -> None:
    profiles = {name: profile({"model": 0.45}) for name in ("rouge155", "rouge-score", "unicode")}
    profiles["unicode"]["settings"]["stemmer"] = "none"
    rouge = rouge_json(profile=headline, profiles=profiles)
    page = run_page(new_run(tmp_path / "run", rouge=rouge, report={"expected": PUBLISHED}).root)
    told = text_of(page)
    assert "rouge-score: Most papers use" in told and "31.27 where rouge-score gives 30.94" in told
    assert "unicode: No figures of papers compare with these" in told
    beside = {
        name: "Published: &lt;table&gt; 4" in rows_of(page, f"{name}: F x 100") for name in profiles
    }
    assert beside == {"rouge155": True, "rouge-score": headline == "unicode", "unicode": False}
    assert "published: 44.38" in told and ">44.38</text>" in page, "as rouge155 is in the tile"


def test_what_no_profile_compares_with_is_not_set_beside_its_figures(tmp_path: Path) -> None:
    one = profile({"model": 0.45})
    one["settings"] |= {"stemmer": "none", "tokenizer": "NFKC, words"}
    rouge = rouge_json(profile="unicode", profiles={"unicode": one})
    told = text_of(
        run_page(new_run(tmp_path / "run", rouge=rouge, report={"expected": PUBLISHED}).root)
    )
    assert "44.38" not in told
    assert "A published result (&lt;table&gt; 4) is known and not shown: no profile" in told
    assert "Score with the profile rouge155" in told and "The published row is quoted" not in told


def test_warnings_of_the_scores_are_told(tmp_path: Path) -> None:
    rouge = rouge_json(warnings=["30 % of the letters are <dropped>"])
    told = text_of(run_page(new_run(tmp_path / "run", rouge=rouge).root))
    assert "Before you trust these figures 30 % of the letters are &lt;dropped&gt;" in told


def test_text_of_the_corpus_is_escaped(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", name="<b>&name")
    page = run_page(run_dir.root)
    assert_whole(page)
    assert "<b>" not in page and "<i>" not in page
    assert "&lt;b&gt;&amp;&lt;/b&gt;&lt;script&gt;" in page and "{{ 7 * 7 }}" in page
    assert "\N{GRINNING FACE}" in page and "guess &amp; " in page
    assert "<h1>&lt;b&gt;&amp;name</h1>" in page


def test_the_page_is_whole_html_that_loads_nothing(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", fetch=HUB)
    write_launches(run_dir)
    found = assert_whole(run_page(run_dir.root))
    charts = [attributes for tag, attributes in found if tag == "svg"]
    described = [a for a in charts if a.get("role") == "img" and a.get("aria-label")]
    assert len(described) == 3 + 6 + 3
    assert all(a in described or a.get("aria-hidden") == "true" for a in charts)


def test_the_stage_and_the_command_write_the_same_page_twice(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run")
    context = report_context(run_dir)
    metrics = run(ReportConfig(), context)
    before = {path.name: path.read_bytes() for path in context.work.iterdir()}
    run(ReportConfig(), context)
    assert {path.name: path.read_bytes() for path in context.work.iterdir()} == before
    assert before["index.html"].decode() == run_page(run_dir.root)
    assert metrics == {"examples": len(ROWS), "page_bytes": len(before["index.html"])}


def test_rows_are_accounted_for_with_the_causes_of_losses(tmp_path: Path) -> None:
    rows = (*ROWS[:4], ROWS[4]._replace(stop="length"), ROWS[5]._replace(prediction=" "))
    page = run_page(new_run(tmp_path / "run", rows).root)
    found = rows_of(page, "Every row from the source")
    assert found["Fetched"] == ["9,000", "2", "7"]
    assert found["left out: duplicate"] == ["10<small>0.11 %</small>", "0", "0"]
    assert found["like another row of the split, kept"] == ["0"] * 3
    assert found["left out: empty summary"] == ["0", "0", "1<small>14.29 %</small>"]
    assert found["Kept"][2] == "6<small>85.71 %</small>"
    assert found["tokens of documents lost"][0] == "1,234<small>50.00 %</small>"
    assert found["ended by the length limit"] == ["-", "-", "1<small>16.67 %</small>"]
    assert "(below Summarised: of summarised rows)" in text_of(page)
    assert found["without text"] == ["-", "-", "1<small>16.67 %</small>"]
    assert found["Scored"] == ["-", "-", "6"]
    steps = re.findall(r'class="step"><th role="rowheader" scope="row">(.*?)<', page)
    assert steps == ["Fetched", "Kept", "Summarised", "Scored"]


def test_lengths_are_those_of_the_encoded_rows(tmp_path: Path) -> None:
    rows = [Row("word " * n, "a b c", "x", 0.5, tokens=n) for n in range(1, 1001)]
    found = rows_of(run_page(new_run(tmp_path / "run", rows).root), "Tokens of each text")
    quantiles = [f"{value:,.0f}" for value in np.quantile(range(1, 1001), (0, 0.5, 0.9, 0.99, 1))]
    assert found["Documents, test"] == found["Generated, test"] == quantiles
    assert found["References, train"] == ["3"] * 5


def test_the_cost_adds_up_over_launches(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run")
    aside = run_dir.committed("finetune") / "metrics.set_aside.jsonl"
    aside.write_text(lines([{"update": 20, "loss": 1.0, "seconds": 3600.0}]), encoding="utf-8")
    told = text_of(run_page(run_dir.root))
    # 5 records of 30 s and 50 tokens a second on 4 devices, and an hour that was done again
    assert f"GPU hours {(5 * 30 + 3600) * 4 / 3600:.2f} " in told
    assert "Tokens about 7,500, 500 of them targets" in told
    assert "Lost to interruptions 1 h 00 min" in told
    assert "Peak memory not recorded" in told


def test_launches_on_other_devices_cost_what_they_had(tmp_path: Path) -> None:
    curve = records()
    for record, count in zip(curve, (64, 64, 8, 8, 8), strict=False):
        record |= {"devices": count, "seconds": 36_000.0}
    told = text_of(run_page(new_run(tmp_path / "run", curve=curve).root))
    assert "in bf16 on 64, then 8 x H200." in told, "not the last launch's for all"
    assert "zero2.json, of the last launch" in told
    assert f"GPU hours {(2 * 64 + 3 * 8) * 10:,} " in told, "and no power of ten"
    assert "Devices 64, then 8 " in told


def test_memory_without_a_gpu_is_said_to_be_the_host_s(tmp_path: Path) -> None:
    for name, gpus, where in (("a", (), "of host memory"), ("b", ("H200, 570",), "of the GPU")):
        run_dir = new_run(tmp_path / name, gpus=gpus, trained={"peak_memory_bytes": 3 << 30})
        assert f"Peak memory 3.00 GiB {where}" in text_of(run_page(run_dir.root))


@pytest.mark.parametrize(
    ("device", "gpus", "on", "hours"),
    [
        ("NVIDIA H200", (), "on 4 x NVIDIA H200.", "GPU hours"),
        ("cpu", ("H200, 570",), "on 4 CPU processes.", "Process hours (no GPU)"),
    ],
    ids=["no nvidia-smi", "GPUs that were not used"],
)
def test_the_device_is_what_training_recorded(
    tmp_path: Path, device: str, gpus: tuple[str, ...], on: str, hours: str
) -> None:
    run_dir = new_run(tmp_path / "run", gpus=gpus, trained={"device": device})
    told = text_of(run_page(run_dir.root))
    assert on in told and hours in told


BEST = {"selection": {"weights": "best", "every": 10, "patience": 2}}


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "from the curve"])
def test_the_best_weights_are_told_with_their_own_nll(tmp_path: Path, is_recorded: bool) -> None:
    curve = [*records(), {"update": 30, "valid/nll": 1.234, "valid/accuracy": 0.4}]
    trained = {"stopped_early": True, "skipped_updates": 2, "overflowed_updates": 1}
    if is_recorded:
        trained |= {"chosen_nll_nats_per_token": 1.234}
    run_dir = new_run(tmp_path / "run", finetune=BEST, trained=trained, exported="30", curve=curve)
    told = text_of(run_page(run_dir.root))
    assert "Validation nll 1.234 nats per token, best weights, update 30" in told
    assert (
        "Stopped early, after 50 of 1,000 updates: 2 candidates in a row brought no better" in told
    )
    assert (
        "Trained from random weights for 50 updates of 1,000, stopped early (1.25 epochs)" in told
    )
    assert "not finite: 2 updates." in told and "overflowed fp16: 1 update." in told
    assert "scored: the best by validation nll, after update 30; validation nll 1.2340 nats" in told


def test_an_average_has_no_nll_and_says_so(tmp_path: Path) -> None:
    finetune = {"selection": {"weights": "average", "every": 10}}
    run_dir = new_run(tmp_path / "run", finetune=finetune, exported="30 40 50")
    told = text_of(run_page(run_dir.root))
    assert (
        "the average of those after updates 30, 40 and 50; their own validation nll was not measured"
        in told
    )
    assert "Validation nll 1.500 nats per token, after the last update" in told


LANGUAGES = ("\u0645\u0631\u062d\u0628\u0627 \u0628\u0643", "\u05e9\u05dc\u05d5\u05dd")


def test_texts_have_the_direction_of_their_letters_and_no_raw_control_characters(
    tmp_path: Path,
) -> None:
    arabic, hebrew = LANGUAGES
    row = Row(f"{arabic}\x00\x1b\x85 \ud83d", f"{hebrew}\r\n", arabic, 0.5)
    page = run_page(new_run(tmp_path / "run", [row]).root)
    found = assert_whole(page)
    directed = [tag for tag, attributes in found if attributes.get("dir") == "auto"]
    assert directed == ["span", "dd", "dd", "p"]
    assert '<bdi class="id">test-0</bdi>' in page
    assert f"{arabic}\u2400\u241b\\x85 \\ud83d" in page and f"{hebrew}\u240d\n" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", page)


def test_long_texts_are_cut_and_said_to_be(tmp_path: Path) -> None:
    row = Row("d " * 500_000, "r" * 1_000_000, "p " * 500_000, 0.5)
    page = run_page(new_run(tmp_path / "run", [row]).root)
    assert_whole(page)
    assert len(page.encode()) < 100_000
    told = text_of(page)
    assert "Reference: the first 4,000 of 1,000,000 characters" in told
    assert "Prediction: the first 3,999 of 1,000,000 characters" in told


@pytest.mark.parametrize(
    ("published", "catalogue", "label"),
    [
        ({"rougeL": 36.56}, None, "ROUGE-L"),
        ({"rougeLsum": 41.17}, "rougeL", "ROUGE-Lsum"),
        ({}, "rougeL", "ROUGE-L"),
        ({}, None, "ROUGE-Lsum"),
    ],
    ids=["published L", "published Lsum", "catalogue", "profile"],
)
def test_the_headline_has_the_l_that_papers_publish_of_the_set(
    tmp_path: Path, published: JSON, catalogue: str | None, label: str
) -> None:
    report = {"expected": {"rouge1": 40.45, "source": "table 4", **published}} if published else {}
    fetched = {"rouge_l": catalogue} if catalogue else {}
    page = run_page(new_run(tmp_path / "run", report=report, fetched=fetched).root)
    tiles = re.findall(r"<dt>(ROUGE-\w+)</dt>", page)
    charts = re.findall(r"<figure><strong>(ROUGE-\w+)</strong>(.*?)</figure>", page, re.DOTALL)
    assert tiles[2] == charts[2][0] == label
    for value in published.values():
        assert f">{value:.2f}</text>" in charts[2][1], "the published figure is in the chart"
        assert f"published: {value:.2f}" in page
    assert f"{label.replace('ROUGE-', 'R-')}\xa050.00" in page, "beside the examples too"


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("rouge-score", {}, "31.27 where rouge-score gives 30.94"),
        ("pegasus", {"postprocess": "<n> is a line break"}, "31.27 where rouge-score gives 30.94"),
        ("pegasus", {"postprocess": "<n> is a line break"}, "Predictions are changed before"),
        (
            "unicode",
            {"stemmer": "none", "tokenizer": "NFKC, words"},
            "No figures of papers compare",
        ),
        (
            "rouge155",
            {"wordnet_sha256": "0"},
            "These figures compare with those of the Perl script",
        ),
    ],
)
def test_every_headline_says_what_it_compares_with(
    tmp_path: Path, name: str, changed: JSON, told: str
) -> None:
    one = profile({"model": 0.4, "lead": 0.3})
    one["settings"] |= {**changed, "sentences": "punkt"}
    rouge = rouge_json(profile=name, profiles={name: one})
    found = text_of(run_page(new_run(tmp_path / "run", rouge=rouge).root))
    assert told in found and "sentences end in the same places (here: punkt)" in found
    assert ("--set &#39;score.profiles=" in found) == (name != "rouge155")


def test_measures_of_fewer_rows_say_of_how_many(tmp_path: Path) -> None:
    measures = {
        "model": {"density": {**figure(2.5), "rows": 4}, "coverage": {**figure(0.5), "rows": 6}}
    }
    page = run_page(new_run(tmp_path / "run", rouge=rouge_json(measures=measures)).root)
    assert {"Density, words (4 rows)", "Coverage, %"} <= rows_of(
        page, "Means; 95 % interval"
    ).keys()


def test_the_figures_of_bertscore_are_told_with_what_they_depend_on(tmp_path: Path) -> None:
    measures = {"model": {"bertscore_f": figure(0.9)}}
    bertscore = {
        "scorer": "bert-score 0.3.13",
        "model": "roberta-<large>",
        "layer": 17,
        "idf": False,
        "rescaled_with_baseline": False,
        "tokens_seen": 512,
    }
    rouge = rouge_json(measures=measures, bertscore=bertscore)
    told = (
        "BERTScore: bert-score 0.3.13, layer 17 of roberta-{}large{}, not rescaled with a baseline, "
        "without idf weights, the first 512 tokens of each text."
    )
    run_dir = new_run(tmp_path / "run", rouge=rouge)
    assert told.format("&lt;", "&gt;") in text_of(run_page(run_dir.root))
    context = report_context(run_dir)
    run(ReportConfig(), context)
    assert told.format("&lt;", ">") in (context.work / "README.md").read_text(encoding="utf-8")
    for name, changed in (("none", {"bertscore": None}), ("older", {})):
        run_dir = new_run(tmp_path / name, rouge=rouge_json(measures=measures, **changed))
        assert "BERTScore:" not in text_of(run_page(run_dir.root))


def test_the_licence_of_the_data_is_told(tmp_path: Path) -> None:
    told = text_of(run_page(new_run(tmp_path / "a", fetched={"licence": "CC BY 4.0"}).root))
    assert "Licence of the data CC BY 4.0 To be cited as not known" in told


def test_where_generated_summaries_end_is_told_beside_the_limit_of_references(
    tmp_path: Path,
) -> None:
    told = text_of(run_page(new_run(tmp_path / "run").root))
    assert "generated ones end at 142 tokens, the start token included" in told


def test_a_perl_profile_that_changes_predictions_says_so(tmp_path: Path) -> None:
    profiles = {name: profile({"model": 0.4}) for name in ("rouge-score", "gigaword-unilm")}
    profiles["gigaword-unilm"]["settings"]["postprocess"] = "each 1 becomes #"
    rouge = rouge_json(profiles=profiles)
    told = text_of(run_page(new_run(tmp_path / "run", rouge=rouge).root))
    assert (
        "gigaword-unilm: Predictions are changed before they are scored (each 1 becomes #)" in told
    )


def test_a_warm_start_is_marked(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", finetune={"warm_start": {"share": 0.03}})
    page = run_page(run_dir.root)
    assert "(1.25 epochs), the first 30 a warm start on masked documents, with R3F" in page
    assert '<path class="rule warm" d="M' in page and "end of the warm start" in page


def test_a_warm_start_has_no_more_updates_than_were_done(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", done=STAGES[:3])
    work = begin(run_dir, "finetune", {"warm_start": {"share": 0.03}})
    (work / "metrics.jsonl").write_text(lines(records([5])), encoding="utf-8")
    told = text_of(run_page(run_dir.root))
    assert "for 5 of 1,000 updates so far, the first 5 a warm start on masked documents" in told


def test_the_table_of_a_chart_has_both_curves_from_their_first_to_their_last(
    tmp_path: Path,
) -> None:
    trained = records(range(10, 10_010, 10))[:-1]
    valid = [{"update": n, "valid/nll": n / 1000} for n in range(1007, 10_000, 1000)]
    page = run_page(new_run(tmp_path / "run", curve=[*trained, *valid]).root)
    found = rows_of(page, "Negative log-likelihood")
    of_training, of_validation = zip(*found.values(), strict=True)
    assert [cell for cell in of_validation if cell != "-"] == [
        f"{n / 1000 + 0.007:.4g}" for n in range(1000, 10_000, 1000)
    ]
    assert {n: cell for n, cell in zip(found, of_training, strict=True) if cell != "-"} == {
        "10": "0.8",
        "5,010": "0.001597",
        "10,000": "0.0008",
    }
    assert next(iter(found)) == "10" and [*found][-1] == "10,000" and len(found) <= 14


def test_an_update_past_a_million_is_told_in_full(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", curve=records([1_000_000, 1_234_567]))
    found = rows_of(run_page(run_dir.root), "Negative log-likelihood")
    assert list(found) == ["1,000,000", "1,234,567"]


def test_r3f_that_is_off_is_said_to_be(tmp_path: Path) -> None:
    told = text_of(run_page(new_run(tmp_path / "run", finetune={"r3f": {"lambda": 0.0}}).root))
    assert "without R3F" in told
    assert "symmetric KL" not in told, "older ones have recorded a KL of 0 that nobody measured"
    assert "Training nll is measured while training, with dropout;" in told


@pytest.mark.parametrize(
    ("finetune", "how"),
    [
        ({}, "with dropout"),
        ({"dropout": 0.0, "attention_dropout": 0.0}, "without dropout"),
        ({"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.1}, "with dropout"),
    ],
)
def test_how_training_values_are_measured_is_said(tmp_path: Path, finetune: JSON, how: str) -> None:
    told = text_of(run_page(new_run(tmp_path / "run", finetune=finetune).root))
    assert f"training, {how} validation" in told, "in the legend"
    assert f"while training, of the pass without noise, {how};" in told


def test_r3f_without_noise_is_said_to_have_none(tmp_path: Path) -> None:
    finetune = {"r3f": {"noise": "none", "lambda": 0.01}}
    told = text_of(run_page(new_run(tmp_path / "run", finetune=finetune).root))
    assert "with R3F (lambda 0.01, no noise: the passes differ in their dropout alone)" in told
    assert "No noise: the passes differ in their dropout alone; lambda 0.01" in told


@pytest.mark.parametrize(("reduction", "per"), [("token", "target token"), ("fairseq", "summary")])
def test_the_kl_has_the_unit_of_its_reduction(tmp_path: Path, reduction: str, per: str) -> None:
    finetune = {"r3f": {"noise": "none", "lambda": 1.0, "reduction": reduction}}
    told = text_of(run_page(new_run(tmp_path / "run", finetune=finetune).root))
    assert f"R3F symmetric KL nats per {per}, before lambda" in told
    assert "noised pass" not in told


def test_settings_and_origin_are_on_the_page(tmp_path: Path) -> None:
    told = text_of(run_page(new_run(tmp_path / "run").root))
    assert "version 1, seed 17, fingerprint" in told
    assert "&#34;label_smoothing&#34;: 0.1" in told
    assert "c0ffee (files differ from it)" in told and "node-7" in told
    others = "fetch, clean, encode, export, generate, score"
    assert f"none ({others}); H200, 570 (finetune)" in told


@pytest.mark.parametrize(
    ("splits", "scored", "harm"),
    [
        (("train", "test"), "test", "the figures may be of what training has seen."),
        (("train", "valid"), "valid", "the figures may be of what training has seen."),
        (
            ("train", "valid"),
            "test",
            "the validation nll may be of what training has seen; so may the figures where such a document "
            "is like one of test too (only the one that it is most like is counted).",
        ),
        (("valid", "test"), "test", "weights chosen by validation may suit"),
        (
            ("train", "test"),
            "valid",
            "the figures may be of what training has seen where such a document is like one of valid too "
            "(only the one that it is most like is counted).",
        ),
        (("valid", "test"), "valid", "no figure here is of them."),
    ],
)
def test_what_documents_of_two_splits_do_to_the_figures(
    tmp_path: Path, splits: tuple[str, str], scored: str, harm: str
) -> None:
    rouge = rouge_json(split=scored)
    told = text_of(run_page(new_run(tmp_path / "run", rouge=rouge, leaks=[(*splits, 3)]).root))
    stayed = f"3 documents of {splits[0]} are like some of {splits[1]} and stayed"
    assert f"{stayed} (clean.duplicates.on_leak report): {harm}" in told


def test_rows_that_stand_in_two_splits_are_told_before_the_figures(tmp_path: Path) -> None:
    cleaned = {"duplicates_train": 10, "duplicates_valid": 0, "duplicates_test": 2}
    leaks = [("train", "valid", 1), ("train", "test", 3)]
    page = run_page(new_run(tmp_path / "run", cleaned=cleaned, leaks=leaks).root)
    told = text_of(page)
    assert "Before you trust these figures 3 documents of train are like some of test" in told
    assert "1 document of train is like one of valid" in told
    found = rows_of(page, "Every row from the source")["like another row of the split, kept"]
    assert [cell.partition("<")[0] for cell in found] == ["10", "0", "2"]


def test_rows_that_are_in_no_split_are_told(tmp_path: Path) -> None:
    page = run_page(new_run(tmp_path / "run", fetched={"rows_left_out": 1234}).root)
    found = rows_of(page, "Every row from the source")
    assert next(iter(found)) == "left out by the set&#39;s definition: 1,234, of no split"


def test_a_published_row_of_other_rows_is_said_to_be(tmp_path: Path) -> None:
    rouge = rouge_json(split="valid", rows=6)
    run_dir = new_run(tmp_path / "run", rouge=rouge, report={"expected": PUBLISHED})
    told = text_of(run_page(run_dir.root))
    assert "These figures are of the valid split, published ones of the test split." in told
    assert "does not know whether the published row is of the same set" in told
    run_dir = new_run(tmp_path / "test", report={"expected": PUBLISHED})
    told = text_of(run_page(run_dir.root))
    assert "published ones of the test split" not in told
    assert "6 of the 7 rows of the test split were scored, published figures are of all." in told


def test_a_set_that_was_taken_unchecked_is_not_passed_off_as_the_published_one(
    tmp_path: Path,
) -> None:
    dataset = {"source": "catalogue", "name": "reddit_tifu_long", "split": "pegasus"}
    run_dir = new_run(
        tmp_path / "run",
        fetch={"dataset": dataset, "model": {"source": "scratch"}},
        report={"expected": PUBLISHED},
    )
    told = text_of(run_page(run_dir.root))
    assert "The set is cut as `pegasus`" in told and "check_rows" not in told
    recipe = json.loads(run_dir.recipe.read_text(encoding="utf-8"))
    recipe["fetch"] = {"dataset": {**dataset, "check_rows": False}}
    run_dir.recipe.write_text(json.dumps(recipe), encoding="utf-8")
    told = text_of(run_page(run_dir.root))
    assert "was not asked for (fetch.dataset.check_rows false)" in told


def test_in_a_chart_the_published_figure_has_its_like_beside_it(tmp_path: Path) -> None:
    profiles = {
        name: profile({"model": f}) for name, f in (("rouge-score", 0.45), ("rouge155", 0.46))
    }
    rouge = rouge_json(profiles=profiles)
    page = run_page(new_run(tmp_path / "run", rouge=rouge, report={"expected": PUBLISHED}).root)
    chart = re.search(r"<figure><strong>ROUGE-1</strong>(.*?)</figure>", page, re.DOTALL)
    assert chart
    found = re.findall(r'class="(?:name|value)"[^>]*>([^<]*)<', chart[1])
    assert found == ["Model", "45.00", "Model, rouge155", "46.00", "Published", "44.38"]


def test_the_commit_that_was_fetched_is_told_instead_of_a_branch(tmp_path: Path) -> None:
    fetched = {"dataset_commit": "1" * 40, "model_commit": "2" * 40}
    told = text_of(run_page(new_run(tmp_path / "run", fetch=HUB, fetched=fetched).root))
    assert f"team/bart at revision {'2' * 12}" in told
    assert f"team/news 3.0.0 at revision {'1' * 12}" in told


def test_files_are_counted_not_listed(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", done=STAGES[:1])
    manifest = run_dir.committed("fetch") / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    checksums = {f"train.{number}.jsonl": "0" for number in range(500)}
    content["payload"]["config"]["dataset"] = {"source": "local", "path": checksums}
    manifest.write_text(json.dumps(content), encoding="utf-8")
    told = text_of(run_page(run_dir.root)).partition("Results")[0]
    assert "Data: local files (500 files)" in told and "train.7" not in told


def test_how_a_summary_ended_is_told_in_words(tmp_path: Path) -> None:
    stops = ("eos", "length", "empty", "failed: out of memory")
    rows = [row._replace(stop=stop) for row, stop in zip(ROWS, stops, strict=False)]
    page = run_page(new_run(tmp_path / "run", rows).root)
    found = set(re.findall(r"<dt>Prediction(.*?)</dt>", page))
    assert found == {
        "",
        " (ended by the length limit)",
        " (of an empty document)",
        " (failed: out of memory)",
    }


def test_texts_have_their_language_where_it_is_known(tmp_path: Path) -> None:
    report = {"card": {"language": "de"}}
    found = assert_whole(run_page(new_run(tmp_path / "run", ROWS[:1], report=report).root))
    tags = [tag for tag, attributes in found if attributes.get("lang") == "de"]
    assert tags == ["span", "dd", "dd", "p"]
    found = assert_whole(run_page(new_run(tmp_path / "unknown", ROWS[:1]).root))
    tags = [tag for tag, attributes in found if attributes.get("lang") == ""]
    assert tags == ["span", "dd", "dd", "p"], "not the page's English"


def test_one_example(tmp_path: Path) -> None:
    rouge = rouge_json(rows=1, warnings=[ONE_ROW])
    page = run_page(new_run(tmp_path / "run", ROWS[:1], rouge=rouge).root)
    assert_whole(page)
    told = text_of(page)
    assert "One row was scored: there are no intervals" in told and "mean over 1 row of" in told
    assert told.count(ONE_ROW) == 1
    others = told.replace(ONE_ROW, "").replace("there are no intervals", "")
    others = others.rpartition(" Provenance ")[0]
    assert "Beside ROUGE" in others and "nterval" not in others, "neither promised nor drawn"
    assert not re.search(r"<small>[\d.]+–", page), "and no bounds are shown"  # noqa: RUF001
    assert "Best by ROUGE" in told and "Worst by ROUGE" not in told


def test_a_set_as_large_as_cnn_dailymail_stays_below_a_megabyte(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(2000)]
    texts = [" ".join(words[n : n + 700]) for n in range(1000)]
    summaries = [" ".join(words[n : n + 60]) for n in range(1000)]
    rows = [
        Row(texts[n % 1000], summaries[(n + 9) % 1000], summaries[n % 1000], n / 11_490)
        for n in range(11_490)
    ]
    curve = records(range(100, 80_100, 100))
    page = run_page(new_run(tmp_path / "run", rows, curve=curve, finetune={"updates": 80_000}).root)
    assert_whole(page)
    assert len(page.encode()) < 400_000
    assert "mean over 11,490 rows" in page


def test_twenty_thousand_predictions(tmp_path: Path) -> None:
    rows = [Row(f"document {n}", "reference", f"summary {n}", n / 20_000) for n in range(20_000)]
    page = run_page(new_run(tmp_path / "run", rows).root)
    assert_whole(page)
    assert "20,000 rows" in page and len(page.encode()) < 200_000
