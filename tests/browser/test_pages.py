"""The pages in a real browser: readable by everybody, on every screen, without a network or a script."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stages.compare.comparison import Comparison, Difference, Figure, Moved, Pair, System
from stages.pages import comparison_page, run_page
from tests.unit.stages.report.builders import (
    STAGES,
    Row,
    begin,
    lines,
    new_run,
    profile,
    records,
    rouge_json,
    write_launches,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

WIDTHS = (360, 768, 1440)
SCHEMES = ("light", "dark")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INTERACTIVE = "a[href], summary, [tabindex='0']"
LANGUAGES = (
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643 ",
    "\u05e9\u05dc\u05d5\u05dd ",
    "Guten Tag ",
)
"""The first two are written from right to left."""
LONG = " and so on" * 900
SYSTEMS = {
    "model": 0.45,
    "lead": 0.3,
    "oracle": 1.0,
    "random_training_summary": 0.05,
    "model_against_another_reference": 0.03,
}
"""As many as a run has by default, with the widest figures."""
MEASURES = {
    name: {"mean": 1.0, "low": 1.0, "high": 1.0}
    for name in ("novel_2gram", "coverage", "repetition", "stopped_by_length")
} | {"density": {"mean": 123.4567, "low": 100.0, "high": 200.0}}


def missing() -> str:
    """Say what these tests need and this machine has not; empty if nothing."""
    for module in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install -e '.[test]'"
    if not any(map(shutil.which, BROWSERS)):
        return "Chromium is not installed: apt-get install chromium"
    return ""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of the system: required in CI, and skipped elsewhere where there is none."""
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        # Without a sandbox Chromium also starts as root; it opens nothing but our own files.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        with closing(browser):
            yield browser


def finished(root: Path) -> str:
    """A run with everything on its page."""
    profiles = {name: profile(SYSTEMS) for name in ("rouge-score", "rouge155")}
    rouge = rouge_json(
        profiles=profiles,
        measures=dict.fromkeys(SYSTEMS, MEASURES),
        systems={
            "oracle": {"label": "Extractive oracle"},
            "random_training_summary": {"label": "Random training summary"},
            **rouge_json()["systems"],
        },
        warnings=["something is odd", "and something else"],
    )
    published = {"rouge1": 44.38, "rouge2": 21.5, "rougeL": 40.9, "source": "table 4"}
    valid = [{"update": n, "valid/nll": 1.2 + abs(n - 1400) / 2000} for n in range(200, 2000, 200)]
    rows = tuple(
        Row(word * 90 + LONG, word * 9 + LONG * (number == 8), word * 9, number / 9)
        for number, word in enumerate(LANGUAGES * 3)
    )
    run_dir = new_run(
        root,
        rows,
        rouge=rouge | {"rows": len(rows)},
        name="a_run_with_a_name_that_is_much_too_long_for_a_telephone",
        report={"expected": published},
        curve=[*records(range(10, 2000, 10)), *valid],
        finetune={"updates": 4000, "selection": {"weights": "best", "every": 200, "patience": 3}},
        trained={"updates": 1990, "stopped_early": True, "skipped_updates": 2},
        exported="1400",
    )
    write_launches(run_dir)
    return run_page(root)


def with_long_names(root: Path) -> str:
    """A run with names that no blank breaks: of a system, and of where a figure was published."""
    other = "predictions_of_" + "a_model_" * 7
    rouge = rouge_json(
        profiles={"rouge-score": profile({"model": 0.45, other: 0.44})},
        measures=dict.fromkeys(("model", other), MEASURES),
        systems={"model": {"label": "Model"}, other: {"label": other}},
    )
    report = {"expected": {"rouge1": 44.38, "source": f"https://example.org/{'table' * 12}"}}
    new_run(root, rouge=rouge, report=report)
    return run_page(root)


def interrupted(root: Path) -> str:
    run_dir = new_run(root, done=STAGES[:3])
    log = begin(run_dir, "finetune") / "metrics.jsonl"
    log.write_text(lines(records()), encoding="utf-8")
    return run_page(root)


