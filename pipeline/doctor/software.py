"""Whether Python, the packages and the GPU's software are there and fit each other."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from packaging.requirements import Requirement

from pipeline.config import JSON
from pipeline.distributed.world import visible_gpus
from pipeline.doctor.finding import Finding, failure, ok, ranks_text
from pipeline.provenance import CHECKOUT, git_state

_SHOWN = ("torch", "deepspeed", "transformers", "datasets")
"""Packages whose versions a healthy answer names; faults are told of all."""
_COMPILERS = ("c++", "g++", "clang++")
_ANSWER_SECONDS = 20


class Software(NamedTuple):
    """What is installed on one host."""

    python: str
    packages: Mapping[str, str | None]
    """Versions by the names of the project's dependencies; None for what is missing."""
    commit: str | None = None
    """Of the checkout; None if git does not tell."""


class Required(NamedTuple):
    """What the project asks for."""

    python: str
    """Such as `>=3.11`."""
    packages: Mapping[str, str]
    """The same by package."""


@functools.cache
def required() -> Required:
    """Read pyproject.toml."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = map(Requirement, project["dependencies"])
    return Required(
        project["requires-python"], {package.name: str(package.specifier) for package in packages}
    )


def installed(names: Sequence[str]) -> Software:
    """Look up versions without importing anything."""
    packages = {name: _version(name) for name in names}
    return Software(platform.python_version(), packages, git_state()["commit"])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def judge_software(found: Software, wanted: Required) -> Iterator[Finding]:
    """Compare the versions of one host with what the project asks for."""
    if _fits(found.python, wanted.python):
        yield ok("python", found.python)
    else:
        fix = "make the virtual environment anew with such a Python"
        yield failure("python", f"{found.python}; {wanted.python} is needed", fix)
    faults = [name for name in wanted.packages if not _is_there(name, found, wanted)]
    for name in faults:
        version = found.packages.get(name) or "is not installed"
        fix = f'pip install "{name}{wanted.packages[name]}"'
        yield failure("packages", f"{name} {version}; {wanted.packages[name]} is needed", fix)
    if not faults:
        yield ok("packages", ", ".join(f"{name} {found.packages[name]}" for name in _SHOWN))


def _is_there(name: str, found: Software, wanted: Required) -> bool:
    version = found.packages.get(name)
    return version is not None and _fits(version, wanted.packages[name])


def _fits(version: str, specifier: str) -> bool:
    return Requirement(f"it{specifier}").specifier.contains(version, prereleases=True)


def judge_sameness(by_rank: Mapping[int, Software]) -> Iterator[Finding]:
    """Tell packages, a Python, and a checkout that are not of the same version for all tasks."""
    kinds: dict[str, dict[str, list[int]]] = {}
    for rank, found in by_rank.items():
        commit = {"the checkout's commit": found.commit[:12]} if found.commit else {}
        for name, version in {"Python": found.python, **found.packages, **commit}.items():
            kinds.setdefault(name, {}).setdefault(version or "none", []).append(rank)
    for name, versions in kinds.items():
        if len(versions) > 1:
            shown = "; ".join(f"{text} on {ranks_text(ranks)}" for text, ranks in versions.items())
            fix = "use one checkout and environment, on a file system that all nodes see"
            yield failure("packages", f"{name} differs: {shown}", fix)


class Gpus(NamedTuple):
    """What the system says of one host's GPUs, without torch."""

    visible: int
    """That this process may use."""
    driver: str | None
    """Version of NVIDIA's driver; None if nvidia-smi does not tell."""


