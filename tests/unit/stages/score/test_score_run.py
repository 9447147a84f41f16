"""The score stage: joined by id, against raw references, beside its baselines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rouge_score.rouge_scorer import RougeScorer

from pipeline.artifact import RunDir
from pipeline.distributed.world import World
from pipeline.errors import ConfigError, CorruptArtifact, DataError, Preempted
from pipeline.files import record_tree, sha256_file
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, Metrics, StageContext
from stages.schema import Example, Prediction, RawRow, write_jsonl, write_shards
from stages.score import run as score_run
from stages.score.config import (
    BASELINES,
    Baseline,
    BertScoreConfig,
    LeadConfig,
    ScoreConfig,
    identity,
)
from stages.score.run import run
from stages.score.tally import Side, Tally

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
    root: Path,
    predictions: list[Prediction] = PREDICTIONS,
    seed: int = 1,
    raw: list[RawRow] = RAW,
    clean: list[Example] = CLEAN,
    brought: int | None = None,
) -> StageContext:
    """The context of score in a run with these predictions of the test split."""
    run_dir = RunDir(root)
    fetched = run_dir.open_partial("fetch", {}) / "raw"
    fetched.mkdir()
    write_shards(fetched / "test", raw)
    cleaned = run_dir.open_partial("clean", {})
    write_shards(cleaned / "test", clean)
    write_shards(cleaned / "train", TRAINING)
    generated = {"config": {"split": "test"}}
    write_jsonl(run_dir.open_partial("generate", generated) / "predictions.jsonl", predictions)
    payloads: dict[str, dict[str, Any]] = {"fetch": {}, "clean": {}, "generate": generated}
    metrics: Metrics = {"dataset": "reddit_tifu_long", "split_choice": "pegasus"}
    if brought is not None:
        metrics["rows_test"] = brought
    inputs = {
        name: run_dir.commit(name, payload, metrics, {}) for name, payload in payloads.items()
    }
    work = run_dir.open_partial("score", {})
    execution = Execution(processes=1, threads=1, ds_profile=Path("zero0.json"))
    progress = Progress("score", None, console=False)
    return StageContext(
        inputs, work, seed, World(), execution, StopFlag(), progress, guard=lambda: None
    )


def rouge_of(context: StageContext) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((context.work / "rouge.json").read_text(encoding="utf-8"))
    return found


def mean(context: StageContext, system: str, figure: str, profile: str = "rouge-score") -> float:
    """The mean F of a system."""
    found: float = rouge_of(context)["profiles"][profile]["systems"][system][figure]["fmeasure"][
        "mean"
    ]
    return found


def sum_of_hashes(*rows: tuple[str, str]) -> str:
    """By hand, of ids and texts: the same in any order."""
    found = [hashlib.sha256(json.dumps(row).encode()).hexdigest() for row in rows]
    return f"{sum(int(one, 16) for one in found) % 2**256:064x}"


def test_references_are_the_raw_text(tmp_path: Path) -> None:
    context = new_context(tmp_path)
    metrics = run(ScoreConfig(), context)
    # Against what clean made of it, the first row would share no word.
    assert metrics["rouge1_f"] == 1.0
    assert metrics["rougeLsum_f"] == 1.0
    assert metrics["rougeL_f"] == pytest.approx((0.5 + 1) / 2)
    assert metrics["exact_match"] == 0.5
    found = rouge_of(context)
    assert found["profile"] == "rouge-score"
    assert found["profiles"]["rouge-score"]["settings"]["references"] == "raw text"
    assert (found["decoding"], found["split"]) == ({"split": "test"}, "test")
    assert (found["dataset"], found["split_choice"]) == ("reddit_tifu_long", "pegasus")
    assert found["references_sha256"] == sum_of_hashes(("a", RAW[1].summary), ("b", RAW[2].summary))
    assert found["documents_sha256"] == sum_of_hashes(
        ("b", RAW[2].document), ("a", RAW[1].document)
    )


def test_means_are_of_the_examples_in_scores_parquet(tmp_path: Path) -> None:
    context = new_context(tmp_path, predicted(a="alpha delta", b="zeta"))
    run(ScoreConfig(), context)
    filters = [("system", "=", "model"), ("profile", "=", "rouge-score")]
    rows = pq.read_table(context.work / "scores.parquet", filters=filters).to_pylist()
    assert [row["id"] for row in rows] == ["a", "b"]
    scorer = RougeScorer(["rouge2", "rougeL"], use_stemmer=True)
    expected = [
        scorer.score(raw.summary, text)
        for raw, text in zip(RAW[1:], ("alpha delta", "zeta"), strict=True)
    ]
    model = rouge_of(context)["profiles"]["rouge-score"]["systems"]["model"]
    for name in ("rouge2", "rougeL"):
        for part in ("precision", "recall", "fmeasure"):
            values = [getattr(one[name], part) for one in expected]
            assert [row[f"{name}_{part}"] for row in rows] == values
            found = model[name][part]
            assert found["mean"] == pytest.approx(sum(values) / 2)
            assert min(values) <= found["low"] <= found["mean"] <= found["high"] <= max(values)


def test_baselines_are_scored_on_the_same_rows(tmp_path: Path) -> None:
    context = new_context(tmp_path)
    metrics = run(ScoreConfig(lead=LeadConfig(unit="words", count=2)), context)
    systems = rouge_of(context)["systems"]
    assert list(systems) == ["model", *BASELINES]
    assert systems["lead"]["label"] == "Lead (2 words)"
    assert metrics["lead_rouge1_f"] == mean(context, "lead", "rouge1") == 0.0
    assert mean(context, "oracle", "rouge1") == 0.0  # no word of these documents is in a reference
    # Every prediction against the next row's reference: they share no word.
    assert mean(context, "model_against_another_reference", "rouge1") == 0.0
    assert rouge_of(context)["rows"] == metrics["rows"] == 2


def test_the_oracle_is_made_of_the_document(tmp_path: Path) -> None:
    raw = [replace(RAW[1], summary="Third. Second words."), *RAW[2:]]
    context = new_context(tmp_path, raw=raw)
    run(ScoreConfig(sentences="simple"), context)
    rows = pq.read_table(context.work / "scores.parquet").to_pylist()
    (found,) = (row for row in rows if (row["id"], row["system"]) == ("a", "oracle"))
    assert found["rouge1_fmeasure"] == found["rougeLsum_fmeasure"] == 1.0
    assert found["rougeL_fmeasure"] < 1.0  # in the document's order


@pytest.mark.parametrize("chosen", [(), ("oracle",), ("random_training_summary", "lead")])
def test_baselines_are_those_that_are_asked_for(
    tmp_path: Path, chosen: tuple[Baseline, ...]
) -> None:
    context = new_context(tmp_path)
    metrics = run(ScoreConfig(baselines=chosen), context)
    assert list(rouge_of(context)["systems"]) == ["model", *chosen]
    assert ("lead_rouge1_f" in metrics) == ("lead" in chosen)


@pytest.mark.parametrize(("baseline", "is_told"), [("lead", True), ("oracle", True), (None, False)])
def test_documents_that_are_not_split_are_told_where_baselines_are_made_of_them(
    tmp_path: Path, baseline: Baseline | None, is_told: bool
) -> None:
    raw = [replace(row, document="A line.\n" + 50 * "One. Two. ") for row in RAW]
    context = new_context(tmp_path, raw=raw)
    run(ScoreConfig(baselines=(baseline,) if baseline else ()), context)
    told = "2 of 2 documents have a sentence of more than 80 words as newline splits them"
    assert any(one.startswith(told) for one in rouge_of(context)["warnings"]) is is_told


def test_the_lead_is_taken_from_the_document(tmp_path: Path) -> None:
    context = new_context(tmp_path, predicted(a=RAW[1].document, b=RAW[2].document))
    run(ScoreConfig(lead=LeadConfig(unit="words", count=99)), context)
    systems = rouge_of(context)["profiles"]["rouge-score"]["systems"]
    assert systems["lead"] == systems["model"]  # this model copies its documents whole


def test_random_summaries_are_training_s_and_follow_the_seed(tmp_path: Path) -> None:
    raw = [replace(row, summary="training summary 2") for row in RAW[1:]]
    figures, drawn = set(), set()
    for seed in range(6):
        context = new_context(tmp_path / str(seed), raw=raw, seed=seed)
        run(ScoreConfig(), context)
        figures.add(round(mean(context, "random_training_summary", "rouge1"), 6))
        drawn.add(rouge_of(context)["systems"]["random_training_summary"]["texts_sha256"])
    assert 2 < len(drawn) <= 6, "who compares runs has to see which were drawn"
    # Two draws of three summaries: each shares 2 or all 3 of the 3 words.
    assert figures == {round(value, 6) for value in (2 / 3, 5 / 6, 1.0)}


def test_every_profile_has_its_figures(tmp_path: Path) -> None:
    context = new_context(tmp_path, predicted(a="alphas", b="\u03b6"))
    metrics = run(ScoreConfig(profiles=("unicode", "rouge-score")), context)
    found = rouge_of(context)
    assert (found["profile"], list(found["profiles"])) == ("unicode", ["unicode", "rouge-score"])
    assert metrics["rouge1_f"] == mean(context, "model", "rouge1", "unicode") == 0.0
    assert mean(context, "model", "rouge1") > 0.0  # "alphas" is stemmed
    table = pq.read_table(context.work / "scores.parquet")
    assert table.num_rows == 2 * len(found["systems"]) * 2


def test_measures_stand_beside_rouge(tmp_path: Path) -> None:
    stopped = [Prediction("a", "First words one", -1.0, 4, "length"), *predicted(b="")]
    context = new_context(tmp_path, stopped)
    run(ScoreConfig(), context)
    found = rouge_of(context)["measures"]
    assert found["model"]["stopped_by_length"]["mean"] == 0.5
    assert found["model"]["coverage"] == {"mean": 2 / 3, "low": 2 / 3, "high": 2 / 3, "rows": 1}
    assert found["lead"]["coverage"]["mean"] == 1.0
    assert "stopped_by_length" not in found["lead"]
    assert "model_against_another_reference" not in found
    rows = pq.read_table(context.work / "measures.parquet").to_pylist()
    assert [row["id"] for row in rows if row["system"] == "model"] == ["a", "b"]
    few, empty = rouge_of(context)["warnings"]
    assert few.startswith("2 rows are few: 95 % intervals of fewer than 30 cover less often")
    assert empty == "1 of 2 predictions is empty and scores 0"


def test_what_is_measured_is_post_processed_as_the_headline_is(tmp_path: Path) -> None:
    raw = [*RAW[:2], replace(RAW[2], document="Epsilon. Zeta.", summary="epsilon\nzeta")]
    context = new_context(tmp_path, predicted(a="x", b="epsilon<n>zeta"), raw=raw)
    run(ScoreConfig(profiles=("pegasus",)), context)
    rows = pq.read_table(context.work / "measures.parquet").to_pylist()
    (found,) = (row for row in rows if (row["id"], row["system"]) == ("b", "model"))
    assert (found["length_ratio"], found["coverage"], found["novel_1gram"]) == (1.0, 1.0, 0.0)
    assert rouge_of(context)["exact_match"] == 0.5


def test_bertscore_stands_in_the_measures_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the package's model; test_bertscore.py has the real one."""
    given: list[tuple[str, str]] = []

    def bert_scores(
        _embedder: object, pairs: Iterable[tuple[str, str]]
    ) -> Iterator[tuple[float, float, float]]:
        for pair in pairs:
            given.append(pair)
            yield (0.5, 0.25, len(pair[0]) / 100)

    monkeypatch.setattr(score_run, "load_embedder", lambda *_: None)
    monkeypatch.setattr(score_run, "bertscore_settings", lambda _: {"layer": 3})
    monkeypatch.setattr(score_run, "bert_scores", bert_scores)
    written = predicted(a="gamma delta<n>alpha beta", b="epsilon zeta")  # scored as PREDICTIONS are
    context = new_context(tmp_path, written)
    config = ScoreConfig(bertscore=BertScoreConfig(model=tmp_path), profiles=("pegasus",))
    run(config, context)
    found = rouge_of(context)
    lengths = [len(one.prediction) for one in PREDICTIONS]
    assert found["measures"]["model"]["bertscore_f"]["mean"] == pytest.approx(sum(lengths) / 200)
    assert found["measures"]["model"]["bertscore_recall"]["mean"] == 0.25
    assert "bertscore_f" not in found["measures"]["lead"]
    assert found["bertscore"] == {"layer": 3}
    assert given == [
        (one.prediction, row.summary) for one, row in zip(PREDICTIONS, RAW[1:], strict=True)
    ]


