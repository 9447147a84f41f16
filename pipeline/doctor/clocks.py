"""How far the hosts' clocks are apart."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.doctor.finding import Finding, failure, ok, ranks_text, warning

WARN_SECONDS = 1.0
"""Which rank failed first is told by the time that each gave (pipeline/launch.py), and logs are compared.
Nothing that a run makes depends on clocks: holds are timed by each process's own."""
FAIL_SECONDS = 300.0
"""Munge refuses what is older (its TTL), so Slurm itself no longer works; so do tokens and certificates."""
_FIX = "let chrony or ntpd keep the time on every node"


def judge_clocks(times: Mapping[int, float]) -> Finding:
    """Judge clock readings, in seconds by rank, that were taken at the same moment."""
    skew = max(times.values()) - min(times.values())
    if skew <= WARN_SECONDS:
        return ok("clocks", f"at most {skew:.3f} s apart")
    first, last = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    text = f"{ranks_text([first])} is {skew:.1f} s behind {ranks_text([last])}"
    return (failure if skew > FAIL_SECONDS else warning)("clocks", text, _FIX)
