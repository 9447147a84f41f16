"""`sumpipe report`: the page of one run, the comparison of several, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import JSON
from stages.graph import STAGES
from stages.pages import add_report
from stages.recipe import SummarizationRecipe
from tests.conftest import CommandLine
from tests.fakes.toy_stages import snapshot
from tests.unit.stages.report.builders import ROWS, new_run, rouge_json

LONG = " more" * 1600
ROWS_OF_HALF = tuple(row._replace(f=row.f / 2) for row in ROWS)


@pytest.fixture
def sumpipe(command_line: Callable[..., CommandLine]) -> CommandLine:
    return command_line(STAGES, SummarizationRecipe, (add_report,))


def test_one_run_has_its_page(tmp_path: Path, sumpipe: CommandLine) -> None:
    new_run(tmp_path / "run", done=("fetch", "clean"))
    out = tmp_path / "page.html"
    answer = sumpipe("report", tmp_path / "run", "--out", out)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"{out}: ") and "open it in a browser" in answer.out
    assert "Not done yet: encode" in out.read_text(encoding="utf-8")


def test_without_a_name_the_page_is_written_here(
    tmp_path: Path, sumpipe: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert sumpipe("report", "run").code == 0
    assert (tmp_path / "report.html").is_file()


def test_several_runs_are_compared(tmp_path: Path, sumpipe: CommandLine) -> None:
    others = tuple(row._replace(f=row.f / 2, prediction="<i>shorter") for row in ROWS)
    new_run(tmp_path / "a")
    new_run(tmp_path / "b", others)
    out = tmp_path / "page.html"
    answer = sumpipe("report", tmp_path / "a", tmp_path / "b", "--out", out)
    assert (answer.code, answer.err) == (0, "")
    page = out.read_text(encoding="utf-8")
    mean = 100 * sum(row.f for row in ROWS) / len(ROWS)
    assert f">{mean:.2f}</text>" in page and f">{mean / 2:.2f}</text>" in page
    assert f'<td role="cell">{-mean / 2:+.2f}</td>' in page, "the change"
    assert "&lt;i&gt;shorter" in page and "<i>" not in page
    moved = re.findall(r'class="id">(test-\d)<', page)
    assert moved[:3] == ["test-5", "test-4", "test-3"], "those that moved most, the farthest first"


def test_a_comparison_of_one_row_promises_no_interval(tmp_path: Path, sumpipe: CommandLine) -> None:
    for name, rows in (("a", ROWS[:1]), ("b", ROWS_OF_HALF[:1])):
        new_run(tmp_path / name, rows)
    out = tmp_path / "page.html"
    assert sumpipe("report", tmp_path / "a", tmp_path / "b", "--out", out).code == 0
    page = out.read_text(encoding="utf-8")
    assert "Figures of the one row" in page and "figures of one row and the change" in page
    assert "with their intervals" not in page and "Intervals:" not in page
    assert ", with intervals" not in page and "of each system" in page


@pytest.mark.parametrize(
    ("languages", "told"), [(("de", "de"), "de"), (("de", "fr"), ""), ((None, "de"), "")]
)
def test_texts_of_a_comparison_have_the_language_of_its_runs(
    tmp_path: Path, sumpipe: CommandLine, languages: tuple[str | None, str], told: str
) -> None:
    roots = (tmp_path / "a", tmp_path / "b")
    for root, language, rows in zip(roots, languages, (ROWS, ROWS_OF_HALF), strict=True):
        new_run(root, rows, report={"card": {"language": language}})
    out = tmp_path / "page.html"
    assert sumpipe("report", *roots, "--out", out).code == 0
    page = out.read_text(encoding="utf-8")
    found = re.findall(r'<dd dir="auto"(?: lang="(.*?)")?>', page)
    assert found and set(found) == {told} and page.count(' lang="') == len(found) + 1


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path, sumpipe: CommandLine) -> None:
    new_run(tmp_path / "run", done=("fetch",))
    (tmp_path / "site").mkdir()
    link = tmp_path / "page.html"
    link.symlink_to(Path("site") / "index.html")
    for _ in range(2):  # to nothing yet, and to a page
        assert sumpipe("report", tmp_path / "run", "--out", link).code == 0
        assert link.is_symlink()
        assert "<html" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_a_comparison_says_what_it_compares_with_and_marks_what_is_shared(
    tmp_path: Path, sumpipe: CommandLine
) -> None:
    new_run(tmp_path / "a")
    new_run(
        tmp_path / "b",
        tuple(row._replace(f=row.f / 2, prediction=row.prediction + LONG) for row in ROWS),
    )
    out = tmp_path / "page.html"
    assert sumpipe("report", tmp_path / "a", tmp_path / "b", "--out", out).code == 0
    page = out.read_text(encoding="utf-8")
    assert "31.27 where rouge-score gives 30.94" in page
    assert "<mark>guess &amp; number 5 of the documents</mark>" in page
    assert page.count("of 8,033 characters</dt>") >= 3, "long texts are cut"
    assert '<a class="skip" href="#means">' in page and '<a href="#pair-1">' in page
    header = re.findall(r'scope="col"[^>]*>([^<]*)</th>', page.partition("From ")[2])
    assert "first" not in header and header[1].endswith("a") and header[2].endswith("b")


def test_a_comparison_has_the_warnings_of_its_runs_and_the_l_of_their_set(
    tmp_path: Path, sumpipe: CommandLine
) -> None:
    fetched = {"rouge_l": "rougeL"}
    new_run(tmp_path / "a", rouge=rouge_json(warnings=["many <odd> rows"]), fetched=fetched)
    new_run(tmp_path / "b", ROWS_OF_HALF, fetched=fetched)
    out = tmp_path / "page.html"
    assert sumpipe("report", tmp_path / "a", tmp_path / "b", "--out", out).code == 0
    page = out.read_text(encoding="utf-8")
    assert f"<li>{tmp_path / 'a'}: many &lt;odd&gt; rows</li>" in page
    assert re.findall(r"<figure><strong>(.*?)</strong>", page)[2] == "ROUGE-L"


def test_a_comparison_has_the_l_of_the_published_result(
    tmp_path: Path, sumpipe: CommandLine
) -> None:
    expected = {"expected": {"rougeL": 41.17, "source": "table 4"}}
    new_run(tmp_path / "a", report=expected, fetched={"rouge_l": "rougeLsum"})
    new_run(tmp_path / "b", tuple(row._replace(f=row.f / 2) for row in ROWS), report=expected)
    out = tmp_path / "page.html"
    assert sumpipe("report", tmp_path / "a", tmp_path / "b", "--out", out).code == 0
    page = out.read_text(encoding="utf-8")
    assert re.findall(r"<figure><strong>(.*?)</strong>", page)[2] == "ROUGE-L", "as on theirs"


def test_runs_that_do_not_compare_are_refused(tmp_path: Path, sumpipe: CommandLine) -> None:
    new_run(tmp_path / "a")
    new_run(tmp_path / "b", ROWS[:3])
    out = tmp_path / "page.html"
    answer = sumpipe("report", tmp_path / "a", tmp_path / "b", "--out", out)
    assert answer.code == 1 and "cannot be compared" in answer.err
    assert not out.exists()


def test_a_page_replaces_no_pipe(tmp_path: Path, sumpipe: CommandLine) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        answer = sumpipe("report", tmp_path / "no run", "--out", tmp_path / name)
        assert answer.code == 2 and "is no regular file" in answer.err
        assert answer.err.count("\n") == 1 and (tmp_path / "pipe").is_fifo()


def test_names_that_are_not_text_are_refused(tmp_path: Path, sumpipe: CommandLine) -> None:
    odd = tmp_path / os.fsdecode(b"\xff")
    new_run(tmp_path / "odd", done=("fetch", "clean")).root.rename(odd)
    new_run(tmp_path / "run", done=("fetch", "clean"))
    for root, out in ((odd, "page.html"), (tmp_path / "run", os.fsdecode(b"\xfe.html"))):
        answer = sumpipe("report", root, "--out", tmp_path / out)
        assert answer.code == 2 and "this name is not UTF-8" in answer.err
        assert answer.err.count("\n") == 1 and not (tmp_path / out).exists()


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"seed": "x"}, "seed: "),
        ({"seed": None}, "seed: "),
        ({"name": 7}, "name: "),
        ({"fetch": None}, "fetch: "),
        ({"fetch": {"dataset": None}}, "fetch.dataset: "),
        ({"fetch": {"dataset": {"check_rows": "x"}}}, "fetch.dataset.check_rows: "),
        ({"report": None}, "report: "),
        ({"report": {"examples": -1}}, "report.examples: "),
    ],
    ids=str,
)
def test_an_edited_recipe_is_refused_by_its_field(
    tmp_path: Path, sumpipe: CommandLine, edit: JSON, told: str
) -> None:
    run_dir = new_run(tmp_path / "run", done=("fetch",))
    recipe = json.loads(run_dir.recipe.read_text(encoding="utf-8"))
    run_dir.recipe.write_text(json.dumps({**recipe, **edit}), encoding="utf-8")
    answer = sumpipe("report", run_dir.root, "--out", tmp_path / "page.html")
    assert answer.code == 2 and f"{run_dir.recipe}: 1 mistake\n  {told}" in answer.err


@pytest.mark.parametrize(
    ("out", "told"),
    [(".", "is a folder"), ("nowhere/page.html", "there is no folder")],
    ids=["folder", "nowhere"],
)
def test_a_page_that_has_no_place_is_refused_first(
    tmp_path: Path, sumpipe: CommandLine, out: str, told: str
) -> None:
    answer = sumpipe("report", tmp_path / "no run", "--out", tmp_path / out)
    assert answer.code == 2 and told in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize("name", ["rouge.json", "new.html", "texts/new.html"])
def test_a_page_replaces_nothing_of_a_stage(
    tmp_path: Path, sumpipe: CommandLine, name: str
) -> None:
    run_dir = new_run(tmp_path / "run")
    out = run_dir.committed("score") / name
    out.parent.mkdir(exist_ok=True)
    before = snapshot(run_dir.root)
    link = tmp_path / "page.html"
    link.symlink_to(out)
    for asked in (out, link):
        answer = sumpipe("report", run_dir.root, "--out", asked)
        assert answer.code == 2 and str(run_dir.committed("score")) in answer.err
    assert snapshot(run_dir.root) == before
    assert sumpipe("report", run_dir.root, "--out", run_dir.root / "page.html").code == 0


def test_what_is_no_run_is_refused(tmp_path: Path, sumpipe: CommandLine) -> None:
    answer = sumpipe("report", tmp_path, "--out", tmp_path / "page.html")
    assert answer.code == 2 and "is not a run directory" in answer.err


def test_a_damaged_artifact_is_named(tmp_path: Path, sumpipe: CommandLine) -> None:
    run_dir = new_run(tmp_path / "run")
    (run_dir.committed("score") / "rouge.json").write_text("{", encoding="utf-8")
    answer = sumpipe("report", run_dir.root, "--out", tmp_path / "page.html")
    assert answer.code == 1 and "rouge.json" in answer.err and "--restart-from score" in answer.err
