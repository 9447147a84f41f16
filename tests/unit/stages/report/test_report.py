"""The report: figures as scored, text escaped, nothing loaded from elsewhere, the same twice."""

from __future__ import annotations

import html
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.artifact import Artifact, RunDir
from pipeline.config import JSON
from pipeline.distributed.world import World
from pipeline.errors import CorruptArtifact
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, Metrics, StageContext
from stages.clean.config import CleanConfig
from stages.encode.config import EncodeConfig
from stages.export.config import ExportConfig
from stages.fetch.config import FetchConfig
from stages.finetune.config import FinetuneConfig
from stages.generate.config import GenerateConfig
from stages.report.config import ExpectedConfig, ReportConfig
from stages.report.facts import ShownExample, spread
from stages.report.page import DOCUMENT_CHARS, excerpt
from stages.report.run import run
from stages.report.wording import amount, percent
from stages.score.config import ScoreConfig

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ROWS = 6
NASTY = "<b>&</b><script>alert('x')</script> {{ 7 * 7 }}"
DEMO = {
    "dataset": {"source": "demo", "train_rows": 9, "valid_rows": 2, "test_rows": 7},
    "model": {"source": "scratch"},
}
HUB = {
    "dataset": {"source": "hub", "path": "team/news", "name": "3.0.0", "revision": "abc"},
    "model": {"source": "hub", "path": "team/bart", "revision": "def"},
}


def scores(model: float) -> JSON:
    values = {"model": model, "lead": 0.1, "random_training_summary": 0.02}
    values["model_against_another_reference"] = 0.03
    return {
        system: {
            name: {"precision": 0.9, "recall": 0.8, "fmeasure": value + 0.0123 * number}
            for number, name in enumerate(ROUGE_TYPES)
        }
        for system, value in values.items()
    }


def rouge_json() -> JSON:
    profile = {
        "scorer": "rouge-score 0.1.2",
        "stemmer": True,
        "sentences": "newline",
        "references": "raw text of fetch",
        "lead": "3 sentences",
    }
    return {
        "split": "test",
        "rows": ROWS,
        "profile": profile,
        "exact_match": 1 / 6,
        "systems": scores(0.45678),
    }


def lines(records: list[JSON]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def curve() -> str:
    trained = [
        {"update": n, "loss": 9 / n, "nll": 8 / n, "smoothing": 0.1, "r3f/kl": 1 / n, "lr": 1e-3}
        for n in range(10, 60, 10)
    ]
    shares = {"embedding": 1.0, "residual": 0.996, "compute": 0.0771}
    trained[-1] |= {f"r3f/noise_survival_{place}": share for place, share in shares.items()}
    measured: list[JSON] = [{"update": 50, "valid/nll": 1.5, "valid/smoothing": 0.3}]
    return lines([*trained, *measured])


def stage_files() -> dict[str, dict[str, str]]:
    raw = [
        {
            "id": f"test-{n}",
            "document": f"{NASTY} number {n}. " + "word " * 400,
            "summary": f"reference <i>{n}</i>",
            "origin": f"demo test:{n}",
        }
        for n in range(ROWS + 1)  # the last one is dropped by clean
    ]
    predictions = [
        {"id": f"test-{n}", "prediction": f"guess & {n}", "score": -1.0, "tokens": 5, "stop": "eos"}
        for n in range(ROWS)
    ]
    return {
        "fetch": {"raw/test.jsonl": lines(raw)},
        "finetune": {"metrics.jsonl": curve()},
        "generate": {"predictions.jsonl": lines(predictions)},
        "score": {"rouge.json": json.dumps(rouge_json())},
    }


def stage_metrics() -> dict[str, Metrics]:
    encode = {
        f"{role}_{what}_{split}": 1234 if split == "train" else 0
        for role in ("source", "target")
        for what in ("rows_truncated", "tokens_lost")
        for split in ("train", "valid", "test")
    }
    return {
        "fetch": {"rows_train": 9, "rows_valid": 2, "rows_test": 7},
        "clean": {
            "rows_kept_train": 9,
            "rows_kept_valid": 2,
            "rows_kept_test": 6,
            "rows_empty_summary_test": 1,
        },
        "encode": encode,
        "finetune": {"valid_nll_nats_per_token": 1.5, "updates": 50, "epochs": 1.25},
        "export": {"parameters": 1234567},
        "generate": {"predictions": ROWS, "share_stopped_by_length": 0.5},
        "score": {"rows": ROWS},
    }


def stage_settings(fetch: JSON, finetune: JSON) -> dict[str, JSON]:
    return {
        "fetch": FetchConfig.model_validate(fetch).identity(),
        "clean": CleanConfig().identity(),
        "encode": EncodeConfig().identity(),
        "finetune": FinetuneConfig.model_validate({"updates": 1000, **finetune}).identity(),
        "export": ExportConfig().identity(),
        "generate": GenerateConfig().identity(),
        "score": ScoreConfig().identity(),
    }


def provenance(stage: str) -> JSON:
    return {
        "finished_utc": "2026-01-02T03:04:05+00:00",
        "git": {"commit": "c0ffee", "modified": True},
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "sumpipe": None},
        "host": "node-7",
        "system": "Linux",
        "cpu_count": 2,
        "gpus": ["H200, 570"] if stage == "finetune" else [],
        "job": None,
        "launch": {
            "world_size": 4 if stage == "finetune" else 1,
            "processes": 4,
            "threads": 1,
            "ds_profile": "zero2.json",
            "seconds_wall": 12.34,
        },
    }


