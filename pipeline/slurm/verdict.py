"""How a job ended: `python -m pipeline.slurm.verdict [OPTION...] RUN_DIR STAGE SRUN_CODE [SILENT_NODE...]`.

Asked after srun. Goes by what the ranks left in the run directory, for srun's code cannot tell a preemption
from a failure: with --kill-on-bad-exit one rank's 75 may become 137, and the others get TERM, as from a
preemption; `--signalled` says that the batch script got such a signal too, `--taken` that Slurm preempts the
job or has queued it again itself. Nodes that no longer answer are named by who asked them, since ranks that
lost their peers leave the same traces as ranks that failed. Exit codes: 0 the stage is committed, 75 queue
the job again, 4 failed; any other is no verdict, as 1 is that of a Python that could not begin.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.artifact import RunDir, require_run_dir
from pipeline.config import JSON
from pipeline.distributed.presence import lost_helpers
from pipeline.distributed.world import job_id, job_restarts
from pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_PREEMPTED,
    EXIT_STALE,
    ConfigError,
    PipelineError,
    for_people,
)
from pipeline.files import read_json
from pipeline.launch import causes
from pipeline.slurm import ledger

TOLD_FAILED = 4
"""The exit code that says EXIT_FAILED."""
FRUITLESS_RESTARTS = 3
"""How often in a row a job is queued again without progress."""
_OPTIONS = ("--signalled", "--taken")


class Ending(NamedTuple):
    """What is known when srun is over."""

    stage: str
    job: str
    restart_count: int
    srun_code: int
    is_committed: bool
    preempted: JSON | None
    """What was left of the last preemption in this run, whosever it was."""
    before: JSON | None
    """The entry of this job's verdict after its last start but this one; None if there is none."""
    silent_nodes: Sequence[str] = ()
    """Nodes of this job that no longer answer."""
    progress: JSON | None = None
    """The last that the stage told of its progress."""
    failure: str | None = None
    """What went wrong in a rank of this start, for which the others were stopped."""
    hint: str = "it is not known what the ranks left"
    """What else may explain the end of this start, in words."""
    is_taken: bool = False
    """Whether Slurm preempts the job, or has queued it again itself: not a return that counts."""


class Verdict(NamedTuple):
    """What is to become of the job."""

    code: int
    reason: str
    reached: dict[str, int]
    """The furthest that this job has come, by unit and total: a stage may count one thing, then another."""
    fruitless: int
    """How often in a row this job was queued again without coming further, this time included; those by
    Slurm itself are left out."""


def judge(end: Ending) -> Verdict:
    """Decide; pure."""
    before = end.before or {}
    reached: dict[str, int] = before.get("reached", {})
    fruitless: int = before.get("fruitless", 0)

    if end.is_committed:
        if end.srun_code == EXIT_STALE:
            reason = "is committed, but was made with other settings than recipe.yaml has now"
            return Verdict(EXIT_FAILED, reason, reached, fruitless)
        return Verdict(EXIT_DONE, "is committed", reached, fruitless)
    left = end.preempted
    is_ours = left is not None and _is_of(left, end)
    if left is not None and is_ours and end.failure is None:
        reason, told = left["reason"], left.get("progress")
    elif end.silent_nodes:
        reason, told = f"no answer of {', '.join(end.silent_nodes)}", end.progress
    else:
        traces = "nothing is committed, no preemption recorded"
        if is_ours:
            traces = "the other ranks stopped for it with their work saved"
        elif left is not None:
            traces += f" (preempted.json is of job {left['job']}, {left['stage']})"
        hint = "Slurm took the job before its work was saved" if end.is_taken else end.hint
        reason = f"{end.failure or hint}; srun ended with code {end.srun_code}: {traces}"
        return Verdict(EXIT_FAILED, reason, reached, fruitless)

    progress = told or {"done": 0, "total": 0, "unit": "steps"}
    done, scale = progress["done"], f"{progress['unit']} of {progress['total']}"
    fruitless = 0 if done > reached.get(scale, 0) else fruitless + (not end.is_taken)
    reached = {**reached, scale: max(done, reached.get(scale, 0))}
    where = f"{reason} ({progress['unit']} {done}/{progress['total']})"
    if fruitless > FRUITLESS_RESTARTS and not end.is_taken:
        reason = (
            f"{where}; queued again {FRUITLESS_RESTARTS} times in a row without progress, so not once more: "
            "raise the time limit, or save more often; then submit again"
        )
        return Verdict(EXIT_FAILED, reason, reached, fruitless)
    return Verdict(EXIT_PREEMPTED, where, reached, fruitless)


