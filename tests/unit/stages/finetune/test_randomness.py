"""Seeds from counters: the same everywhere, never twice."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

import pytest

from stages.finetune.randomness import counter_seed


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_another_process_draws_the_same_seed(hash_seed: str) -> None:
    code = "from stages.finetune.randomness import counter_seed; print(counter_seed(1, 'update', 2, 3))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert int(done.stdout) == counter_seed(1, "update", 2, 3)


def test_no_two_places_of_a_run_share_a_seed() -> None:
    places = list(product((1, 11), ("update", "mask"), range(60), range(60)))
    assert len({counter_seed(*place) for place in places}) == len(places)


def test_neighbouring_counters_do_not_run_together() -> None:
    assert counter_seed(1, 23) != counter_seed(12, 3)
    assert counter_seed(1, 2, 3) != counter_seed(1, 23)


def test_torch_and_numpy_take_every_seed() -> None:
    assert all(0 <= counter_seed(1, number) < 2**63 for number in range(1000))


def test_bits_of_near_counters_are_unrelated() -> None:
    differing = [
        (counter_seed(1, update) ^ counter_seed(1, update + 1)).bit_count() for update in range(500)
    ]
    assert sum(differing) / len(differing) == pytest.approx(63 / 2, abs=1.0)
