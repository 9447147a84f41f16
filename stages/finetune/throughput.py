"""How fast training goes: tokens a second, and on a known GPU the share of its peak."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "V100": 125.0,
}
"""Dense 16-bit matrix products, 10^12 FLOP/s, from the vendor's data sheets, by a part of the device's name
(the SXM form where there are several: `finetune.device_tflops` says otherwise)."""

_FORWARD_AND_BACKWARD = 3
"""A backward pass has twice its forward pass's products."""


@dataclass(slots=True)
class Stopwatch:
    """Work and wall time since the last reading, over all ranks."""

    tokens: int = 0
    """Source and target tokens, padding left out."""
    forward_flops: float = 0.0
    """Matrix products of one forward pass over the same rows, padding left out."""
    started: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave what is done inside out of the time: validation and checkpoints are not training."""
        before = time.monotonic()
        try:
            yield
        finally:
            self.started += time.monotonic() - before

    def read(self, passes: int, devices: int, peak_tflops: float | None) -> dict[str, float]:
        """Return seconds, tokens a second, devices (a later launch may have others) and, with a peak, MFU.

        Args:
            passes: Passes over a row: 2 with R3F, else 1.
            devices: Devices that shared the work.
            peak_tflops: Peak of one device in 10^12 FLOP/s; None leaves MFU out.
        """
        seconds = time.monotonic() - self.started
        reading = {
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "devices": devices,
        }
        if peak_tflops is not None:
            done = self.forward_flops * passes * _FORWARD_AND_BACKWARD
            reading["mfu"] = round(done / seconds / devices / (peak_tflops * 1e12), 4)
        return reading


def peak_tflops(asked: float | None, device: torch.device) -> float | None:
    """Return a device's peak: the one asked for, else the table's; None on a CPU or an unknown GPU."""
    if asked is not None or device.type != "cuda":
        return asked
    name = device_name(device)
    return next((p for part, p in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", name)), None)


def device_name(device: torch.device) -> str:
    """Return what a GPU is called, such as `NVIDIA H200`; `cpu` for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
