"""Tokens a second and MFU, by hand on a clock that stands."""

from __future__ import annotations

import time

import pytest
import torch

from stages.finetune import throughput
from stages.finetune.throughput import PEAK_TFLOPS, Stopwatch, device_name, peak_tflops

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """9000 tokens and 6e12 FLOPs of one forward pass, 4 s after it was started."""
    stopwatch = Stopwatch(tokens=9000, forward_flops=6e12, started=100.0)
    monkeypatch.setattr(throughput.time, "monotonic", lambda: 104.0)
    return stopwatch


def test_tokens_a_second(stopwatch: Stopwatch) -> None:
    assert stopwatch.read(1, 1, None) == {
        "seconds": 4.0,
        "tokens_per_second": 2250.0,
        "devices": 1,
    }


@pytest.mark.parametrize(
    ("passes", "devices", "mfu"),
    [
        (1, 1, 0.45),  # 6e12 FLOPs forward, twice that backward: 18e12 in 4 s, 4.5 of 10 TFLOP/s
        (2, 1, 0.9),  # R3F does all of it twice
        (2, 4, 0.225),  # shared by four devices
    ],
)
def test_mfu_by_hand(stopwatch: Stopwatch, passes: int, devices: int, mfu: float) -> None:
    assert stopwatch.read(passes, devices, 10.0)["mfu"] == mfu


def test_a_stopwatch_starts_when_it_is_made() -> None:
    before = time.monotonic()
    assert before <= Stopwatch().started <= time.monotonic()


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA A100-SXM4-40GB", 312.0),
        ("Tesla V100-SXM2-16GB", 125.0),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_gpu_is_looked_up_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(None, GPU) == peak
    assert peak_tflops(12.5, GPU) == 12.5
    assert (device_name(GPU), device_name(CPU)) == (name, "cpu")


def test_no_name_in_the_table_is_a_part_of_another() -> None:
    names = list(PEAK_TFLOPS)
    assert not [(a, b) for a in names for b in names if a != b and a in b]


def test_a_cpu_has_a_peak_only_if_told() -> None:
    assert peak_tflops(None, CPU) is None
    assert peak_tflops(0.5, CPU) == 0.5
