"""The page: figures as scored, text escaped, nothing loaded from elsewhere, and what is missing said."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.artifact import RunDir
from pipeline.config import JSON
from pipeline.errors import CorruptArtifact
from stages.pages import run_page
from stages.report.config import ExpectedConfig, ReportConfig
from stages.report.run import run
from tests.unit.stages.report.builders import (
    HUB,
    LABELS,
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

PUBLISHED = {"rouge1": 44.38, "rouge2": 21.5, "rougeLsum": 41.17, "source": "<table> 4"}


class Tags(HTMLParser):
    """Every tag with its attributes; fails where tags are not closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


def assert_whole(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """Check that a page is well-formed and loads nothing, and its links lead somewhere; returns its tags."""
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.found}
    assert "@import" not in page and "url(" not in page
    assert not [
        name for _, attributes in tags.found for name in attributes if name.startswith("on")
    ]
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] or "" for _, attributes in tags.found if "href" in attributes]
    assert all(target.startswith("#") and target[1:] in ids for target in targets)
    return tags.found


def text_of(page: str) -> str:
    """The page's words, blanks as one."""
    body = page.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def rows_of(page: str, caption: str) -> dict[str, list[str]]:
    """Cells of the table with this caption, by the name of the row."""
    table = re.search(rf"<caption>{re.escape(caption)}.*?</table>", page, re.DOTALL)
    assert table, caption
    found = re.findall(r'scope="row">(.*?)</th>(.*?)</tr>', table.group(), re.DOTALL)
    return {name: re.findall(r'<td role="cell">(.*?)</td>', cells) for name, cells in found}


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
    assert "The profile rouge155 compares with papers that used ROUGE-1.5.5." in told
    tiles = text_of(page).partition(" Results ")[0]
    assert re.search(r"ROUGE-1 45\.00 \S+ rouge155: 45\.67 published: 44\.38", tiles), (
        "like with like"
    )
    assert rows_of(page, "rouge155: F x 100")["Model"][0].startswith("45.67")
    assert "Published: &lt;table&gt; 4" in rows_of(page, "rouge155: F x 100")


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
    found = rows_of(run_page(new_run(tmp_path / "run", rows).root), "Every row from the source")
    assert found["Fetched"] == ["9,000", "2", "7"]
    assert found["left out: duplicate"] == ["10<small>0.11 %</small>", "0", "0"]
    assert found["left out: empty summary"] == ["0", "0", "1<small>14.29 %</small>"]
    assert found["Kept"][2] == "6<small>85.71 %</small>"
    assert found["tokens of documents lost"][0] == "1,234<small>50.00 %</small>"
    assert found["ended by the length limit"] == ["-", "-", "1<small>16.67 %</small>"]
    assert found["without text"] == ["-", "-", "1<small>16.67 %</small>"]
    assert found["Scored"] == ["-", "-", "6"]


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
    assert "Tokens 7,500, 500 of them targets" in told
    assert "Lost to interruptions 1 h 00 min" in told
    assert "Peak memory not recorded" in told


def test_launches_on_other_devices_cost_what_they_had(tmp_path: Path) -> None:
    curve = records()
    for record, count in zip(curve, (64, 64, 8, 8, 8), strict=False):
        record |= {"devices": count, "seconds": 36_000.0}
    told = text_of(run_page(new_run(tmp_path / "run", curve=curve).root))
    assert f"GPU hours {(2 * 64 + 3 * 8) * 10:,} " in told, "and no power of ten"
    assert "Devices 64, then 8 " in told


def test_memory_without_a_gpu_is_said_to_be_the_host_s(tmp_path: Path) -> None:
    for name, gpus, where in (("a", (), "of host memory"), ("b", ("H200, 570",), "of the GPU")):
        run_dir = new_run(tmp_path / name, gpus=gpus, trained={"peak_memory_bytes": 3 << 30})
        assert f"Peak memory 3.00 GiB {where}" in text_of(run_page(run_dir.root))