@pytest.mark.parametrize(("brought", "is_told"), [(3, True), (2, False), (None, False)])
def test_rows_that_clean_left_out_are_told(
    tmp_path: Path, brought: int | None, is_told: bool
) -> None:
    context = new_context(tmp_path, brought=brought)
    run(ScoreConfig(), context)
    said = "2 of 3 rows of the test split are scored, as clean left the others out"
    assert rouge_of(context)["warnings"][0].startswith(said) is is_told


def test_one_row_has_no_other_reference(tmp_path: Path) -> None:
    context = new_context(tmp_path, predicted(a="alpha"), clean=CLEAN[:1])
    run(ScoreConfig(), context)
    found = rouge_of(context)
    assert "model_against_another_reference" not in found["systems"]
    assert "one row: there is no interval" in found["warnings"]


@pytest.mark.parametrize(
    "lines",
    [
        ['{"id": "b", "prediction": "zeta"}', '{"id": "a", "prediction": "alpha beta"}'],
        ["alpha beta", "zeta"],
    ],
    ids=["by id", "line by line"],
)
def test_another_system_s_file_is_scored_too(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "theirs.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    context = new_context(tmp_path / "run")
    run(ScoreConfig(predictions={"theirs": path}), context)
    assert list(rouge_of(context)["systems"])[-1] == "theirs"
    assert mean(context, "theirs", "rouge1") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "a", "text": "x"}', "lacks 1 row: 'b'; give one summary for each id"),
        (
            "\n".join(f'{{"id": "{id_}", "text": ""}}' for id_ in "abc"),
            "besides those .* 1 row: 'c'",
        ),
        ("\n".join(f'{{"id": "{id_}", "text": ""}}' for id_ in "aba"), "has 1 id twice"),
        ("x\ny\nz", "has 3 lines and no ids, the run 2 rows"),
        ("x", "has 1 line and no ids"),
    ],
)
def test_another_system_s_file_has_the_same_rows(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "theirs"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"score\.predictions\.theirs: {path} .*{said}"):
        run(ScoreConfig(predictions={"theirs": path}), new_context(tmp_path / "run"))


