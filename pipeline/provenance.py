"""How an artifact came to be: code, versions, machine, launch; recorded, never hashed."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipeline.config import JSON
from pipeline.distributed.world import job_id, visible_gpus

CHECKOUT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "sumpipe", "torch", "deepspeed", "transformers", "tokenizers", "datasets", "numpy", "pyarrow", "rensa",
    "rouge-score",
)  # fmt: skip
_SHARED_BY = ("transformers", "tokenizers", "pyarrow", "rensa")
"""Those that stages are made with whose results runs share: numpy only counts there."""


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return utc(time.time())


def utc(time_s: float) -> str:
    """Return a time, in seconds since 1970, as ISO 8601 in UTC, to the second."""
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).isoformat(timespec="seconds")


def collect() -> JSON:
    """Describe the code, the packages, the machine and the job of this process."""
    return {
        "finished_utc": utc_now(),
        "command": _without_token(sys.argv),
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu_count": psutil.cpu_count(),
        "gpus": _gpu_names(),
        "job": job_id(),
    }


def conditions(threads: int) -> JSON:
    """Return what the bytes of a result depend on besides the recipe: device, versions, threads."""
    return {
        "device": "gpu" if visible_gpus() else "cpu",
        "threads": threads,
        "python": platform.python_version(),  # its tables of Unicode, its regular expressions
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": platform.machine(),
    }


def shared_versions() -> JSON:
    """Return the part of these conditions that decides results which runs share, whatever the device."""
    packages = {name: _version(name) for name in _SHARED_BY}
    return {"python": platform.python_version(), **packages}


def _without_token(command: list[str]) -> list[str]:
    """Leave out the token of the run's hold: it means nothing later."""
    if "--lease" not in command:
        return command
    at = command.index("--lease")
    return command[:at] + command[at + 2 :]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state() -> JSON:
    """Return the commit of this checkout and whether files differ from it; nulls outside git."""
    commit = _run(["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"])
    changes = _run(["git", "-C", str(CHECKOUT), "status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit or None, "modified": bool(changes) if commit else None}


def _gpu_names() -> list[str]:
    if not visible_gpus():
        return []
    listing = _run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return listing.splitlines() if listing else []


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
