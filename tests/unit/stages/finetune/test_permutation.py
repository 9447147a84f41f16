"""Permutations against a plain implementation of the same algorithm, and for bias."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from stages.finetune.permutation import ROUNDS, Int64s, keyed, mix, permute

MASK = 2**64 - 1


def permuted(size: int, key: int) -> Int64s:
    places = np.arange(size)
    return permute(places, np.full(size, size), np.full(size, key, dtype=np.uint64))


def plain_mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def plain_permute(place: int, size: int, key: int) -> int:
    """Swap-or-not in Python's own integers."""
    for _ in range(ROUNDS):
        key = plain_mix((key + 0x9E3779B97F4A7C15) & MASK)
        partner = (key - place) % size
        if plain_mix(key ^ max(place, partner)) >> 63:
            place = partner
    return place


def test_mix_is_splitmix64() -> None:
    """Its first outputs for the seed 1234567, as Rosetta Code lists them."""
    golden = 0x9E3779B97F4A7C15
    states = np.asarray([(1234567 + k * golden) & MASK for k in (1, 2, 3)], dtype=np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert mix(states).tolist() == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 10_000_000_019])
def test_equals_the_plain_form(size: int) -> None:
    places = np.unique(np.linspace(0, size - 1, 40).astype(np.int64))
    keys = np.asarray([3 * k + 2**63 for k in range(len(places))], dtype=np.uint64)
    expected = [
        plain_permute(place, size, key)
        for place, key in zip(places.tolist(), keys.tolist(), strict=True)
    ]
    assert permute(places, np.full(len(places), size), keys).tolist() == expected


@pytest.mark.parametrize("size", [*range(1, 40), 1023, 1024, 1025])
def test_every_place_is_taken_once(size: int) -> None:
    assert sorted(permuted(size, 5).tolist()) == list(range(size))


def test_all_orders_of_four_are_as_likely() -> None:
    """Chi-squared with 23 degrees of freedom: below 49.7 with probability 0.999."""
    trials = 12_000
    keys = np.repeat(keyed(1, np.arange(trials)), 4)
    orders = permute(np.tile(np.arange(4), trials), np.full(4 * trials, 4), keys)
    seen = Counter(map(tuple, orders.reshape(trials, 4).tolist()))
    expected = trials / 24
    every = itertools.permutations(range(4))
    assert sum((seen[order] - expected) ** 2 / expected for order in every) < 49.7


@pytest.mark.parametrize("place", [0, 1, 499, 999])
def test_a_place_goes_anywhere(place: int) -> None:
    """Chi-squared with 99 degrees of freedom: below 148.2 with probability 0.999."""
    trials = 20_000
    size = np.full(trials, 1000)
    found = permute(np.full(trials, place), size, keyed(2, np.arange(trials)))
    counts = np.bincount(found // 10, minlength=100)
    assert float(np.sum((counts - trials / 100) ** 2) / (trials / 100)) < 148.2


def test_neighbours_part() -> None:
    """Neighbours stay neighbours with probability 2/n: about 200 of 100,000 for n = 1000, sd 14."""
    trials = 100_000
    keys, sizes = keyed(3, np.arange(trials)), np.full(trials, 1000)
    first, second = (permute(np.full(trials, place), sizes, keys) for place in (500, 501))
    assert abs(int(np.sum(np.abs(first - second) == 1)) - 200) < 60