def gpus_here() -> Gpus:
    """Ask the system."""
    return Gpus(len(visible_gpus()), _driver() if visible_gpus() else None)


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def judge_torch(answers: JSON, gpus: Gpus) -> Iterator[Finding]:
    """Judge what the trial in a process of its own found: torch, its build, and DeepSpeed.

    Args:
        answers: What `group.try_out` gave.
        gpus: What the system says of the same host.
    """
    found = answers.get("torch")
    if found is None:
        fix = 'pip install "torch' + required().packages["torch"] + '"'
        yield failure("torch", f"cannot be used: {answers['ended']}", fix)
        return
    build = f"CUDA {found['cuda']}" if found["cuda"] else "CPU only"
    yield ok("torch", f"{found['version']}, built for {build}")
    yield _judge_cuda(found, gpus)
    if "deepspeed" not in answers:
        text, fix = (
            f"the import did not end: {answers['ended']}",
            "run `python -c 'import deepspeed'` there to see where it stays",
        )
        yield failure("deepspeed", text, fix)
    elif answers["deepspeed"]["error"]:
        fix = 'pip install "deepspeed' + required().packages["deepspeed"] + '"'
        yield failure("deepspeed", f"cannot be imported: {answers['deepspeed']['error']}", fix)


def _judge_cuda(found: JSON, gpus: Gpus) -> Finding:
    count, driver = len(found["gpus"]), gpus.driver or "unknown"
    if count:
        names = ", ".join(dict.fromkeys(gpu["name"] for gpu in found["gpus"]))
        return ok("cuda", f"driver {driver}; {count} GPU(s) seen: {names}")
    if not gpus.visible:
        return ok("cuda", "no GPU here; the CPU is used")
    if not found["cuda"]:
        text = f"{gpus.visible} GPU(s) here, but torch is built for the CPU"
        return failure("cuda", text, "install a CUDA build of torch (see pytorch.org)")
    text = (
        f"{gpus.visible} GPU(s) here, driver {driver}, but torch {found['version']} cannot use them"
    )
    fix = f"install a driver for CUDA {found['cuda']}, or a torch built for an older CUDA"
    return failure("cuda", text, fix)


def compiled_ops(profile: JSON) -> dict[str, str]:
    """Return the DeepSpeed ops that a profile would compile at its first use, with what asks for each.

    Of the profiles that the project takes, only offloading to NVMe does so (deepspeed 0.19.8,
    runtime/swap_tensor). Its cpu_adam is never used: our optimizer is torch's.
    """
    sharding = profile.get("zero_optimization", {})
    asking = [
        f"{name}.device nvme"
        for name in ("offload_optimizer", "offload_param")
        if (sharding.get(name) or {}).get("device") == "nvme"
    ]
    return {"async_io": " and ".join(asking)} if asking else {}


def judge_ops(name: str, profile: JSON, version: str | None) -> Iterator[Finding]:
    """Say what a profile would compile, and whether that can be done here."""
    sharding = profile.get("zero_optimization", {})
    if sharding.get("offload_optimizer") and profile.get("zero_force_ds_cpu_optimizer", True):
        text = f"{name} offloads the optimizer and asks for cpu_adam, but ours is torch's AdamW"
        fix = f'set "zero_force_ds_cpu_optimizer": false in {name}, as ds_configs/zero2_offload.json does'
        yield failure("deepspeed", text, fix)
        return
    ops = compiled_ops(profile)
    if not ops:
        yield ok("deepspeed", f"{version}; {name} compiles no op")
        return
    wants = ", ".join(f"{op} (for {setting})" for op, setting in ops.items())
    missing = [*([] if any(map(shutil.which, _COMPILERS)) else ["a C++ compiler"])]
    missing += [] if shutil.which("ninja") or _version("ninja") else ["ninja"]
    if missing:
        text = f"{version}; {name} compiles {wants}, and {' and '.join(missing)} is not found"
        yield failure("deepspeed", text, "load a compiler module, or offload to the CPU")
    else:
        yield ok("deepspeed", f"{version}; {name} compiles {wants}; a compiler is here")


def last_words(text: str) -> str:
    """Return the line in which a Python traceback names its error, or the last line that says anything."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (named or lines or ["without a word"])[-1]
