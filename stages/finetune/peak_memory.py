"""The most memory that training has taken."""

from __future__ import annotations

from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int:
    """Return the most bytes there ever were: on a GPU those of torch's allocator, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
