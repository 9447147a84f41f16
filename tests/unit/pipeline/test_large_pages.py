"""Large blocks of memory come in large pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import resource
from pipeline.distributed.world import use_large_pages
use_large_pages()
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)  # 64 MiB: 16,384 small pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not ENABLED.is_file() or "[never]" in ENABLED.read_text(),
    reason="this kernel gives no large pages",
)
def test_a_large_block_costs_few_page_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 5 * 16_384 / 10
