"""Which weights training hands on, and when it ends early."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from typing import Literal

import pytest

from stages.finetune.config import SelectionConfig
from stages.finetune.selection import Selection, kept_beside_newest

Weights = Literal["last", "best", "average"]


def config(weights: Weights = "best", **settings: int) -> SelectionConfig:
    return SelectionConfig(weights=weights, **{"every": 2, **settings})


def after(settings: SelectionConfig, *nlls: float) -> Selection:
    """The selection after candidates at updates 2, 4, ..."""
    selection = Selection()
    for number, nll in enumerate(nlls, 1):
        selection.add(settings, 2 * number, nll)
    return selection


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        (config("best", every=3), [3, 6, 9, 10]),
        (config("average", every=5), [5, 10]),
        (config("best", every=1000), [10]),
        (config("last", every=4, patience=2), [4, 8, 10]),
        (config("last", every=4), []),
    ],
    ids=["best", "average", "rarely", "early stopping alone", "off"],
)
def test_candidates_are_made_every_few_updates_and_at_the_end(
    settings: SelectionConfig, due: list[int]
) -> None:
    found = [update for update in range(1, 11) if Selection().is_due(settings, update, 10)]
    assert found == due


@pytest.mark.parametrize(
    ("nlls", "best", "worse"),
    [
        ([3.0], 2, 0),
        ([3.0, 2.0, 1.0], 6, 0),
        ([3.0, 1.0, 2.0, 1.5], 4, 2),
        ([1.0, 1.0, 1.0], 2, 2),  # as good is not better: the first stays
        ([math.inf, 2.0], 4, 0),
    ],
)
def test_the_best_is_the_first_with_the_lowest_nll(
    nlls: list[float], best: int, worse: int
) -> None:
    selection = after(config("best"), *nlls)
    assert (selection.best_update, selection.worse_in_a_row) == (best, worse)
    assert selection.best_nll == nlls[best // 2 - 1]
    assert selection.chosen(config("best"), last=100) == [best]


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_training_is_over_after_patience_candidates_in_a_row(patience: int) -> None:
    draw = random.Random(5)
    for _ in range(50):
        nlls = [draw.choice([1.0, 2.0, 3.0]) for _ in range(8)]
        settings = config("last", patience=patience)
        selection = Selection()
        for number, nll in enumerate(nlls, 1):
            selection.add(settings, 2 * number, nll)
            tail = nlls[number - patience : number]  # brute force: none of them beats all before
            is_over = 0 < patience < number and min(tail) >= min(nlls[: number - patience])
            assert selection.is_over(settings) is is_over, (nlls[:number], patience)
            if is_over:
                break


def test_the_average_is_of_the_last_candidates_whatever_their_nll() -> None:
    settings = config("average", average=3)
    chosen = [after(settings, *nlls).chosen(settings, last=9) for nlls in ([], [1.0], [1.0] * 5)]
    assert chosen == [[9], [2], [6, 8, 10]]


def test_last_is_the_newest_whatever_was_best() -> None:
    settings = config("last", patience=5)
    assert after(settings, 1.0, 2.0).chosen(settings, last=5) == [5]


def test_the_nll_handed_on_is_that_of_the_chosen_weights() -> None:
    for weights, nll in (("last", 4.0), ("best", 1.0), ("average", None)):
        settings = config(weights)
        assert after(settings, 3.0, 1.0, 4.0).chosen_nll(settings, last_nll=4.0) == nll
        assert Selection().chosen_nll(settings, last_nll=4.0) == 4.0, "without candidates the last"


def test_a_selection_is_not_shared_between_runs() -> None:
    after(config("average"), 1.0, 2.0)
    assert Selection().candidates == []


@pytest.mark.parametrize(("weights", "count"), [("last", 0), ("best", 1), ("average", 3)])
def test_no_more_are_kept_beside_the_newest_than_foretold(weights: Weights, count: int) -> None:
    settings = config(weights, average=3)
    assert kept_beside_newest(settings) == count
    for candidates in range(1, 7):
        selection = after(settings, *[float(nll) for nll in range(candidates)])
        pinned = set(selection.chosen(settings, last=2 * candidates)) - {2 * candidates}
        assert len(pinned) <= count


@pytest.mark.parametrize("nlls", [[], [2.0], [0.1 + 0.2, 1 / 3, 2.0]])
def test_it_survives_a_checkpoint_to_the_bit(nlls: list[float]) -> None:
    selection = after(config("average", average=2), *nlls)
    read = json.loads(json.dumps(dataclasses.asdict(selection)))
    assert Selection(**read) == selection