def _is_of(left: JSON, end: Ending) -> bool:
    found = (left["stage"], left["job"], left.get("restart_count"))
    return found == (end.stage, end.job, end.restart_count)


def what_ranks_left(log_dir: Path, left: JSON | None, *, signalled: bool) -> tuple[str | None, str]:
    """Return what went wrong in a rank of a start of a job, and what else may explain its end; in words.

    A TERM that the batch script did not get comes from srun, which ends the others when a task has failed; a
    helper that was killed leaves no word of its own then.

    Args:
        log_dir: Of that start alone.
        left: What was left of the last preemption.
        signalled: Whether the batch script was signalled.
    """
    own, lost_peers = causes(log_dir)
    if own:
        return _quoted(own[0]), ""
    by_srun = left is not None and "SIGTERM" in left["reason"] and not signalled
    if by_srun and (killed := lost_helpers(log_dir)):
        ranks = ", ".join(map(str, killed))
        return f"rank {ranks}: ended without a word: killed, often for want of memory", ""
    if lost_peers:
        return None, (
            f"{_quoted(lost_peers[0])} (a rank that left no word was killed, often for want of memory)"
        )
    if not any(log_dir.glob("rank*.pid")):
        return None, "no rank began, and the job's log says why"
    return None, "no rank left word: killed, often for want of memory"


def _quoted(error: JSON) -> str:
    return f"rank {error['rank']}: {' '.join(error['message'].split())}"


def log_folder(run_dir: RunDir, stage: str, job: str, restart_count: int) -> Path:
    """Return where the ranks of a start of a job log; stage.sh names it."""
    return run_dir.logs(stage) / f"job-{job}.{restart_count}"


def conclude(
    run_dir: RunDir,
    stage: str,
    srun_code: int,
    job: str,
    restart_count: int,
    silent_nodes: Sequence[str] = (),
    *,
    signalled: bool = False,
    is_taken: bool = False,
) -> Verdict:
    """Decide by the run directory, and remember it there unless the stage is committed.

    Asked again for the same start of the job, it decides anew.

    Raises:
        PipelineError: If the run directory cannot be read or written.
    """
    before = [
        entry
        for entry in ledger.verdicts(run_dir)
        if entry["job"] == job and entry["restart_count"] < restart_count
    ]
    progress = run_dir.progress(stage)
    left = read_json(run_dir.preempted) if run_dir.preempted.is_file() else None
    logs = log_folder(run_dir, stage, job, restart_count)
    failure, hint = what_ranks_left(logs, left, signalled=signalled)
    end = Ending(
        stage,
        job,
        restart_count,
        srun_code,
        run_dir.artifact(stage) is not None,
        left,
        max(before, key=lambda entry: entry["restart_count"], default=None),
        silent_nodes,
        read_json(progress) if progress.is_file() else None,
        failure,
        hint,
        is_taken,
    )
    verdict = judge(end)
    if verdict.code != EXIT_DONE:
        entry = {"stage": stage, "job": job, "restart_count": restart_count, "srun": srun_code}
        ledger.note_verdict(run_dir, {**entry, **verdict._asdict()})
    return verdict


def main(argv: Sequence[str]) -> int:
    """Say how this job ended and return the exit code; EXIT_FAILED and EXIT_USAGE are no verdict."""
    try:
        words = [word for word in argv if word not in _OPTIONS]
        if len(words) < 3 or not words[2].isdecimal():
            raise ConfigError(
                f"verdict: expected {' '.join(f'[{option}]' for option in _OPTIONS)} RUN_DIR STAGE SRUN_CODE "
                f"[SILENT_NODE...], got {' '.join(argv)!r}"
            )
        job = job_id()
        if job is None:
            raise ConfigError("verdict: SLURM_JOB_ID is not set; it is asked inside a job")
        root, stage, srun_code, *silent = words
        run_dir = require_run_dir(Path(root))
        signalled, is_taken = (option in argv for option in _OPTIONS)
        verdict = conclude(
            *(run_dir, stage, int(srun_code), job, job_restarts(), silent),
            signalled=signalled,
            is_taken=is_taken,
        )
    except (PipelineError, OSError) as error:
        shown = for_people(error)
        if shown is None:
            raise
        return _fail(shown)
    print(f"sumpipe: {stage}, job {job}, restart {job_restarts()}: {verdict.reason}", flush=True)
    return TOLD_FAILED if verdict.code == EXIT_FAILED else verdict.code


def _fail(error: PipelineError) -> int:
    sys.stderr.write(f"sumpipe: {error}\n")
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