def test_another_system_s_file_has_ids_or_none(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_text('{"id": "a", "text": ""}\n{"text": ""}', encoding="utf-8")
    with pytest.raises(DataError, match="theirs, line 2: has no id, unlike line 1"):
        run(ScoreConfig(predictions={"theirs": path}), new_context(tmp_path / "run"))


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
    with pytest.raises(CorruptArtifact, match="do not match the clean rows of test: number"):
        run(ScoreConfig(), new_context(tmp_path, predictions))


def test_rows_that_fetch_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="raw rows of test have no 'b'"):
        run(ScoreConfig(), new_context(tmp_path, raw=RAW[:2]))


def test_two_runs_give_equal_bytes(tmp_path: Path) -> None:
    contexts = [new_context(tmp_path / name) for name in ("one", "two")]
    for context in contexts:
        run(ScoreConfig(), context)
    assert record_tree(contexts[0].work) == record_tree(contexts[1].work)


def test_a_stop_is_heard_and_leaves_no_half_a_file(tmp_path: Path) -> None:
    context = new_context(tmp_path)
    context.stop.request("SIGTERM")
    with pytest.raises(Preempted, match="SIGTERM; score keeps nothing of it and begins anew"):
        run(ScoreConfig(), context)
    assert context.progress.latest is not None
    assert (context.progress.latest["done"], context.progress.latest["total"]) == (0, 2)
    assert not (context.work / "rouge.json").exists()
    assert not (context.work / "scores.parquet").exists()
    again = replace(context, stop=StopFlag())
    assert run(ScoreConfig(), again)["rows"] == 2


