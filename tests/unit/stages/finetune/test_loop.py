"""What a checkpoint keeps of the training loop besides weights and moments."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.files import read_json, write_json
from stages.finetune.loop import State
from stages.finetune.selection import Selection
from stages.finetune.training import Sums


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def random_floats(seed: int, count: int) -> list[float]:
    """Doubles of any exponent, among them the awkward ones."""
    drawn = np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64).view(np.float64)
    awkward = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf]
    return [*awkward, *(value for value in drawn.tolist() if not math.isnan(value))]


def test_sums_come_back_to_the_bit(tmp_path: Path) -> None:
    values = random_floats(1, 400)
    for start in range(0, len(values) - 4, 4):
        window = Sums(*values[start : start + 4])
        write_json(tmp_path / "notes.json", State(window=window).to_json())
        read = State.of_json(read_json(tmp_path / "notes.json"))
        assert isinstance(read.window, Sums)
        assert [bits(value) for value in read.window] == [bits(value) for value in window]


@pytest.mark.parametrize(
    "state",
    [
        State(),
        State(
            update=7,
            window=Sums(1 / 3, 2.0, 1e-30, 5.0),
            window_target_tokens=123,
            row_digest="5b1c90fe",
            selection=Selection(4, 1 / 7, 2, [2, 4, 6]),
            skipped=3,
            overflows=2,
            dropped=5,
            measured={"nll": 0.1 + 0.2, "smoothing": 1.5, "accuracy": 1 / 3},
            is_validated=False,
        ),
    ],
    ids=["new", "on the way"],
)
def test_a_state_comes_back_whole(state: State) -> None:
    read = State.of_json(json.loads(json.dumps(state.to_json())))
    assert read == state
    assert isinstance(read.selection, Selection)


def test_a_state_of_before_drops_were_counted_is_read() -> None:
    notes = State(update=7).to_json()
    del notes["dropped"]
    assert State.of_json(notes) == State(update=7)


def test_a_restored_state_goes_on_counting() -> None:
    read = State.of_json(json.loads(json.dumps(State(window=Sums(1.0, 2.0, 3.0, 4.0)).to_json())))
    assert read.window.plus(Sums(0.5, 0.5, 0.5, 1.0)) == (1.5, 2.5, 3.5, 5.0)


def test_states_share_nothing() -> None:
    first = State()
    first.selection.candidates.append(3)
    assert State().selection.candidates == []
