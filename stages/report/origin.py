"""Where the artifacts come from: code, packages, machines, launches."""

from __future__ import annotations

from typing import Any

from stages.report.facts import Facts
from stages.report.tables import Table
from stages.report.wording import amount

_NOT_KNOWN = "not known"


def launch_table(facts: Facts) -> Table:
    """Return when and where each stage ended."""
    header = ("Stage", "Finished (UTC)", "Host", "Job", "Fingerprint")
    return Table(header, [_launch_row(facts, stage) for stage in facts.inputs])


def _launch_row(facts: Facts, stage: str) -> tuple[str, ...]:
    manifest = facts.inputs[stage].manifest
    provenance = manifest.provenance
    finished = str(provenance.get("finished_utc", _NOT_KNOWN))
    return (
        stage,
        finished.removesuffix("+00:00").replace("T", " "),
        str(provenance.get("host", _NOT_KNOWN)),
        str(provenance.get("job") or "none"),
        manifest.fingerprint[:12],
    )


def version_table(facts: Facts) -> Table:
    """Return code, packages and machine; one value where all stages agree, else each with its stages."""
    found: dict[str, dict[str, list[str]]] = {}
    for stage, artifact in facts.inputs.items():
        for name, value in _environment(artifact.manifest.provenance).items():
            found.setdefault(name, {}).setdefault(value, []).append(stage)
    rows: list[tuple[str, ...]] = [
        (name, next(iter(values)) if len(values) == 1 else _by_stage(values))
        for name, values in found.items()
    ]
    return Table(("What", "Value"), rows)


def _by_stage(values: dict[str, list[str]]) -> str:
    return "; ".join(f"{value} ({', '.join(stages)})" for value, stages in values.items())


def _environment(provenance: dict[str, Any]) -> dict[str, str]:
    git = provenance.get("git") or {}
    commit = git.get("commit") or _NOT_KNOWN
    changed = " (files differ from it)" if git.get("modified") else ""
    packages = provenance.get("packages") or {}
    return {
        "git commit": f"{commit}{changed}",
        "Python": str(provenance.get("python", _NOT_KNOWN)),
        **{name: str(version or "not installed") for name, version in packages.items()},
        "System": str(provenance.get("system", _NOT_KNOWN)),
        "CPUs": amount(provenance.get("cpu_count")),
        "GPUs": "; ".join(provenance.get("gpus") or []) or "none",
    }