def finished_run(
    root: Path, fetch: JSON = DEMO, finetune: JSON | None = None, name: str = "tiny", warm: int = 0
) -> StageContext:
    """Commit artifacts of all stages before the report, small and made by hand."""
    run_dir = RunDir(root)
    files, metrics = stage_files(), stage_metrics()
    metrics["finetune"]["warm_start_updates"] = warm
    inputs: dict[str, Artifact] = {}
    for stage, config in stage_settings(fetch, finetune or {}).items():
        payload: JSON = {"stage": stage, "version": 1, "config": config, "inputs": {}}
        if stage == "finetune":
            payload["seed"] = 17
        # Stored and read back, as in a real run: tuples become lists there.
        payload = json.loads(json.dumps(payload, default=str))
        work = run_dir.open_partial(stage, payload)
        for file, text in files.get(stage, {}).items():
            (work / file).parent.mkdir(exist_ok=True)
            (work / file).write_text(text, encoding="utf-8")
        inputs[stage] = run_dir.commit(stage, payload, metrics[stage], provenance(stage))
    return StageContext(
        inputs=inputs,
        work=run_dir.open_partial("report", {"stage": "report"}),
        seed=1,
        world=World(),
        execution=Execution(1, 1, Path("zero2.json")),
        stop=StopFlag(),
        progress=Progress("report", None, console=False),
        guard=lambda: None,
        recipe_name=name,
    )


