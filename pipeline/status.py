"""What a run directory says of itself: state, progress and metrics of each stage, and its Slurm jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.artifact import Artifact, RunDir, require_run_dir
from pipeline.config import JSON
from pipeline.errors import EXIT_PREEMPTED, CorruptArtifact, LaunchError
from pipeline.files import read_json
from pipeline.lease import current_holder
from pipeline.log import print_table
from pipeline.slurm import ledger
from pipeline.slurm.queue import jobs_of
from pipeline.slurm.verdict import log_folder

_SHOWN_METRICS = 3
_TOO_LATE = (
    'ran into its time limit before it had saved: warn earlier (--sbatch "--signal=USR2@SECONDS")'
)
_NOT_QUEUED = "it was not queued again before its time was up: submit again"


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
    queue = _queue_state(run_dir, stages) if ledger.has_jobs(run_dir) else None
    preempted = read_json(run_dir.preempted) if run_dir.preempted.is_file() else None
    return {
        "run_dir": str(root),
        "holder": current_holder(run_dir),
        "preempted": preempted,
        "checked": "checksums" if deep else "sizes",
        "stages": states,
        "queue": queue,
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


def _queue_state(run_dir: RunDir, stages: Sequence[str]) -> JSON:
    """Return the job of each stage that has one, as Slurm tells it, else as the run directory does."""
    recorded = {stage: entry["job"] for stage, entry in ledger.jobs(run_dir).items()}
    verdicts = {entry["job"]: entry for entry in ledger.verdicts(run_dir)}
    fault, found = None, {}
    try:
        found = jobs_of(ledger.places(run_dir), stages)
    except LaunchError as error:
        fault = str(error)
    jobs: JSON = {}
    for stage in stages:
        job, number = found.get(stage), recorded.get(stage)
        if job is not None:
            number = job.id
            jobs[stage] = {"job": job.id, "state": job.state, "reason": job.reason}
        elif number is not None:
            jobs[stage] = {"job": number, "state": "unknown" if fault else "ended", "reason": None}
        else:
            continue
        verdict = verdicts.get(number)
        reason = None if verdict is None else verdict["reason"]
        if jobs[stage]["state"] == "TIMEOUT":
            if verdict is None or _has_begun_again(run_dir, stage, verdict):
                reason = _TOO_LATE
            elif verdict["code"] == EXIT_PREEMPTED:
                reason = f"{reason}; {_NOT_QUEUED}"
        jobs[stage]["verdict"] = reason
        jobs[stage]["log"] = str(run_dir.logs("slurm") / f"{number}-{stage}.out")
    return {"fault": fault, "jobs": jobs}


def _has_begun_again(run_dir: RunDir, stage: str, verdict: JSON) -> bool:
    """Whether the job has started since a verdict, as the logs of its ranks tell."""
    return log_folder(run_dir, stage, verdict["job"], verdict["restart_count"] + 1).is_dir()


def show_state(state: JSON) -> None:
    """Print a run's state as a table, then what is wrong with it."""
    header = ["stage", "state", "seconds", "MB", "progress and metrics"]
    rows = [list(_row(stage)) for stage in state["stages"]]
    queue = state["queue"]
    if queue is not None:
        header[2:2] = ["job", "in Slurm"]
        for row in rows:
            row[2:2] = _job_cells(queue["jobs"].get(row[0]))
    print_table(header, rows)
    if queue is not None:
        _show_queue(state["stages"], queue)
    if state["holder"]:
        holder = state["holder"]
        who = f"host {holder['host']}, pid {holder['pid']}, job {holder['job'] or 'none'}"
        since = holder["silent_since_utc"]
        print(f"was held by {who}, silent since {since}" if since else f"held by {who}")
    if state["preempted"]:
        print(f"last stop: {state['preempted']['stage']}, {state['preempted']['reason']}")
    for fault in state["faults"]:
        print(f"DAMAGED {fault}")
    if not state["faults"]:
        print(f"No damage found ({state['checked']} compared).")


def _job_cells(job: JSON | None) -> tuple[str, str]:
    if job is None:
        return "", ""
    reason = job["reason"]
    return job["job"], job["state"] + (f" ({reason})" if reason and reason != "None" else "")


def _show_queue(stages: Sequence[JSON], queue: JSON) -> None:
    """Say what Slurm did not, and why a job did not commit its stage."""
    if queue["fault"]:
        print(f"the queue is not known: {queue['fault']}")
    for name in [stage["stage"] for stage in stages if stage["state"] != "done"]:
        job = queue["jobs"].get(name)
        if job is None:
            continue
        if job["verdict"]:
            print(f"{name}: job {job['job']} last ended so: {job['verdict']}; log {job['log']}")
        elif Path(job["log"]).is_file():
            print(f"{name}: log of job {job['job']}: {job['log']}")


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