def compared(_root: Path) -> str:
    names = ("runs/" + "a" * 60, "runs/b", "runs/c")
    figures = {kind: Figure(0.4, 0.38, 0.42, 9) for kind in ("rouge1", "rouge2", "rougeLsum")}
    change = Figure(0.02, -0.01, 0.05, 9)
    moved = Moved("test-1 <b>", 0.1, 0.6, "first text of a few words", "second text of a few words")
    pairs = tuple(
        Pair(
            names[0],
            other,
            ("finetune.r3f.lambda 0 -> 1",),
            tuple(Difference(kind, 0.4, 0.42, change, 0.0123, 0.0369) for kind in figures),
            (moved, replace(moved, second_text=None), moved),
        )
        for other in names[1:]
    )
    return comparison_page(
        Comparison(
            profile="rouge-score",
            settings={**profile({})["settings"], "headline_l": "rougeLsum"},
            dataset="demo",
            split="test",
            rows=9,
            part="fmeasure",
            systems=tuple(System(name, 1, figures) for name in names),
            pairs=pairs,
            moved_by="rouge1",
            spreads=(),
            method={
                "interval": "paired bootstrap",
                "resamples": 1000,
                "seed": 1,
                "confidence": 0.95,
                "test": "sign flips",
                "permutations": 9999,
                "correction": "Holm",
            },
            notes=("one note",),
        )
    )


PAGES = {
    "finished": finished,
    "long names": with_long_names,
    "interrupted": interrupted,
    "compared": compared,
}


@pytest.fixture(scope="module", params=PAGES)
def page_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    make: Callable[[Path], str] = PAGES[request.param]
    file = folder / "page.html"
    file.write_text(make(folder / "run"), encoding="utf-8")
    return file


def opened(context: BrowserContext, file: Path) -> Page:
    page = context.new_page()
    page.goto(file.as_uri())
    return page


