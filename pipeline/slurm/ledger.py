"""What a run directory remembers of its jobs, in RUN/slurm/: who was submitted, and how jobs ended.

jobs.json       stage -> the job last submitted for it
verdicts.json   one entry a start of a job that did not commit its stage, in order of time
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.artifact import RunDir
from pipeline.config import JSON
from pipeline.files import read_json, write_json
from pipeline.provenance import utc_now


def has_jobs(run_dir: RunDir) -> bool:
    """Whether anything of this run was submitted."""
    return (run_dir.root / "slurm" / "jobs.json").is_file()


def jobs(run_dir: RunDir) -> dict[str, JSON]:
    """Return the last job of each stage: job, utc, command, run_dir (the path it was submitted under)."""
    found: dict[str, JSON] = _read(run_dir, "jobs.json", {})
    return found


def note_job(run_dir: RunDir, stage: str, job: str, command: list[str] | None) -> JSON:
    """Remember a job; `command` is None for one that the queue had and this record had not."""
    entry = {"job": job, "utc": utc_now(), "command": command, "run_dir": str(run_dir.root)}
    _write(run_dir, "jobs.json", {**jobs(run_dir), stage: entry})
    return entry


def places(run_dir: RunDir) -> list[Path]:
    """Return the paths under which jobs of this run were submitted, this one first; jobs are named by them.

    One path may be a mount of another. What lies elsewhere is the run that this one was copied from.
    """
    recorded = [Path(entry.get("run_dir", run_dir.root)) for entry in jobs(run_dir).values()]
    ours = [path for path in recorded if not _is_elsewhere(path, run_dir.root)]
    return list(dict.fromkeys([run_dir.root, *ours]))


def _is_elsewhere(path: Path, root: Path) -> bool:
    try:
        return not path.samefile(root)
    except OSError:  # it cannot be seen from here
        return False


def verdicts(run_dir: RunDir) -> list[JSON]:
    """Return how jobs ended that did not commit their stage, the latest last."""
    found: list[JSON] = _read(run_dir, "verdicts.json", [])
    return found


def note_verdict(run_dir: RunDir, entry: JSON) -> None:
    """Remember how a start of a job ended; what was said of the same one before is forgotten."""
    others = [other for other in verdicts(run_dir) if _start(other) != _start(entry)]
    _write(run_dir, "verdicts.json", [*others, {**entry, "utc": utc_now()}])


def _start(entry: JSON) -> tuple[str, int]:
    return entry["job"], entry["restart_count"]


def _read(run_dir: RunDir, name: str, absent: Any) -> Any:
    path = run_dir.root / "slurm" / name
    return read_json(path) if path.is_file() else absent


def _write(run_dir: RunDir, name: str, value: Any) -> None:
    path = run_dir.root / "slurm" / name
    path.parent.mkdir(exist_ok=True)
    write_json(path, value)