def test_a_stop_is_heard_while_intervals_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = new_context(tmp_path)

    def scored(*_: object) -> Tally:
        context.stop.request("SIGTERM")  # when all rows are done
        return Tally(references=Side(texts=2))

    run(ScoreConfig(), context)  # leaves the files
    (context.work / "rouge.json").unlink()
    monkeypatch.setattr(score_run, "score_rows", scored)
    with pytest.raises(Preempted, match="begins anew"):
        run(ScoreConfig(), context)
    assert context.progress.latest is not None
    assert context.progress.latest["done"] == 0
    assert not (context.work / "rouge.json").exists()


def test_a_failure_leaves_no_half_a_file(tmp_path: Path) -> None:
    context = new_context(tmp_path, predicted(a="x"))
    with pytest.raises(CorruptArtifact):
        run(ScoreConfig(), context)
    assert not list(context.work.glob(".*.tmp"))


def test_the_identity_is_of_contents(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_text("x", encoding="utf-8")
    config = ScoreConfig(predictions={"theirs": path}, wordnet=tmp_path)
    found = identity(config, 1, sha256_file)
    assert found["predictions"] == {"theirs": sha256_file(path)}
    assert "wordnet" not in found
    with pytest.raises(ConfigError, match=r"score\.predictions\.no: .*nothing is not a file"):
        identity(ScoreConfig(predictions={"no": tmp_path / "nothing"}), 1, sha256_file)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"profiles": []}, "at least 1 item"),
        ({"profiles": ["rouge155", "rouge155"]}, "names one twice"),
        ({"predictions": {"lead": "x"}}, "lead is the name of a system of our own"),
        ({"predictions": {"a b": "x"}}, "should match pattern"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ScoreConfig.model_validate(settings)
