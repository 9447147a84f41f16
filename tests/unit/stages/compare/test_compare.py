"""Comparisons by hand, and `sumpipe compare` on scores as they lie on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.config import JSON
from pipeline.errors import DataError
from pipeline.log import print_table
from stages.compare.command import add_compare, show
from stages.compare.comparison import Comparison, Pair
from stages.compare.folders import compare_folders
from stages.compare.tables import pair_table, system_table
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe
from tests.conftest import CommandLine
from tests.unit.stages.compare.scored_folders import SETTINGS, names, write_run, write_scores

ROWS = 60


@pytest.fixture
def compare(command_line: Callable[..., CommandLine]) -> Callable[..., Any]:
    """The command alone."""
    call = command_line(STAGES, SummarizationRecipe, (add_compare,))
    return lambda *arguments: call("compare", *arguments)


def sample(seed: int, rows: int = ROWS, gain: float = 0.0) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).beta(2, 5, size=rows) + gain]


def folder(root: Path, values: list[float], **more: Any) -> Path:
    return write_scores(root, {"model": {"rouge1": values}}, **more)


def only(comparison: Comparison) -> Pair:
    (pair,) = comparison.pairs
    return pair


def test_differences_by_hand(tmp_path: Path) -> None:
    first = folder(tmp_path / "a", [0.1, 0.2, 0.6])
    second = folder(tmp_path / "b", [0.3, 0.2, 0.7])
    found = compare_folders([first, second])
    (one, *_) = only(found).differences
    assert (one.metric, one.first, one.second) == ("rouge1", pytest.approx(0.3), pytest.approx(0.4))
    assert one.change.mean == pytest.approx(0.1)
    assert one.change.rows == found.rows == 3
    assert [moved.id for moved in only(found).moved] == ["row-0", "row-2"]  # row-1 did not move
    assert [system.name for system in found.systems] == [str(first), str(second)]
    assert found.split == "test"
    assert found.spreads == ()
    assert "interval" not in found.settings


def test_the_interval_is_the_paired_one_of_scipy(tmp_path: Path) -> None:
    first, second = sample(1), sample(2, gain=0.05)
    found = compare_folders([folder(tmp_path / "a", first), folder(tmp_path / "b", second)], seed=6)
    theirs = stats.bootstrap(
        (np.array(first), np.array(second)),
        lambda one, two, axis: np.mean(two - one, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(6),
    ).confidence_interval
    change = only(found).differences[0].change
    assert (change.low, change.high) == pytest.approx((theirs.low, theirs.high))


def test_what_the_scores_warn_of_is_printed(tmp_path: Path, compare: Callable[..., Any]) -> None:
    first = folder(tmp_path / "a", sample(1), warnings=["many odd rows"])
    answer = compare(first, folder(tmp_path / "b", sample(2)))
    assert answer.code == 0 and f"\n{first}: many odd rows\n" in answer.out


def test_one_row_promises_no_interval(tmp_path: Path, compare: Callable[..., Any]) -> None:
    answer = compare(folder(tmp_path / "a", [0.1]), folder(tmp_path / "b", [0.2]))
    assert "1 row; profile rouge-score, ROUGE F x 100\n" in answer.out


def test_runs_that_are_alike_have_p_1(tmp_path: Path) -> None:
    systems = {"model": {"rouge1": sample(1), "coverage": sample(2)}}
    found = compare_folders([write_scores(tmp_path / name, systems) for name in "ab"])
    assert [one.metric for one in only(found).differences][-1] == "coverage"
    for one in only(found).differences:
        assert (one.change.mean, one.change.low, one.change.high) == (0, 0, 0)
        assert (one.p, one.p_holm) == (1.0, 1.0)
    assert only(found).moved == ()


def test_rows_are_matched_by_id_whatever_their_order(tmp_path: Path) -> None:
    values, ids = sample(1), names(ROWS)
    first = folder(tmp_path / "a", values, ids=ids)
    second = folder(tmp_path / "b", values[::-1], ids=ids[::-1])
    assert only(compare_folders([first, second])).differences[0].p == 1.0


def test_systems_of_one_run_are_compared(tmp_path: Path) -> None:
    systems = {"lead": {"rouge1": sample(1)}, "oracle": {"rouge1": sample(1, gain=0.2)}}
    run = write_run(tmp_path / "run", systems)
    found = compare_folders([run], systems=["lead", "oracle"])
    assert (only(found).first, only(found).second) == ("lead", "oracle")
    for one in only(found).differences:
        assert one.p is not None
        assert one.p < 0.001
        assert one.p_holm == pytest.approx(4 * one.p)


def test_p_values_are_corrected_by_kind_over_all_pairs(tmp_path: Path) -> None:
    gains = {"a": 0.0, "b": 0.5, "c": 0.5}
    folders = [
        write_scores(
            tmp_path / name, {"model": {"rouge1": sample(1, gain=gain), "density": sample(1)}}
        )
        for name, gain in gains.items()
    ]
    found = compare_folders(folders)
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        (str(folders[0]), str(other)) for other in folders[1:]
    ]
    for pair in found.pairs:
        rouge, density = pair.differences[0], pair.differences[-1]
        assert rouge.p == 1 / 10000
        assert rouge.p_holm == pytest.approx(8 / 10000)  # four types, two pairs, all of one p
        assert density.p_holm == 1.0


def test_rows_without_a_value_are_left_out(tmp_path: Path) -> None:
    first = {
        "rouge1": sample(1, 4),
        "density": [1.0, None, 3.0, 4.0],
        "coverage": [0.5, *[None] * 3],
    }
    second = {"rouge1": sample(1, 4), "density": [2.0, 9.0, None, 4.0], "compression": [1.0] * 4}
    found = compare_folders(
        [write_scores(tmp_path / "a", {"model": first}),
         write_scores(tmp_path / "b", {"model": second})]
    )  # fmt: skip
    (density,) = (one for one in only(found).differences if one.metric == "density")
    assert (density.first, density.second, density.change.rows) == (2.5, 3.0, 2)
    assert any(note.startswith("coverage, compression: not compared") for note in found.notes)
    rows = {cells[0]: cells for cells in pair_table(only(found)).rows}
    assert rows["density, words"][-1] == "2" and rows["ROUGE-1"][-1] == "4"
    means = {cells[0]: cells[1] for cells in system_table(found).rows}
    assert means["density, words"].endswith("; 3 of 4 rows)") and "rows" not in means["ROUGE-1"]


def test_other_documents_leave_rouge_and_take_what_reads_them(
    compare: Callable[..., Any], tmp_path: Path
) -> None:
    values = {"rouge1": sample(1), "density": sample(2), "repetition": sample(3)}
    first, second, third = (
        write_scores(tmp_path / name, {"model": values}, documents_sha256=digest)
        for name, digest in (("a", "ab" * 32), ("b", "cd" * 32), ("c", None))
    )
    found = compare_folders([first, second])
    metrics = [one.metric for one in only(found).differences]
    assert metrics == ["rouge1", "rouge2", "rougeL", "rougeLsum", "repetition"]
    assert all("density" not in system.figures for system in found.systems)
    (note,) = found.notes
    assert note.startswith(
        "documents: the texts differ (sha256 abababababab -> cdcdcdcdcdcd), so novel_1gram"
    )
    assert note.endswith("density, compression are left out; ROUGE does not read them.")
    assert compare(first, second, "--by", "density").code == 2
    assert "density" not in compare_folders([third, first, second]).systems[1].figures
    # Nobody knows whether documents that were not given differ.
    assert only(compare_folders([first, third])).differences[4].metric == "density"


BERTSCORE = {"model": "base", "model_sha256": "ab" * 32, "layer": 9, "transformers": "5.1"}


def test_other_bertscores_leave_rouge_and_say_what_differs(tmp_path: Path) -> None:
    values = {"rouge1": sample(1), "bertscore_f": sample(2)}

    def scores(name: str, **changed: object) -> Path:
        told = {**BERTSCORE, **changed} if changed or name == "base" else None
        return write_scores(tmp_path / name, {"model": values}, bertscore=told)

    base = scores("base")
    found = compare_folders([base, scores("large", layer=17, model_sha256="cd" * 32)])
    assert [one.metric for one in only(found).differences] == [
        "rouge1",
        "rouge2",
        "rougeL",
        "rougeLsum",
    ]
    assert found.notes == (
        "BERTScore: layer 9 -> 17; model_sha256 abababababab -> cdcdcdcdcdcd, so bertscore_precision, "
        "bertscore_recall, bertscore_f are left out; ROUGE does not read them.",
    )
    for other, notes in (
        (scores("renamed", model="b"), ()),
        (scores("none"), ()),
        (scores("newer", transformers="5.2"), ("BERTScores are of several versions of transformers",)),
    ):  # fmt: skip
        found = compare_folders([base, other])
        assert only(found).differences[4].metric == "bertscore_f"
        assert [one.split(":")[0] for one in found.notes] == [*notes]


def test_measures_of_predictions_that_were_changed_in_other_ways_are_left_out(
    tmp_path: Path,
) -> None:
    changed = {**SETTINGS, "rules": {**SETTINGS["rules"], "postprocess": "pegasus"}}
    values = {
        "model": {"rouge1": sample(1), "length_ratio": sample(2), "stopped_by_length": sample(3)}
    }
    both = {"rouge-score": SETTINGS, "pegasus": changed}
    folders = [write_scores(tmp_path / name, values, profiles=both, profile=name) for name in both]
    found = compare_folders(folders)
    assert [one.metric for one in only(found).differences][4:] == ["stopped_by_length"]
    (note,) = found.notes
    assert note.startswith(
        "What is measured is post-processed by the headline profile (none -> pegasus)"
    )


def test_runs_of_several_versions_of_nltk_are_compared_and_it_is_told(tmp_path: Path) -> None:
    folders = [
        folder(tmp_path / name, sample(1), profiles={"rouge-score": {**SETTINGS, "nltk": name}})
        for name in ("3.9", "3.10")
    ]
    (note,) = compare_folders(folders).notes
    assert f"several versions of nltk: 3.9 ({folders[0]}), 3.10 ({folders[1]})" in note


def test_few_rows_are_told(tmp_path: Path) -> None:
    def notes(rows: int) -> tuple[str, ...]:
        folders = [folder(tmp_path / f"{rows}{name}", sample(1, rows)) for name in "ab"]
        return compare_folders(folders).notes

    assert notes(29) == (
        "29 rows are few: 95 % intervals of fewer than 30 cover less often than that.",
    )
    assert notes(30) == ()


def test_what_the_scores_say_of_few_rows_is_told_once(tmp_path: Path) -> None:
    for count in (1, 3):
        folders = [scored(tmp_path / f"{count}{name}", made_rows(count))[0] for name in "ab"]
        notes = compare_folders(folders).notes
        assert [one for one in notes if "row" in one and "in one line" not in one] == [notes[0]]
        assert notes[0].startswith(("One row: neither", "3 rows are few: "))


def test_few_values_of_a_metric_are_told(tmp_path: Path) -> None:
    some = {"rouge1": sample(1), "density": [1.0, 2.0] + [None] * (ROWS - 2)}
    other = {**some, "coverage": [1.0] + [None] * (ROWS - 1), "compression": sample(2)}
    (note,) = compare_folders(
        [write_scores(tmp_path / name, {"model": one}) for name, one in (("a", some), ("b", some))]
    ).notes
    assert note.startswith("Few rows have a value of density (2): 95 % intervals of fewer than 30")
    found = compare_folders([write_scores(tmp_path / "c", {"model": other, "lead": other})],
                            systems=["model", "lead"])  # fmt: skip
    assert "of density (2):" in found.notes[0], "a single value has no interval"


def test_a_system_s_interval_is_that_of_its_scores(tmp_path: Path) -> None:
    rows = made_rows()
    for number, row in enumerate(rows):
        row["document"] += " more" * number
    folders = [scored(tmp_path / str(seed), rows, seed)[0] for seed in (1, 5)]
    found = compare_folders(folders, seed=9, systems=["lead"])
    for folder, system in zip(folders, found.systems, strict=True):
        rouge = json.loads((folder / "rouge.json").read_text(encoding="utf-8"))
        theirs = rouge["profiles"]["rouge-score"]["systems"]["lead"]["rouge1"]["fmeasure"]
        ours = system.figures["rouge1"]
        assert (ours.low, ours.high) == (theirs["low"], theirs["high"])
        compression = rouge["measures"]["lead"]["compression"]
        assert system.figures["compression"].high == compression["high"]
    lows = {system.figures["compression"].low for system in found.systems}
    assert len(lows) == 2, "each by its own seed"


def test_one_row_has_neither_interval_nor_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare_folders([folder(tmp_path / "a", [0.2]), folder(tmp_path / "b", [0.4])])
    one = only(found).differences[0]
    assert (one.change.low, one.change.high, one.p, one.p_holm) == (None, None, None, None)
    assert found.systems[0].figures["rouge1"].low is None
    assert "One row: neither an interval nor a test is possible." in found.notes
    show(found)
    assert "interval:" not in capsys.readouterr().out, "there is none to tell the making of"


def test_a_terminal_shows_names_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    print_table(("", "n[bold]", "x[/b]"), [("a:smile:", "[red]1[/red]", "2")])
    told = capsys.readouterr().out
    assert all(name in told for name in ("n[bold]", "x[/b]", "a:smile:", "[red]1[/red]"))


def test_settings_that_differ_and_texts_that_moved_are_shown(tmp_path: Path) -> None:
    first = write_run(
        tmp_path / "a", {"model": {"rouge1": [0.1, 0.5, 0.2]}}, texts={"row-0": "old words"}
    )
    second = write_run(
        tmp_path / "b",
        {"model": {"rouge1": [0.4, 0.5, 0.3]}},
        settings={"lr": 3e-5},
        texts={"row-0": "new words"},
    )
    found = compare_folders([first, second])
    assert only(found).settings == ("finetune.lr 1e-05 -> 3e-05",)
    moved, unknown = only(found).moved
    assert (moved.first_text, moved.second_text) == ("old words", "new words")
    assert (unknown.id, unknown.first_text) == ("row-2", None)
    assert any("texts are not shown" in note for note in found.notes)


def test_other_parts_of_rouge_and_other_rows_to_look_at(tmp_path: Path) -> None:
    systems = [
        {"model": {"rouge1": [0.2, 0.4], "density": [1.0, 5.0]}},
        {"model": {"rouge1": [0.6, 0.4], "density": [1.0, 2.0]}},
    ]
    folders = [write_scores(tmp_path / str(n), one) for n, one in enumerate(systems)]
    found = compare_folders(folders, part="precision", moved_by="density")
    assert only(found).differences[0].change.mean == pytest.approx(0.1)
    assert [moved.id for moved in only(found).moved] == ["row-1"]


def test_the_command_prints_tables(compare: Callable[..., Any], tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"model": {"rouge1": [0.1, 0.5]}}, texts={"row-0": "old"})
    second = write_run(
        tmp_path / "b",
        {"model": {"rouge1": [0.4, 0.5]}},
        settings={"lr": 1},
        texts={"row-0": "new\nlines" + "x" * 999},
    )
    answer = compare(first, second)
    assert answer.code == 0, answer.err
    assert "cnn_dailymail, test split, 2 rows; profile rouge-score, ROUGE F x 100" in answer.out
    assert "ROUGE-1     30.00  45.00   +15.00  +0.00 to +30.00" in answer.out
    assert "finetune.lr 1e-05 -> 1" in answer.out
    assert 'row-0: 10.00 -> 40.00 (+30.00)\n  first  "old"\n  second "new\\nlinesxxx' in answer.out
    assert 'xxx..."' in answer.out
    assert "9,999 permutations" in answer.out


def test_json_is_the_comparison(compare: Callable[..., Any], tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, sample(1, gain=gain)) for name, gain in (("a", 0), ("b", 1))]
    answer = compare(*folders, "--json")
    found = json.loads(answer.out)
    assert answer.code == 0
    (pair,) = found["pairs"]
    assert pair["differences"][0]["metric"] == "rouge1"
    assert pair["differences"][0]["change"]["mean"] == pytest.approx(1.0)
    assert found["systems"][0]["figures"]["rouge1"]["rows"] == ROWS
    assert compare(*folders, "--json").out == answer.out


def scored(folder: Path, rows: list[dict[str, str]], seed: int = 1) -> tuple[Path, JSON]:
    """Score rows as the project does, a copy of their references against them."""
    from stages.score.bare import score_files
    from stages.score.config import LeadConfig
    from stages.score.profiles import readers_of

    folder.mkdir()
    path = folder.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    readers = readers_of(["rouge-score"], None, None)
    options: Any = {"lead": LeadConfig(), "processes": 1, "threads": 1, "seed": seed}
    return folder, score_files(path, path, readers, folder, **options)


def made_rows(count: int = 40) -> list[dict[str, str]]:
    """Documents of six sentences; a reference is the beginning of the fifth."""
    random = np.random.default_rng(1)
    words = [f"word{number}" for number in range(200)]
    rows = []
    for number in range(count):
        sentences = [" ".join(random.choice(words, 8)).capitalize() + "." for _ in range(6)]
        reference = " ".join(sentences[4].split()[:6])
        rows.append({"id": str(number), "document": " ".join(sentences), "summary": reference})
    return rows


def test_scores_that_the_project_writes_compare_in_any_order_and_not_of_other_texts(
    tmp_path: Path,
) -> None:
    rows = made_rows()
    first, _ = scored(tmp_path / "a", rows)
    turned, _ = scored(tmp_path / "b", rows[::-1])
    found = compare_folders([first, turned])
    assert {one.p for one in only(found).differences} == {1.0}
    assert found.notes == ()
    documents, _ = scored(
        tmp_path / "c", [{**row, "document": row["document"] + " More."} for row in rows]
    )
    assert "documents: the texts differ" in compare_folders([first, documents]).notes[0]
    with pytest.raises(DataError, match="of which lead is made"):
        compare_folders([first, documents], systems=["lead"])
    swapped = [{**row, "summary": rows[at - 1]["summary"]} for at, row in enumerate(rows)]
    with pytest.raises(DataError, match="references: the texts differ"):
        compare_folders([first, scored(tmp_path / "d", swapped)[0]])


def test_scores_that_the_project_writes_are_read_lead_against_oracle(tmp_path: Path) -> None:
    out, rouge = scored(tmp_path / "scores", made_rows())
    found = compare_folders([out], systems=["lead", "oracle"])
    for one in only(found).differences[:4]:
        theirs = rouge["profiles"]["rouge-score"]["systems"]
        assert one.first == pytest.approx(theirs["lead"][one.metric]["fmeasure"]["mean"])
        assert one.second == pytest.approx(theirs["oracle"][one.metric]["fmeasure"]["mean"])
        assert one.p is not None
        assert one.p < 0.001
    assert {"coverage", "length_ratio"} <= {one.metric for one in only(found).differences}
