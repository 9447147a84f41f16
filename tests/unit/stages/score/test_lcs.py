"""Subsequences by bits against rouge-score's table and its walk back through it."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import _lcs_table, lcs_ind

from stages.score.lcs import lcs_length, lcs_places, positions


def places_of(bits: int) -> list[int]:
    return [place for place in range(bits.bit_length()) if bits >> place & 1]


@pytest.mark.parametrize("alphabet", ["ab", "abc", "abcdefgh"])
def test_the_same_one_of_several_is_found(alphabet: str) -> None:
    draw = random.Random(alphabet)
    for _ in range(1500):
        first, second = (draw.choices(alphabet, k=draw.randrange(14)) for _ in range(2))
        places = positions(first)
        found = places_of(lcs_places(places, len(first), second))
        assert found == lcs_ind(first, second), (first, second)
        length = _lcs_table(first, second)[-1][-1]
        assert len(found) == lcs_length(places, len(first), second) == length


def test_texts_longer_than_a_machine_word() -> None:
    draw = random.Random(1)
    first, second = (draw.choices("abcde", k=200) for _ in range(2))
    found = places_of(lcs_places(positions(first), len(first), second))
    assert found == lcs_ind(first, second)


def test_by_hand() -> None:
    places = positions(["the", "cat", "sat", "on", "the", "mat"])
    assert places == {"the": 0b10001, "cat": 0b10, "sat": 0b100, "on": 0b1000, "mat": 0b100000}
    assert places_of(lcs_places(places, 6, ["a", "cat", "on", "mat", "the"])) == [1, 3, 4]
    assert lcs_length(places, 6, []) == lcs_length({}, 0, ["cat"]) == 0