def test_an_interruption_past_the_end_is_not_of_this_training(tmp_path: Path) -> None:
    """Logs of before `begins` was said cannot tell the trainings apart, but a shorter one ends before."""
    run_dir = new_run(tmp_path / "run")
    log = run_dir.logs("finetune") / "2025-12-31T000000+0000-1" / "rank0000.log"
    log.parent.mkdir(parents=True)
    resumed = "2025-12-31T00:00:01+0000 INFO stages.finetune.run: resumes after update 90000\n"
    log.write_text(resumed, encoding="utf-8")
    page = run_page(run_dir.root)
    assert "90,000" not in page and "went on from here" not in page


BEST = {"selection": {"weights": "best", "every": 10, "patience": 2}}


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "from the curve"])
def test_the_best_weights_are_told_with_their_own_nll(tmp_path: Path, is_recorded: bool) -> None:
    curve = [*records(), {"update": 30, "valid/nll": 1.234, "valid/accuracy": 0.4}]
    trained = {"stopped_early": True, "skipped_updates": 2, "overflowed_updates": 1}
    if is_recorded:
        trained |= {"chosen_nll_nats_per_token": 1.234}
    run_dir = new_run(tmp_path / "run", finetune=BEST, trained=trained, exported="30", curve=curve)
    told = text_of(run_page(run_dir.root))
    assert (
        "Validation nll 1.234 nats per token, of the best by validation nll, after update 30"
        in told
    )
    assert (
        "Stopped early, after 50 of 1,000 updates: 2 validations in a row brought no better" in told
    )
    assert "Fine-tuned for 50 updates of 1,000, stopped early (1.25 epochs)" in told
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
    assert {"Density (4 rows)", "Coverage %"} <= rows_of(page, "Means; 95 % interval").keys()


def test_the_licence_of_the_data_is_told(tmp_path: Path) -> None:
    told = text_of(run_page(new_run(tmp_path / "a", fetched={"licence": "CC BY 4.0"}).root))
    assert "Licence of the data CC BY 4.0 To be cited as not known" in told


