"""What `sumpipe compare` refuses, and how it says so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, CorruptArtifact, DataError, PipelineError
from stages.compare.agreement import OF_DOCUMENTS
from stages.compare.folders import compare_folders
from stages.score.measures import COPYING
from tests.unit.stages.compare.scored_folders import SETTINGS, write_run, write_scores

VALUES = [0.1, 0.2, 0.3]
MODEL = {"model": {"rouge1": VALUES, "density": VALUES}}


def refused(error: type[PipelineError], *paths: Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        compare_folders(list(paths), **options)
    return str(caught.value)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_scores(tmp_path / "first", MODEL)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": "valid"}, r"split: test -> valid"),
        ({"references_sha256": "cd" * 32}, r"references: the texts differ.*abababababab -> cdcdcdcdcdcd"),
        ({"ids": ["row-0", "row-1", "x"]}, r"ids: 1 only in the first \(row-2\); 1 only in the second \(x\)"),
        (
            {"profiles": {"rouge-score": {**SETTINGS, "rules": {**SETTINGS["rules"], "stemmer": "none"}}}},
            r"profile rouge-score: rules\.stemmer porter-nltk -> none",
        ),
        (
            {"profiles": {"rouge-score": {**SETTINGS, "algorithm": 2, "wordnet_sha256": "ab" * 32}}},
            r"algorithm 1 -> 2\n.*wordnet_sha256 \(absent\) -> abababababab",
        ),
    ],
    ids=["split", "references", "ids", "stemmer", "several"],
)  # fmt: skip
def test_scores_of_different_things(
    first: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    second = write_scores(tmp_path / "second", MODEL, **change)
    told = refused(DataError, first, second)
    assert f"{second} cannot be compared with {first}" in told
    assert re.search(reason, told)
    assert "score both by the same profile" in told


def test_all_that_differs_is_told_at_once(first: Path, tmp_path: Path) -> None:
    settings = {"rouge-score": {**SETTINGS, "sentences": "punkt"}}
    second = write_scores(
        tmp_path / "second", MODEL, split="valid", profiles=settings, references_sha256="00" * 32
    )
    told = refused(DataError, first, second)
    assert all(word in told for word in ("split:", "references:", "sentences newline -> punkt"))


def lead(path: Path, count: int = 3, **told: Any) -> Path:
    systems = {"lead": {"label": f"Lead ({count} sentences)"}, "oracle": {"label": "Oracle"}}
    values = {name: {"rouge1": VALUES} for name in systems}
    return write_scores(path, values, **{"systems": systems, **told})


@pytest.mark.parametrize(
    ("system", "change", "reason"),
    [
        ("lead", {"count": 1}, r"system lead: label Lead \(3 sentences\) -> Lead \(1 sentences\)"),
        ("lead", {"documents_sha256": "cd" * 32}, "documents: .*baba -> cdcdcdcdcdcd.*of which lead is made"),
        ("oracle", {"documents_sha256": "cd" * 32}, "of which oracle is made"),
        (
            "oracle",
            {"profile": "unicode", "profiles": {"unicode": SETTINGS, "rouge-score": SETTINGS}},
            "oracle: chosen by profile rouge-score -> unicode",
        ),
    ],
)  # fmt: skip
def test_baselines_that_are_others_by_the_same_name(
    tmp_path: Path, system: str, change: dict[str, Any], reason: str
) -> None:
    ours, same = lead(tmp_path / "first"), lead(tmp_path / "same", documents_sha256=None)
    assert compare_folders([ours, same], systems=[system]).pairs
    assert re.search(
        reason, refused(DataError, ours, lead(tmp_path / "b", **change), systems=[system])
    )


def test_random_summaries_that_are_other_draws(tmp_path: Path) -> None:
    system = "random_training_summary"

    def drawn(name: str, **sha256: str) -> Path:
        systems = {system: {"label": "Random", **sha256}}
        return write_scores(tmp_path / name, {system: {"rouge1": VALUES}}, systems=systems)

    ours, same = drawn("a", texts_sha256="ab" * 32), drawn("b", texts_sha256="ab" * 32)
    assert compare_folders([ours, same], systems=[system]).pairs
    other, old, older = drawn("c", texts_sha256="cd" * 32), drawn("d"), drawn("e")
    told = refused(DataError, ours, other, systems=[system])
    assert "system random_training_summary: texts_sha256 abababababab" in told
    assert "texts_sha256 abababababab" in refused(DataError, ours, old, systems=[system])
    told = refused(DataError, old, older, systems=[system])
    assert "scored by another version, which did not say what was drawn" in told
    systems = {system: {"label": "Random"}, "model": {"label": "Model"}}
    values = {name: {"rouge1": VALUES} for name in systems}
    one = write_scores(tmp_path / "f", values, systems=systems)
    for order in ([*systems], [*systems][::-1]):
        assert compare_folders([one], systems=order).pairs, "of one run, what was drawn is the same"


def test_another_row_s_reference_depends_on_the_order(tmp_path: Path) -> None:
    system = "model_against_another_reference"
    ours, turned = (
        write_scores(tmp_path / name, {system: {"rouge1": VALUES}}, ids=ids)
        for name, ids in (("a", ["x", "y", "z"]), ("b", ["z", "y", "x"]))
    )
    assert "order of the rows" in refused(DataError, ours, turned, systems=[system])


def test_metrics_of_documents_are_those_that_score_takes_of_them() -> None:
    assert OF_DOCUMENTS == COPYING


def test_words_for_people_do_not_matter(first: Path, tmp_path: Path) -> None:
    words = ("scorer", "tokenizer", "stemmer", "source", "published_estimate")
    changed = {"rouge-score": SETTINGS | dict.fromkeys(words, "said otherwise")}
    second = write_scores(tmp_path / "second", MODEL, profiles=changed)
    assert compare_folders([first, second]).pairs


def test_scores_that_do_not_say_their_rules(first: Path, tmp_path: Path) -> None:
    mute = {name: value for name, value in SETTINGS.items() if name != "rules"}
    second = write_scores(tmp_path / "second", MODEL, profiles={"rouge-score": mute})
    assert "which did not say its rules; score it again" in refused(DataError, first, second)


def test_how_intervals_were_drawn_and_bare_files_split_do_not_matter(
    first: Path, tmp_path: Path
) -> None:
    settings = {
        "rouge-score": {**SETTINGS, "interval": {"resamples": 9, "seed": 7, "confidence": 0.9}}
    }
    second = write_scores(tmp_path / "second", MODEL, split=None, profiles=settings)
    assert compare_folders([first, second]).pairs


def test_a_profile_or_system_that_is_not_there(first: Path, tmp_path: Path) -> None:
    other = write_scores(tmp_path / "other", MODEL, profiles={"rouge155": SETTINGS})
    told = refused(DataError, first, other)
    assert f"{other}: has no scores by profile 'rouge-score', only by rouge155" in told
    told = refused(DataError, first, other, systems=["oracle"])
    assert "has no system 'oracle'; choose a --system among model" in told
    told = refused(ConfigError, first, write_scores(tmp_path / "b", MODEL), moved_by="rouge9")
    assert "--by rouge9" in told
    assert "rougeLsum, density" in told
    bare = write_scores(tmp_path / "c", {"model": {"rouge1": VALUES}})
    assert "no metric of all these scores" in refused(ConfigError, first, bare, moved_by="density")


def test_fewer_than_two_things(first: Path, tmp_path: Path) -> None:
    second = write_scores(tmp_path / "second", MODEL)
    assert "is one run" in refused(ConfigError, first)
    assert "is given twice" in refused(ConfigError, first, first / ".." / "first")
    assert "is given twice" in refused(ConfigError, first, systems=["model", "model"])
    told = refused(ConfigError, first, second, systems=["model", "lead"])
    assert "got 2 systems of 2 runs" in told
    both = ["model", "lead"]
    assert "--seeds" in refused(ConfigError, first, systems=both, as_seeds=True)
    run = write_run(tmp_path / "run", MODEL)
    assert "is given twice" in refused(ConfigError, run, run / "score")


def test_what_has_no_scores(first: Path, tmp_path: Path) -> None:
    assert "is neither a run directory" in refused(ConfigError, first, tmp_path / "nowhere")
    unscored = tmp_path / "unscored"
    (unscored / "score.partial").mkdir(parents=True)
    (unscored / "recipe.yaml").write_text("name: any\n", encoding="utf-8")
    told = refused(DataError, first, unscored)
    assert f"{unscored}: is not scored yet" in told
    assert "--to score" in told


def test_scores_of_another_version(first: Path, tmp_path: Path) -> None:
    old = write_scores(tmp_path / "old", MODEL)
    rouge = json.loads((old / "rouge.json").read_text(encoding="utf-8"))
    for content, fault in (
        ({name: value for name, value in rouge.items() if name != "profiles"}, "profiles: Field required"),
        (5, "it: Input should be a valid dictionary"),
        ({**rouge, "profile": "x"}, "it: Value error, profiles lacks the headline, x"),
        ({**rouge, "profiles": [1]}, "profiles: Input should be a valid dictionary"),
        ({**rouge, "profiles": {"rouge-score": 1}}, "profiles.rouge-score: Input should be"),
        ({**rouge, "profiles": {"rouge-score": {}}}, "profiles.rouge-score.settings: Field required"),
        (
            {**rouge, "profiles": {"rouge-score": {"settings": SETTINGS, "systems": {"model": 1}}}},
            "profiles.rouge-score.systems.model: Input should be a valid dictionary",
        ),
        ({**rouge, "systems": ["model"]}, "systems: Input should be a valid dictionary"),
        ({**rouge, "rows": "3"}, "rows: Input should be a valid integer"),
        ({**rouge, "references_sha256": None}, "references_sha256: Input should be a valid string"),
        ({**rouge, "dataset": 1}, "dataset.str: Input should be a valid string"),
        ({**rouge, "bertscore": "x"}, "bertscore: Input should be a valid dictionary"),
    ):  # fmt: skip
        (old / "rouge.json").write_text(json.dumps(content), encoding="utf-8")
        told = refused(DataError, first, old)
        assert f"{old}/rouge.json: {fault}" in told
        assert "another version wrote it, or it was altered; score it again" in told
    run = write_run(tmp_path / "run", MODEL)
    manifest = json.loads((run / "score" / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"]["measures.parquet"]
    (run / "score" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "wrote no measures.parquet" in refused(DataError, first, run)


@pytest.mark.parametrize("name", ["rouge.json", "scores.parquet", "measures.parquet"])
@pytest.mark.parametrize("is_run", [True, False], ids=["run", "folder"])
def test_damaged_files(first: Path, tmp_path: Path, name: str, is_run: bool) -> None:
    root = tmp_path / "second"
    folder = write_run(root, MODEL) / "score" if is_run else write_scores(root, MODEL)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(b"not what it was"[: len(content)])
    assert name in refused(CorruptArtifact, first, root)
    (folder / name).write_bytes(b"x" * len(content))  # of the committed size
    assert name in refused(CorruptArtifact, first, root)


def test_folders_whose_names_are_not_text(first: Path, tmp_path: Path) -> None:
    odd = write_scores(tmp_path / "odd", MODEL).rename(tmp_path / os.fsdecode(b"odd\xff"))
    (tmp_path / "link").symlink_to(odd)
    link = tmp_path / os.fsdecode(b"\xff")
    link.symlink_to(first)
    for path, name in ((odd, "odd\\xff"), (tmp_path / "link", "odd\\xff"), (link, "\\xff")):
        told = refused(ConfigError, first, path)
        assert told.startswith(f"{tmp_path}/{name}: this name is not UTF-8")


def test_a_missing_file(first: Path, tmp_path: Path) -> None:
    second = write_scores(tmp_path / "second", MODEL)
    (second / "scores.parquet").unlink()
    assert "scores.parquet: is missing" in refused(CorruptArtifact, first, second)


def test_rows_that_are_not_those_of_rouge_json(first: Path, tmp_path: Path) -> None:
    second = write_scores(tmp_path / "second", MODEL, rows=4)
    told = refused(CorruptArtifact, first, second)
    assert "has 3 rows with 3 ids of model under rouge-score, where rouge.json counts 4" in told
    twice = write_scores(tmp_path / "twice", MODEL, ids=["row-0", "row-0", "row-2"])
    assert "has 3 rows with 2 ids" in refused(CorruptArtifact, first, twice)
    other = write_scores(tmp_path / "other", MODEL)
    measured = pq.read_table(other / "measures.parquet")
    pq.write_table(measured.slice(1), other / "measures.parquet")
    assert "does not have the rows of" in refused(CorruptArtifact, first, other)
    empty = write_scores(tmp_path / "empty", MODEL)
    table = pq.read_table(empty / "scores.parquet")
    holes = pa.array([None, 0.1, 0.2], pa.float64())
    column = table.schema.get_field_index("rouge2_fmeasure")
    pq.write_table(table.set_column(column, "rouge2_fmeasure", holes), empty / "scores.parquet")
    assert "has no rouge2 in some rows" in refused(CorruptArtifact, first, empty)
