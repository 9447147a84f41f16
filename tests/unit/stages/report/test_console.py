"""The last words of a run: aligned, and with the places of things."""

from __future__ import annotations

import re
from pathlib import Path

from stages.report.config import ReportConfig
from stages.report.run import run
from tests.unit.stages.report.builders import (
    ONE_ROW,
    ROUGE_TYPES,
    new_run,
    report_context,
    rouge_json,
)


def console(tmp_path: Path, expected: dict[str, object] | None = None, **rouge: object) -> str:
    context = report_context(new_run(tmp_path / "a run", rouge=rouge_json(**rouge)))
    run(ReportConfig.model_validate({"expected": expected}), context)
    return (context.work / "console.txt").read_text(encoding="utf-8")


def test_every_mean_is_told_with_the_intervals_of_the_model(tmp_path: Path) -> None:
    told = console(tmp_path)
    systems = rouge_json()["profiles"]["rouge-score"]["systems"]
    for means in systems.values():
        figures = [f"{100 * means[kind]['fmeasure']['mean']:.2f}" for kind in ROUGE_TYPES]
        assert re.search(r"\s+".join(map(re.escape, figures)), told)
    model = systems["model"]["rougeLsum"]["fmeasure"]
    assert f"ROUGE-Lsum {100 * model['low']:.2f} to {100 * model['high']:.2f}\n" in told
    assert "over 6 rows of the test split, profile rouge-score" in told
    assert "exact match 16.67 %" in told


def test_one_row_has_no_interval(tmp_path: Path) -> None:
    told = console(tmp_path, rows=1, warnings=[ONE_ROW])
    assert "over 1 row of the test split" in told and f"warning: {ONE_ROW}\n" in told
    assert "interval" not in told.replace(ONE_ROW, "")


def test_what_is_published_comes_right_below_the_model(tmp_path: Path) -> None:
    told = console(tmp_path, {"rouge1": 44.38, "rougeLsum": 41.17, "source": "table 4"})
    first, second = told.splitlines()[1:3]
    assert first.startswith("Model ")
    assert second.split() == ["Published:", "table", "4", "44.38", "-", "-", "41.17"]


def test_places_are_named_as_they_will_be(tmp_path: Path) -> None:
    told = console(tmp_path, warnings=["odd"])
    assert "\nReport: {run_dir}/report/index.html\nModel:  {run_dir}/export/model\n" in told
    assert "sumpipe status {run_dir}" in told and "warning: odd\n" in told
    assert "report.partial" not in told
    assert all(len(line) <= 100 for line in told.splitlines())
    header, *rows = told.splitlines()[:4]
    assert {len(row) for row in rows} == {len(header)}