def test_interruptions_are_marked_and_told(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run")
    write_launches(run_dir)
    page = run_page(run_dir.root)
    told = text_of(page)
    assert (
        "Update 23: training went on from here at 2026-01-02 02:00:01 UTC, after a stop by SIGTERM"
        in told
    )
    assert (
        "Update 30: training went on from here at 2026-01-02 03:00:01 UTC, after an end without a word"
        in told
    )
    assert page.count('<path class="rule stop" d="M') == 2 * 6 + 1, (
        "twice a chart, once in the legend"
    )


def test_the_logs_that_interruptions_are_read_from_are_written_so() -> None:
    """The words that interruptions.py looks for are those that training says."""
    finetune = Path(__file__).parents[4] / "stages" / "finetune"
    assert (
        '_logger.info("resumes after update %d", state.update)' in (finetune / "run.py").read_text()
    )
    begun = '_logger.info("begins a training of %d updates", config.updates)'
    assert begun in (finetune / "run.py").read_text()
    assert (
        'f"stopped by {reason} after update {self.state.update}'
        in (finetune / "loop.py").read_text()
    )


def test_a_warm_start_is_marked(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", finetune={"warm_start": {"share": 0.03}})
    page = run_page(run_dir.root)
    assert '<path class="rule warm" d="M' in page and "end of the warm start" in page


def test_r3f_that_is_off_is_said_to_be(tmp_path: Path) -> None:
    told = text_of(run_page(new_run(tmp_path / "run", finetune={"r3f": {"lambda": 0.0}}).root))
    assert "without R3F" in told and "R3F is off in this run" in told


def test_settings_and_origin_are_on_the_page(tmp_path: Path) -> None:
    told = text_of(run_page(new_run(tmp_path / "run").root))
    assert "version 1, seed 17, fingerprint" in told
    assert "&#34;label_smoothing&#34;: 0.1" in told
    assert "c0ffee (files differ from it)" in told and "node-7" in told
    others = "fetch, clean, encode, export, generate, score"
    assert f"none ({others}); H200, 570 (finetune)" in told


@pytest.mark.parametrize("count", range(len(STAGES)))
def test_an_unfinished_run_has_a_page_that_says_what_is_not_done(
    tmp_path: Path, count: int
) -> None:
    run_dir = new_run(tmp_path / "run", done=STAGES[:count])
    page = run_page(run_dir.root)
    assert_whole(page)
    *first, last = STAGES[count:]
    undone = f"{', '.join(first)} and {last}" if first else last
    assert f"Not done yet: {undone}." in text_of(page)
    assert ("Nothing is scored yet." in page) and ("No stage is done yet." in page) == (count == 0)


def test_an_interrupted_training_is_shown_as_far_as_it_came(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", done=STAGES[:3])
    work = begin(run_dir, "finetune")
    cut_short = lines(records()) + '{"update": 60, "lo'
    (work / "metrics.jsonl").write_text(cut_short, encoding="utf-8")
    write_launches(run_dir)
    page = run_page(run_dir.root)
    assert_whole(page)
    told = text_of(page)
    assert "records reach update 50 of 1,000" in told
    assert "50 of 1,000 updates so far" in told and "Device hours not known" in told
    assert "Negative log-likelihood" in told and "Update 30: training went on" in told


def test_a_training_without_a_record_has_no_curves(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", done=STAGES[:3])
    begin(run_dir, "finetune")
    page = run_page(run_dir.root)
    assert_whole(page)
    assert "There are no records of a training yet." in page


def test_summaries_that_are_not_scored_are_shown_at_random(tmp_path: Path) -> None:
    page = run_page(new_run(tmp_path / "run", done=STAGES[:6]).root)
    assert "Drawn at random" in page and "Best by ROUGE" not in page


def test_no_baseline_and_no_measures_are_said_to_be_missing(tmp_path: Path) -> None:
    rouge = rouge_json(profiles={"rouge-score": profile({"model": 0.4})}, measures={})
    page = run_page(new_run(tmp_path / "run", rouge=rouge).root)
    assert_whole(page)
    told = text_of(page)
    assert "No baseline was scored" in told and "Nothing beside ROUGE was measured" in told


def test_one_example(tmp_path: Path) -> None:
    page = run_page(new_run(tmp_path / "run", ROWS[:1]).root)
    assert_whole(page)
    told = text_of(page)
    assert "One row was scored" in told and "mean over 1 row of" in told
    assert "Best by ROUGE" in told and "Worst by ROUGE" not in told


def test_empty_texts(tmp_path: Path) -> None:
    rows = [Row("", "", "", 0.0, "empty", 0)] * 3
    page = run_page(new_run(tmp_path / "run", rows, done=STAGES[:6]).root)
    assert_whole(page)
    assert "Summaries without text: 3 of 3." in page and "(empty)" in page


def test_losses_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    curve = records()
    curve[1]["nll"] = curve[2]["gradient_norm"] = None
    page = run_page(new_run(tmp_path / "run", curve=curve).root)
    assert_whole(page)
    assert "20" not in rows_of(page, "Negative log-likelihood")
    assert text_of(page).count("1 value was not finite and is left out.") == 2


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


def test_a_damaged_record_of_a_finished_training_is_named(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run")
    log = run_dir.committed("finetune") / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b'{"update": 20', b'["update": 20'))
    with pytest.raises(CorruptArtifact, match=r"metrics\.jsonl, line 2: .*--restart-from finetune"):
        run_page(run_dir.root)


def test_scores_of_other_rows_are_refused(tmp_path: Path) -> None:
    run_dir, other = new_run(tmp_path / "run"), new_run(tmp_path / "other", ROWS[:5])
    (run_dir.committed("score")).rename(tmp_path / "away")
    (other.committed("score")).rename(run_dir.committed("score"))
    with pytest.raises(CorruptArtifact, match="not those of the predictions"):
        run_page(RunDir(run_dir.root).root)
