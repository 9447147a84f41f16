"""What this project's drill does and compares."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.artifact import Artifact
from pipeline.recipe import packaged_names, resolve
from stages.drill import CHECKPOINT_EVERY, EXERCISES, UPDATES, compare, metric_faults, small
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe

WHOLE = ["fetch.dataset={source: demo}"]
"""For recipes that leave the place of their data open."""
RECORDS: list[dict[str, Any]] = [
    {"update": 1, "loss": 7.25, "r3f/kl": 0.5, "row_digest": "5b1c", "seconds": 0.2},
    {"update": 2, "loss": 7.0, "r3f/kl": 0.25, "row_digest": "90fe", "seconds": 0.1},
    {"update": 2, "valid/nll": 6.5, "valid/accuracy": 0.5},
]


@pytest.mark.parametrize("name", packaged_names())
@pytest.mark.parametrize("ranks", [1, 6])
def test_every_recipe_becomes_small_and_keeps_what_it_is_about(name: str, ranks: int) -> None:
    whole = cast(SummarizationRecipe, resolve(SummarizationRecipe, name, WHOLE)[0])
    recipe, text = resolve(SummarizationRecipe, name, small(ranks))
    little = cast(SummarizationRecipe, recipe)
    assert (little.fetch.dataset.source, little.fetch.model.source) == ("demo", "scratch")
    assert little.finetune.updates == UPDATES
    assert little.finetune.batch.lanes >= max(ranks, 2)
    for field in ("precision", "r3f", "loss", "optimizer", "dropout"):
        assert getattr(little.finetune, field) == getattr(whole.finetune, field)
    for field in ("profile", "num_beams", "engine", "length_penalty", "no_repeat_ngram_size"):
        assert getattr(little.generate, field) == getattr(whole.generate, field)
    assert little.score == whole.score
    assert "huggingface.co" not in text and "source: hub" not in text


def test_every_stage_is_disturbed_and_every_checkpoint_named_is_made() -> None:
    assert {exercise.stage for exercise in EXERCISES} == {stage.name for stage in STAGES}
    assert len({exercise.name for exercise in EXERCISES}) == len(EXERCISES)
    for exercise in EXERCISES:
        moments = [disturbance.moment for disturbance in exercise.disturbances]
        assert len(set(moments)) == len(moments)
        for moment in moments:
            if moment and "update_" in moment:
                update = int(moment.split("update_")[1][:8])
                assert update % CHECKPOINT_EVERY == 0 and update < UPDATES


def artifact(**digests: str) -> Artifact:
    manifest = SimpleNamespace(files={name.replace("__", "."): d for name, d in digests.items()})
    return cast(Artifact, SimpleNamespace(manifest=manifest))


@pytest.mark.parametrize("same_ranks", [True, False])
def test_the_files_have_to_be_those_of_the_undisturbed_run(same_ranks: bool) -> None:
    wanted = artifact(index__html="a", card__md="b")
    again = artifact(index__html="at another time", card__md="b", metrics__set_aside__jsonl="c")
    assert (
        compare("report", artifact(README__md="1 h"), artifact(README__md="2 h"), True).faults == []
    )
    assert compare("report", again, wanted, same_ranks).faults == []
    without = artifact(card__md="b")
    assert compare("report", without, wanted, same_ranks).faults == ["index.html is missing"]
    more = artifact(index__html="a", card__md="b", rest="c")
    assert compare("report", more, wanted, same_ranks).faults == ["rest should not be there"]


def test_with_the_same_ranks_files_have_the_same_bytes() -> None:
    made, wanted = artifact(card__md="a"), artifact(card__md="b")
    assert compare("report", made, wanted, True).faults == ["card.md"]


def changed(number: int, **values: object) -> list[dict[str, Any]]:
    return [{**r, **values} if i == number else dict(r) for i, r in enumerate(RECORDS)]


def trained(folder: Path, device: str, weights: str, **values: object) -> Artifact:
    """A finished training whose second record has these values."""
    folder.mkdir()
    lines = [json.dumps(record) + "\n" for record in changed(1, **values)]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    manifest = SimpleNamespace(
        files={"model.pt": weights, "metrics.jsonl": "of its own"},
        metrics={"device": device},
        payload={"config": {"precision": "bf16"}},
    )
    return cast(Artifact, SimpleNamespace(manifest=manifest, file=folder.joinpath))


@pytest.mark.parametrize(
    ("values", "on_cpu", "on_gpu"),
    [
        ({"loss": 7.0 + 1e-4}, ["model.pt", "loss of update 2 is 7.0001, not 7.0"], []),
        ({"loss": 7.1}, ["model.pt", "loss of update 2 is 7.1, not 7.0"], ["loss of update 2"]),
        (
            {"row_digest": "90ff"},
            ["model.pt", "row_digest of update 2"],
            ["row_digest of update 2"],
        ),
    ],
    ids=["rounding", "another loss", "other rows"],
)
def test_on_gpus_trainings_agree_but_for_rounding(
    values: dict[str, object], on_cpu: list[str], on_gpu: list[str], tmp_path: Path
) -> None:
    for device, expected in (("cpu", on_cpu), ("NVIDIA H100 80GB HBM3", on_gpu)):
        wanted = trained(tmp_path / f"{device} wanted", device, "a")
        made = trained(tmp_path / f"{device} made", device, "b", **values)
        what, faults = compare("finetune", made, wanted, True)
        assert len(faults) == len(expected)
        assert all(found.startswith(told) for found, told in zip(faults, expected, strict=True))
        assert ("within 0.001 (a GPU's sums have no fixed order)" in what) == (device != "cpu")
        assert ("1 files byte for byte and losses of 3 records bit for bit" in what) == (
            device == "cpu"
        )


@pytest.mark.parametrize("tolerance", [0.0, 2e-5])
def test_times_do_not_count(tolerance: float) -> None:
    times = {"seconds": 99.0, "tokens_per_second": 7.5, "mfu": 0.3, "devices": 3}
    made = [*changed(0, **times), {"update": 2, "seconds": 1.0, "mfu": 0.5}]
    assert metric_faults(made, RECORDS, tolerance) == []


def test_with_the_same_ranks_every_bit_counts() -> None:
    found = metric_faults(changed(1, loss=7.000000000000001), RECORDS, 0.0)
    assert found == ["loss of update 2 is 7.000000000000001, not 7.0"]
    assert metric_faults(changed(2, **{"valid/accuracy": 0.51}), RECORDS, 0.0)


def test_with_other_ranks_losses_may_differ_by_rounding() -> None:
    assert metric_faults(changed(1, loss=7.0 + 1.9e-5), RECORDS, 2e-5) == []
    assert metric_faults(changed(1, loss=7.0 + 2.1e-5), RECORDS, 2e-5)
    assert metric_faults(changed(2, **{"valid/nll": 6.4}), RECORDS, 2e-5)


@pytest.mark.parametrize("tolerance", [0.0, 2e-5])
def test_other_rows_are_found_with_any_ranks(tolerance: float) -> None:
    assert metric_faults(changed(1, row_digest="90ff"), RECORDS, tolerance) == [
        "row_digest of update 2 is '90ff', not '90fe'"
    ]
    assert metric_faults(changed(1, loss=None), RECORDS, tolerance)


def test_an_update_that_is_missing_or_there_twice_is_found() -> None:
    assert metric_faults(RECORDS[1:], RECORDS, 0.0) == ["metrics.jsonl has the records [2, 2]"]
    assert metric_faults([RECORDS[0], *RECORDS], RECORDS, 0.0)
