"""The score stage: joined by id, against raw references, beside its baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rouge_score.rouge_scorer import RougeScorer

from pipeline.artifact import RunDir
from pipeline.distributed.world import World
from pipeline.errors import CorruptArtifact
from pipeline.files import record_tree
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, StageContext
from stages.schema import Example, Prediction, RawRow, write_jsonl
from stages.score.config import LeadConfig, ScoreConfig
from stages.score.run import run

# Raw references have two lines where clean has one: only the raw one gives this ROUGE-Lsum.
RAW = [
    RawRow("dropped", "", "Never scored", "test.jsonl:1"),
    RawRow("a", "First words. Second words. Third.", "alpha beta\n\ngamma delta", "test.jsonl:2"),
    RawRow("b", "Other text here. And more.", "epsilon zeta", "test.jsonl:3"),
]
CLEAN = [
    Example("a", RAW[1].document, "changed by clean"),
    Example("b", RAW[2].document, "epsilon zeta"),
]
TRAINING = [Example(f"train-{n}", "text", f"training summary {n}") for n in range(3)]


def predicted(**texts: str) -> list[Prediction]:
    return [Prediction(id_, text, -1.0, 4, "eos") for id_, text in texts.items()]


PREDICTIONS = predicted(a="gamma delta\nalpha beta", b="epsilon zeta")


def new_context(
    root: Path, predictions: list[Prediction] = PREDICTIONS, seed: int = 1
) -> StageContext:
    """The context of score in a run with these predictions of the test split."""
    run_dir = RunDir(root)
    raw = run_dir.open_partial("fetch", {}) / "raw"
    raw.mkdir()
    write_jsonl(raw / "test.jsonl", RAW)
    cleaned = run_dir.open_partial("clean", {})
    write_jsonl(cleaned / "test.jsonl", CLEAN)
    write_jsonl(cleaned / "train.jsonl", TRAINING)
    generated = {"config": {"split": "test"}}
    write_jsonl(run_dir.open_partial("generate", generated) / "predictions.jsonl", predictions)
    payloads: dict[str, dict[str, Any]] = {"fetch": {}, "clean": {}, "generate": generated}
    inputs = {name: run_dir.commit(name, payload, {}, {}) for name, payload in payloads.items()}
    work = run_dir.open_partial("score", {})
    execution = Execution(processes=1, threads=1, ds_profile=Path("zero0.json"))
    progress = Progress("score", None, console=False)
    return StageContext(
        inputs, work, seed, World(), execution, StopFlag(), progress, guard=lambda: None
    )


def rouge_of(context: StageContext) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((context.work / "rouge.json").read_text(encoding="utf-8"))
    return found


def test_references_are_the_raw_text(tmp_path: Path) -> None:
    context = new_context(tmp_path)
    metrics = run(ScoreConfig(), context)
    # Against what clean made of it, the first row would share no word.
    assert metrics["rouge1_f"] == 1.0
    assert metrics["rougeLsum_f"] == 1.0
    assert metrics["rougeL_f"] == pytest.approx((0.5 + 1) / 2)
    assert metrics["exact_match"] == 0.5
    assert rouge_of(context)["profile"]["references"] == "raw text of fetch"
    assert rouge_of(context)["decoding"] == {"split": "test"}


def test_means_are_of_the_examples_in_scores_parquet(tmp_path: Path) -> None:
    context = new_context(tmp_path, predicted(a="alpha delta", b="zeta"))
    run(ScoreConfig(), context)
    rows = pq.read_table(context.work / "scores.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["a", "b"]
    scorer = RougeScorer(["rouge2", "rougeL"], use_stemmer=True)
    expected = [
        scorer.score(raw.summary, text)
        for raw, text in zip(RAW[1:], ("alpha delta", "zeta"), strict=True)
    ]
    for name in ("rouge2", "rougeL"):
        for part in ("precision", "recall", "fmeasure"):
            values = [getattr(one[name], part) for one in expected]
            assert [row[f"{name}_{part}"] for row in rows] == values
            mean = rouge_of(context)["systems"]["model"][name][part]
            assert mean == pytest.approx(sum(values) / 2)


def test_baselines_are_scored_on_the_same_rows(tmp_path: Path) -> None:
    context = new_context(tmp_path)
    metrics = run(ScoreConfig(lead=LeadConfig(unit="words", count=2)), context)
    systems = rouge_of(context)["systems"]
    assert set(systems) == {
        "model",
        "lead",
        "random_training_summary",
        "model_against_another_reference",
    }
    assert metrics["lead_rouge1_f"] == systems["lead"]["rouge1"]["fmeasure"] == 0.0
    # Every prediction against the next row's reference: they share no word.
    assert systems["model_against_another_reference"]["rouge1"]["fmeasure"] == 0.0
    assert rouge_of(context)["rows"] == metrics["rows"] == 2


def test_the_lead_is_taken_from_the_document(tmp_path: Path) -> None:
    document = Example("a", RAW[1].document, "x")
    context = new_context(tmp_path, predicted(a=document.document, b=RAW[2].document))
    config = ScoreConfig(lead=LeadConfig(unit="words", count=99))
    run(config, context)
    systems = rouge_of(context)["systems"]
    assert systems["lead"] == systems["model"]  # this model copies its documents whole


@pytest.mark.parametrize(
    "predictions",
    [
        predicted(a="x"),
        predicted(a="x", b="y", c="z"),
        predicted(b="y", a="x"),
        predicted(a="x", c="y"),
        [*predicted(a="x", b="y"), *predicted(b="y")],
    ],
    ids=["missing", "one more", "another order", "another id", "twice"],
)
def test_predictions_that_do_not_match_the_rows_are_refused(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    with pytest.raises(CorruptArtifact, match="do not match the 2 clean rows of test"):
        run(ScoreConfig(), new_context(tmp_path, predictions))


def test_two_runs_give_equal_bytes(tmp_path: Path) -> None:
    contexts = [new_context(tmp_path / name) for name in ("one", "two")]
    for context in contexts:
        run(ScoreConfig(), context)
    assert record_tree(contexts[0].work) == record_tree(contexts[1].work)
