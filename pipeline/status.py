"""What a run directory says of itself: state, progress and metrics of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.artifact import Artifact, RunDir, require_run_dir
from pipeline.config import JSON
from pipeline.errors import CorruptArtifact
from pipeline.files import read_json
from pipeline.lease import current_holder
from pipeline.log import print_table

_SHOWN_METRICS = 3


def run_state(stages: Sequence[str], root: Path, *, deep: bool) -> JSON:
    """Return the state of a run.

    Args:
        stages: Stage names in order.
        root: The run directory.
        deep: Verify the checksum of every committed file, not only its size.

    Raises:
        ConfigError: If `root` is no run directory.
    """
    run_dir = require_run_dir(root)
    states = [_stage_state(run_dir, stage, deep=deep) for stage in stages]
    preempted = read_json(run_dir.preempted) if run_dir.preempted.is_file() else None
    return {
        "run_dir": str(root),
        "holder": current_holder(run_dir),
        "preempted": preempted,
        "checked": "checksums" if deep else "sizes",
        "stages": states,
        "faults": [fault for state in states for fault in state["faults"]],
    }


def _stage_state(run_dir: RunDir, stage: str, *, deep: bool) -> JSON:
    state: JSON = {"stage": stage, "state": "todo", "progress": None, "metrics": {}, "faults": []}
    try:
        artifact = run_dir.artifact(stage)
    except CorruptArtifact as error:
        return {**state, "state": "damaged", "faults": [str(error)]}
    if artifact is not None:
        return {**state, **_done(artifact, deep=deep)}
    if run_dir.partial(stage).is_dir():
        progress = run_dir.progress(stage)
        found = read_json(progress) if progress.is_file() else None
        return {**state, "state": "partial", "progress": found}
    return state


def _done(artifact: Artifact, *, deep: bool) -> JSON:
    faults = artifact.faults(deep=deep)
    manifest = artifact.manifest
    return {
        "state": "damaged" if faults else "done",
        "finished_utc": manifest.provenance.get("finished_utc"),
        "seconds_wall": manifest.provenance.get("launch", {}).get("seconds_wall"),
        "bytes": sum(record.bytes for record in manifest.files.values()),
        "metrics": manifest.metrics,
        "faults": faults,
    }


def show_state(state: JSON) -> None:
    """Print a run's state as a table, then what is wrong with it."""
    rows = [_row(stage) for stage in state["stages"]]
    print_table(("stage", "state", "seconds", "MB", "progress and metrics"), rows)
    if state["holder"]:
        holder = state["holder"]
        print(f"held by host {holder['host']}, pid {holder['pid']}, job {holder['job'] or 'none'}")
    if state["preempted"]:
        print(f"last stop: {state['preempted']['stage']}, {state['preempted']['reason']}")
    for fault in state["faults"]:
        print(f"DAMAGED {fault}")
    if not state["faults"]:
        print(f"No damage found ({state['checked']} compared).")


def _row(stage: JSON) -> tuple[str, str, str, str, str]:
    seconds, size = stage.get("seconds_wall"), stage.get("bytes")
    progress = stage["progress"]
    if progress:
        told = f"{progress['unit']} {progress['done']}/{progress['total']} at {progress['utc']}"
    else:
        shown = list(stage["metrics"].items())[:_SHOWN_METRICS]
        told = "  ".join(f"{name} {_short(value)}" for name, value in shown)
    return (
        stage["stage"],
        stage["state"],
        "" if seconds is None else f"{seconds:.1f}",
        "" if size is None else f"{size / 1e6:.1f}",
        told,
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