def written(context: StageContext, file: str) -> str:
    return (context.work / file).read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag with its attributes; fails where tags are not closed in order or an id comes twice."""

    VOID = frozenset({"meta", "link", "br", "img", "hr"})

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


def front_matter(card: str) -> Any:
    head, separator, _ = card.removeprefix("---\n").partition("\n---\n")
    assert card.startswith("---\n") and separator
    return yaml.safe_load(head)


def test_every_figure_of_rouge_json_is_on_the_page_and_the_console(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    metrics = run(ReportConfig(), context)
    page, console = written(context, "index.html"), written(context, "console.txt")
    for means in rouge_json()["systems"].values():
        figures = [f"{100 * means[name]['fmeasure']:.2f}" for name in ROUGE_TYPES]
        assert "".join(f"<td>{figure}</td>" for figure in figures) in page
        assert re.search(r"\s+".join(map(re.escape, figures)), console)
    assert "16.67 %" in page and "16.67 %" in console
    assert "rouge-score 0.1.2, Porter stemmer" in page
    assert metrics == {
        "charts_drawn": 2,
        "examples": 5,
        "page_bytes": (context.work / "index.html").stat().st_size,
    }


def test_a_published_result_stands_right_below_the_run_s_and_is_called_so(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    figures = {"rouge1": 44.38, "rouge2": 21.5, "rougeLsum": 41.17}
    published = ExpectedConfig.model_validate({**figures, "source": "<table> 4"})
    run(ReportConfig(expected=published), context)
    page, console, card = (
        written(context, name) for name in ("index.html", "console.txt", "README.md")
    )
    cells = "".join(f"<td>{cell}</td>" for cell in ("44.38", "21.50", "-", "41.17"))
    assert f'<th scope="row">Published: &lt;table&gt; 4</th>{cells}' in page
    assert "the published line is quoted, not" in page
    assert "\n| Published: <table> 4 | 44.38 | 21.50 | - | 41.17 |\n" in card
    first, second = console.splitlines()[1:3]
    assert first.startswith("Fine-tuned model ")
    assert second.split() == ["Published:", "<table>", "4", "44.38", "21.50", "-", "41.17"]
    assert "44.38" not in card.partition("\n---\n")[0], "only what was measured is metadata"


def test_without_a_published_result_none_is_spoken_of(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    run(ReportConfig(), context)
    texts = [path.read_text(encoding="utf-8") for path in context.work.iterdir()]
    assert not [text for text in texts if "ublished" in text]


@pytest.mark.parametrize(
    "wrong", [{"rouge1": 101.0}, {"rouge2": -1.0}, {"source": "a|b"}, {"source": ""}]
)
def test_a_published_result_is_in_percent_and_its_source_one_cell(wrong: JSON) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ExpectedConfig.model_validate({"rouge1": 40.0, "source": "table 4", **wrong})


def test_text_of_the_corpus_is_escaped(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run", name="<b>&name")
    run(ReportConfig(examples=2), context)
    page = written(context, "index.html")
    assert "<b>" not in page and "<i>" not in page
    assert "&lt;b&gt;&amp;&lt;/b&gt;&lt;script&gt;" in page and "{{ 7 * 7 }}" in page
    assert "guess &amp; 1" in page and "reference &lt;i&gt;1&lt;/i&gt;" in page
    assert "<h1>&lt;b&gt;&amp;name</h1>" in page


def test_the_page_is_whole_html_that_loads_nothing(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    run(ReportConfig(), context)
    page = written(context, "index.html")
    assert "http" not in page and "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", page))
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.found}
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] or "" for _, attributes in tags.found if "href" in attributes]
    assert all(target.startswith("#") and target[1:] in ids for target in targets)
    charts = [attributes for tag, attributes in tags.found if tag == "svg"]
    assert [(chart["role"], bool(chart["aria-label"])) for chart in charts] == [("img", True)] * 2


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    run(ReportConfig(), context)
    before = {path.name: path.read_bytes() for path in context.work.iterdir()}
    run(ReportConfig(), context)
    assert {path.name: path.read_bytes() for path in context.work.iterdir()} == before


def test_rows_are_accounted_for(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    run(ReportConfig(), context)
    page = written(context, "index.html")
    cells = {
        split: re.findall(r"<td>(.*?)</td>", row)
        for split, row in re.findall(r'<th scope="row">(train|valid|test)</th>(.*)</tr>', page)
    }
    # fetched, kept, dropped, empty summary, truncation of sources and targets, predictions, scored
    assert cells["train"] == ["9", "9", "0", "0", "1,234", "1,234", "1,234", "1,234", "-", "-"]
    assert cells["test"] == ["7", "6", "1", "1", "0", "0", "0", "0", "6", "6"]


def test_settings_and_origin_are_on_the_page(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    run(ReportConfig(), context)
    page = written(context, "index.html")
    assert '<p class="soft">Version 1, seed 17</p>' in page
    assert "&#34;label_smoothing&#34;: 0.1" in page
    assert "c0ffee (files differ from it)" in page and "node-7" in page
    others = "fetch, clean, encode, export, generate, score"
    assert f"none ({others}); H200, 570 (finetune)" in page


def test_without_matplotlib_page_and_log_say_how_to_get_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    context = finished_run(tmp_path / "run")
    metrics = run(ReportConfig(), context)
    page = written(context, "index.html")
    assert metrics["charts_drawn"] == 0
    assert "<svg" not in page
    assert "Curves are not drawn" in page and "pip install -e &#39;.[report]&#39;" in page
    assert "pip install -e '.[report]'" in caplog.text


def test_a_warm_start_is_told_in_charts_and_card(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run", warm=20)
    run(ReportConfig(), context)
    assert "The first 20 updates are a warm start" in written(context, "index.html")
    assert "1000 (1.25 epochs), the first 20 a warm start" in written(context, "README.md")


def test_the_card_has_front_matter_with_the_figures(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    run(ReportConfig(), context)
    card = written(context, "README.md")
    data = front_matter(card)
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "summarization"
    assert data["tags"] == ["summarization", "bart", "r3f", "deepspeed"]
    assert not {"license", "base_model", "datasets"} & data.keys()
    assert "Licence: not stated" in card
    (result,) = data["model-index"][0]["results"]
    means = rouge_json()["systems"]["model"]
    expected = [round(100 * means[name]["fmeasure"], 2) for name in ROUGE_TYPES]
    assert [metric["value"] for metric in result["metrics"]] == expected
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code and compile(code[1], "card", "exec")
    for setting in ("num_beams=4,", "max_length=142,", "max_length=1024,"):
        assert setting in code[1]


def test_the_card_names_hub_sources_and_no_r3f_where_it_was_off(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run", HUB, {"r3f": {"lambda": 0.0}})
    run(ReportConfig(), context)
    card = written(context, "README.md")
    data = front_matter(card)
    assert (data["base_model"], data["datasets"]) == ("team/bart", ["team/news"])
    assert "r3f" not in data["tags"] and "by sumpipe without R3F" in card
    found = data["model-index"][0]["results"][0]["dataset"]
    assert found == {
        "name": "team/news",
        "type": "team/news",
        "config": "3.0.0",
        "split": "test",
        "revision": "abc",
    }
    assert "R3F is off in this run" in written(context, "index.html")


def test_the_console_names_where_things_will_be(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "a run")
    run(ReportConfig(), context)
    console = written(context, "console.txt")
    assert "\nReport: {run_dir}/report/index.html\nModel:  {run_dir}/export/model\n" in console
    assert "sumpipe status {run_dir}" in console
    assert "rows 6" in console and "report.partial" not in console
    assert all(len(line) <= 90 for line in console.splitlines())
    header, *rows = console.splitlines()[:5]
    assert {len(row) for row in rows} == {len(header)}


def test_a_run_is_titled_by_its_recipe(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run", HUB, name="my\nrun")
    run(ReportConfig(examples=0), context)
    assert "<h1>my run" in written(context, "index.html")


def test_the_page_says_how_much_of_the_noise_was_left(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    run(ReportConfig(), context)
    page = html.unescape(written(context, "index.html"))
    assert (
        "Entries that the noise still changes: 100 % at the embedding's LayerNorm, 100 % at the first layer, "
        "8 % as its first matrix product sees them." in page
    )


def test_a_damaged_curve_names_file_line_and_next_step(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    path = context.inputs["finetune"].path / "metrics.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('{"update": 20', '["update"; 20'), encoding="utf-8")
    with pytest.raises(CorruptArtifact, match=r"metrics.jsonl, line 2: .*--restart-from finetune"):
        run(ReportConfig(), context)


@pytest.mark.parametrize(
    ("rows", "count", "expected"),
    [(6, 3, [1, 3, 5]), (100, 4, [12, 37, 62, 87]), (2, 5, [0, 1]), (7, 1, [3]), (5, 0, [])],
)
def test_examples_are_spread_evenly(rows: int, count: int, expected: list[int]) -> None:
    assert spread(rows, count) == expected


def test_a_long_document_is_cut_and_the_cut_stated(tmp_path: Path) -> None:
    context = finished_run(tmp_path / "run")
    run(ReportConfig(examples=1), context)
    page = written(context, "index.html")
    found = re.search(r"cut here: the first ([\d,]+) of ([\d,]+) characters", page)
    assert found
    shown, whole = (int(figure.replace(",", "")) for figure in found.groups())
    assert DOCUMENT_CHARS - 80 <= shown <= DOCUMENT_CHARS < whole


def test_a_short_document_is_shown_whole() -> None:
    example = ShownExample("one", "x" * DOCUMENT_CHARS, "reference", "")
    assert excerpt(example) == (example, example.document, "")


def test_numbers_in_words() -> None:
    assert (percent(0.123456), percent(1.0)) == ("12.35", "100.00")
    assert (amount(None), amount(1234567), amount("x")) == ("-", "1,234,567", "x")
