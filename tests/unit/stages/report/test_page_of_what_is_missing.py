"""The page of runs that are unfinished, were interrupted, damaged, or partly deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifact import RunDir
from pipeline.config import JSON
from pipeline.errors import CorruptArtifact, DataError
from stages.pages import run_page
from tests.unit.stages.report.builders import (
    ROWS,
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
from tests.unit.stages.report.reading import assert_whole, rows_of, text_of


def test_an_interruption_past_the_end_is_not_of_this_training(tmp_path: Path) -> None:
    """Logs of before `begins` was said cannot tell the trainings apart, but a shorter one ends before."""
    run_dir = new_run(tmp_path / "run")
    log = run_dir.logs("finetune") / "2025-12-31T000000+0000-1" / "rank0000.log"
    log.parent.mkdir(parents=True)
    resumed = "2025-12-31T00:00:01+0000 INFO stages.finetune.run: resumes after update 90000\n"
    log.write_text(resumed, encoding="utf-8")
    page = run_page(run_dir.root)
    assert "90,000" not in page and "went on from here" not in page


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


def test_how_a_launch_ended_is_told_as_its_log_says(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run")
    log = run_dir.logs("finetune") / "1" / "rank0000.log"
    log.parent.mkdir(parents=True)
    stamp = "2026-01-02T01:00:0{}+0000"
    begins = "INFO stages.finetune.run: begins a training of 50 updates"
    log.write_text(
        f"{stamp.format(1)} {begins}\n{stamp.format(2)} {begins}\n"
        f"{stamp.format(3)} INFO x: 3 records past update 0 are set aside in y\n"
        f"{stamp.format(4)} ERROR rank: rank 0 ends: Traceback:\npipeline.errors.DataError: <bad>\n"
        f"{stamp.format(5)} INFO stages.finetune.run: resumes after update 20\n",
        encoding="utf-8",
    )
    told = text_of(run_page(run_dir.root))
    assert "training started over, without a checkpoint, at 2026-01-02 01:00:02 UTC" in told
    assert "Update 20: training went on from here" in told
    assert "after an error (DataError: &lt;bad&gt;)." in told


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
    assert '"%d records past update %d are set aside' in (finetune / "metrics_log.py").read_text()
    rank = Path(__file__).parents[4] / "pipeline" / "rank.py"
    assert '_file_only.error("rank %d ends: %s"' in rank.read_text()


def test_a_finished_training_of_less_than_an_epoch_is_not_told_as_unfinished(
    tmp_path: Path,
) -> None:
    told = text_of(run_page(new_run(tmp_path / "run", trained={"epochs": 0.0}).root))
    assert "for 50 updates (0 epochs)" in told and "so far" not in told


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


def test_what_was_deleted_of_a_finished_run_is_not_called_undone(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", rouge=rouge_json(split="valid"))
    for stage in ("finetune", "generate"):
        shutil.rmtree(run_dir.committed(stage))
    page = run_page(run_dir.root)
    assert_whole(page)
    told = text_of(page)
    assert "Made, but no longer here: finetune and generate." in told
    assert "Not done yet" not in told and "no records of a training" not in told
    assert told.count("What finetune made is no longer here.") == 2
    assert "6 rows of the valid split" in told, "as the scores say"


def test_what_goes_on_with_an_unfinished_run_is_a_command(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path / "run", done=STAGES[:2])
    assert f"`sumpipe run RECIPE --run-dir {run_dir.root}` goes on" in run_page(run_dir.root)


def test_lines_that_kills_have_cut_short_are_passed_over_and_counted(tmp_path: Path) -> None:
    """In what was set aside of a finished training, and in the log of one that goes on."""
    torn = lines([{"update": 20, "seconds": 60.0}]) + '{"upd{"update": 30}\n'
    run_dir = new_run(tmp_path / "run")
    (run_dir.committed("finetune") / "metrics.set_aside.jsonl").write_text(torn, encoding="utf-8")
    told = text_of(run_page(run_dir.root))
    assert "1 line of the training's logs that a kill has cut short" in told.replace("&#39;", "'")
    assert "Lost to interruptions 1 min 00 s" in told
    run_dir = new_run(tmp_path / "unfinished", done=STAGES[:3])
    log = begin(run_dir, "finetune") / "metrics.jsonl"
    log.write_text(torn + lines(records()), encoding="utf-8")
    assert "records reach update 50 of 1,000" in text_of(run_page(run_dir.root))


def damaged(value: JSON, *names: str) -> JSON:
    """The same without what stands under the last of the names."""
    found: JSON = json.loads(json.dumps(value))
    place = found
    for name in names[:-1]:
        place = place[name]
    del place[names[-1]]
    return found


@pytest.mark.parametrize(
    ("rouge", "field"),
    [
        (damaged(rouge_json(), "profiles", "rouge-score", "settings", "headline_l"), "headline_l"),
        (damaged(rouge_json(), "profiles"), "profiles"),
        (rouge_json(profile={"n": 1}), "profile"),
        (rouge_json(profile="rouge155"), "lacks the headline, rouge155"),
        (rouge_json(profiles={"rouge-score": profile({"lead": 0.3})}), "lacks the system model"),
        ([], "dictionary"),
    ],
)
def test_scores_of_another_version_are_refused_by_name(
    tmp_path: Path, rouge: JSON, field: str
) -> None:
    run_dir = new_run(tmp_path / "run", done=STAGES[:6])
    score = new_run(tmp_path / "other").committed("score")
    text, size = json.dumps(rouge), (score / "rouge.json").stat().st_size
    (score / "rouge.json").write_text(text.ljust(size), encoding="utf-8")
    score.rename(run_dir.committed("score"))
    with pytest.raises(DataError, match=rf"rouge\.json: .*{field}.*--restart-from score"):
        run_page(run_dir.root)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("score", "scores.parquet"),
        ("encode", "train/00000.arrow"),
        ("clean", "ledger/train/00000.parquet"),
    ],
)
def test_a_damaged_table_of_the_same_size_is_refused_by_name(
    tmp_path: Path, stage: str, name: str
) -> None:
    run_dir = new_run(tmp_path / "run")
    file = run_dir.committed(stage) / name
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(CorruptArtifact, match=rf"cannot be read .*--restart-from {stage}"):
        run_page(run_dir.root)


@pytest.mark.parametrize("column", ["outcome", "leak_split"])
def test_a_ledger_of_other_columns_is_refused_by_name(tmp_path: Path, column: str) -> None:
    run_dir = new_run(tmp_path / "run")
    name = "ledger/train/00000.parquet"
    ledger, manifest = (run_dir.committed("clean") / one for one in (name, "manifest.json"))
    pq.write_table(pa.table({column: ["kept"]}), ledger)
    committed = json.loads(manifest.read_text(encoding="utf-8"))
    committed["files"][name]["bytes"] = ledger.stat().st_size
    manifest.write_text(json.dumps(committed), encoding="utf-8")
    with pytest.raises(CorruptArtifact, match=r"(?s)cannot be read .*--restart-from clean"):
        run_page(run_dir.root)


def test_no_baseline_and_no_measures_are_said_to_be_missing(tmp_path: Path) -> None:
    rouge = rouge_json(profiles={"rouge-score": profile({"model": 0.4})}, measures={})
    page = run_page(new_run(tmp_path / "run", rouge=rouge).root)
    assert_whole(page)
    told = text_of(page)
    assert "No baseline was scored" in told and "Nothing beside ROUGE was measured" in told


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