def is_visible(element: Any) -> bool:
    return bool(element.is_visible())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_opens_without_a_request_or_a_complaint(
    browser: Browser, page_file: Path, scheme: str
) -> None:
    with closing(browser.new_context(color_scheme=scheme)) as context:  # type: ignore[arg-type]
        page = context.new_page()
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(page_file.as_uri(), wait_until="networkidle")
        assert asked == [page_file.as_uri()]
        assert said == []


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 360), ("dark", 768), ("light", 1440), ("dark", 1440)]
)
def test_axe_finds_no_fault(browser: Browser, page_file: Path, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    view: Any = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with closing(browser.new_context(**view)) as context:
        page = opened(context, page_file)
        # What is folded away is to be readable too.
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        found = Axe().run(page).response["violations"]
        told = [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found]
        assert told == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(browser: Browser, page_file: Path, width: int) -> None:
    with closing(browser.new_context(viewport={"width": width, "height": 900})) as context:
        page = opened(context, page_file)
        for is_open in (False, True):
            page.evaluate(
                "open => document.querySelectorAll('details').forEach(one => one.open = open)",
                is_open,
            )
            assert page.evaluate("document.documentElement.scrollWidth") == width


BROKEN = """
() => [...document.querySelectorAll('th, td')].flatMap(cell => {
  const found = [], walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT)
  for (let text; text = walk.nextNode();)
    for (const word of text.data.matchAll(/[^\\s-]+/g)) {
      const range = document.createRange()
      range.setStart(text, word.index)
      range.setEnd(text, word.index + word[0].length)
      if (word[0].length <= 14 && range.getClientRects().length > 1) found.push(word[0])
    }
  return found
})
"""
"""Words in tables that go on in another line; long ones, such as paths, have to."""


@contextmanager
def unfolded(browser: Browser, page_file: Path, width: int) -> Iterator[Page]:
    """The page at a width, with all that can be opened open."""
    with closing(browser.new_context(viewport={"width": width, "height": 900})) as context:
        page = opened(context, page_file)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        yield page


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_and_no_figure_of_a_table_is_broken(
    browser: Browser, page_file: Path, width: int
) -> None:
    with unfolded(browser, page_file, width) as page:
        assert page.evaluate(BROKEN) == []


@pytest.mark.parametrize("width", (360, 600, 768, 1440))
def test_what_scrolls_sideways_is_reached_with_the_tab_key_and_little_else(
    browser: Browser, page_file: Path, width: int
) -> None:
    with unfolded(browser, page_file, width) as page:
        unreached = page.evaluate(
            "[...document.querySelectorAll('.scroll, pre')].filter(one => one.scrollWidth > one.clientWidth "
            "&& one.tabIndex < 0).map(one => one.innerText.slice(0, 60))"
        )
        assert unreached == []
        assert page.locator("[tabindex='0']").count() <= 5


def test_every_column_has_its_header_where_there_is_little_room_too(
    browser: Browser, page_file: Path
) -> None:
    for width in WIDTHS:
        with unfolded(browser, page_file, width) as page:
            shown = page.get_by_role("columnheader")  # that is: to who hears the page
            assert shown.count() == page.locator("thead th").count()


def test_texts_from_right_to_left_begin_at_the_right(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(finished(tmp_path / "run"), encoding="utf-8")
    with closing(browser.new_context()) as context:
        page = opened(context, file)
        for text in page.locator("dd[dir='auto'], .document p[dir='auto']").all():
            is_rtl = (text.text_content() or "").startswith(LANGUAGES[:2])
            found = text.evaluate("one => getComputedStyle(one).direction")
            assert found == ("rtl" if is_rtl else "ltr")
        directions = page.evaluate(
            "[...document.querySelectorAll('bdi.id')].map(one => getComputedStyle(one).direction)"
        )
        assert set(directions) == {"ltr"}, "ids stand as they are, whatever follows them"


def test_it_is_read_without_scripts(browser: Browser, page_file: Path) -> None:
    with closing(browser.new_context(java_script_enabled=False)) as context:
        page = opened(context, page_file)
        assert page.locator("h1").is_visible()
        assert all(map(is_visible, page.locator("h2").all()))
        assert len(page.locator("main").inner_text()) > 500
        folded = page.locator("main details:not([open])")
        before = folded.count()
        folded.first.locator("> summary").click()
        assert folded.count() == before - 1, "folding is the browser's, not a script's"
        for link in page.locator("nav a").all():
            link.click()
            target = page.url.partition("#")[2]
            assert page.locator(f"#{target}").bounding_box() is not None


def test_the_keyboard_reaches_everything(browser: Browser, page_file: Path) -> None:
    with closing(browser.new_context()) as context:
        page = opened(context, page_file)
        shown = page.locator(INTERACTIVE).all()
        expected = sum(map(is_visible, shown))
        page.evaluate("document.activeElement.blur()")
        reached = []
        for _ in range(expected):
            page.keyboard.press("Tab")
            place = page.evaluate(
                "all => [...document.querySelectorAll(all)].indexOf(document.activeElement)",
                INTERACTIVE,
            )
            reached.append(place)
        assert -1 not in reached and reached == sorted(set(reached)), "in the order of the page"
        first = page.locator("main summary").first
        before = first.locator("xpath=..").get_attribute("open")
        first.focus()
        page.keyboard.press("Enter")
        assert first.locator("xpath=..").get_attribute("open") != before
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_it_prints_on_white_with_the_examples_unfolded(browser: Browser, page_file: Path) -> None:
    with closing(browser.new_context(viewport={"width": 720, "height": 1000})) as context:
        page = opened(context, page_file)
        page.emulate_media(media="print", color_scheme="dark")
        paper = page.evaluate(
            "getComputedStyle(document.documentElement).getPropertyValue('--paper')"
        )
        assert paper.strip() == "#fff"
        assert page.evaluate("document.documentElement.scrollWidth") == 720
        for one in page.locator("details.example > dl").all():
            box = one.bounding_box()
            assert box is not None and box["height"] > 0
        assert not any(map(is_visible, page.locator("nav").all()))
        assert page.pdf(format="A4").startswith(b"%PDF")
