"""Queue what is left of a run as one chain of jobs, each stage after the one before it.

Nothing is queued twice: jobs carry a name that only this run and stage give (see sbatch.job_name), so those
of a submit that died before it wrote their ids are found in the queue all the same.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline import lease
from pipeline.artifact import RunDir
from pipeline.claim import Claim
from pipeline.distributed.world import job_id
from pipeline.errors import ConfigError, LaunchError, RunDirInUse
from pipeline.files import write_atomic
from pipeline.planner import Decision
from pipeline.runner import refuse_stale
from pipeline.slurm import ledger
from pipeline.slurm.options import Need
from pipeline.slurm.queue import Job, cancel_jobs, jobs_of, queue_job
from pipeline.slurm.sbatch import Place, chosen, shell_lines, submit_command

NOTHING_LEFT = "Everything is done; nothing was submitted."
_OTHER = "; submitted with other options: `sumpipe cancel` first to change them"


class Order(NamedTuple):
    """What a submit was asked for."""

    text: str
    """The resolved recipe as YAML."""
    place: Place
    needs: Mapping[str, Need]
    """By stage."""
    stages: Sequence[str]
    """All of the graph, in order."""
    redo: Sequence[str] = ()
    """Stages whose work is deleted first."""


class Link(NamedTuple):
    """One stage of the chain."""

    stage: str
    job: Job | None
    """What waits or runs for it; None if it is to be submitted."""


def chain(decisions: Sequence[Decision], jobs: Mapping[str, Job]) -> list[Link]:
    """Return what is not done, in order, with the jobs that are there for it.

    Raises:
        ConfigError: If a stage is queued behind one that is not: it would start without its input.
        LaunchError: If a job is just ending: what it leaves, and whether it returns, is not known yet.
    """
    left = [item.stage.name for item in decisions if item.is_to_do]
    active = {stage: job for stage, job in jobs.items() if job.is_active}
    links = [Link(stage, active.get(stage)) for stage in left]
    missing = None
    for stage, job in links:
        if job is None:
            missing = missing or stage
        elif job.state == "COMPLETING":
            raise LaunchError(f"{stage}: job {job.id} is just ending; submit again in a minute")
        elif missing is not None:
            raise ConfigError(
                f"{stage} waits in the queue (job {job.id}) without {missing}, whose job is gone: if it has "
                "only just failed, submit again in a minute; else cancel first with `sumpipe cancel`"
            )
    return links


def dry_run(decisions: Sequence[Decision], order: Order) -> None:
    """Print the commands that a submit would carry out now; writes nothing."""
    run_dir = RunDir(order.place.run_dir)
    try:
        jobs = jobs_of(ledger.places(run_dir), order.stages)
    except LaunchError as error:
        sys.stderr.write(f"sumpipe: {error}; the commands are those for an empty queue\n")
        jobs = {}
    commands, after = [], None
    for stage, job in chain(decisions, jobs):
        if job is None:
            commands.append((stage, _command(order, stage, after)))
        after = f"${stage}" if job is None else job.id
    if commands:
        written = (
            f"{shlex.quote(str(run_dir.recipe))} and {shlex.quote(str(run_dir.logs('slurm')))}/"
        )
        print(
            f"# First, submit makes {written}; without these the jobs fail. Then it notes their ids."
        )
    for line in shell_lines(commands):
        print(line)
    if not commands:
        print(NOTHING_LEFT)


def submit(look: Callable[[], Sequence[Decision]], run_dir: RunDir, order: Order) -> None:
    """Write the recipe down and queue what is neither done nor queued.

    Args:
        look: Plans; asked while no other submit works on this run.
        run_dir: The run.
        order: What to queue.

    Raises:
        StaleArtifact: If finished or partial work was made with other settings.
        ConfigError: If jobs of this run with another recipe wait or run.
        RunDirInUse: If another submit, or a process that is none of its jobs, is at work on the run.
        LaunchError: If Slurm refuses; what was queued before stays, and is left alone by the next submit.
    """
    if not any(item.is_to_do for item in look()):
        print(NOTHING_LEFT)
        return
    run_dir.root.mkdir(parents=True, exist_ok=True)
    with _alone(run_dir):
        jobs = jobs_of(ledger.places(run_dir), order.stages)
        decisions = look()
        refuse_stale(decisions, run_dir)  # another process may have worked since the caller looked
        _settle(order, run_dir, jobs)
        links = chain(decisions, jobs)
        run_dir.logs("slurm").mkdir(parents=True, exist_ok=True)
        for item in decisions:
            if not item.is_to_do:
                print(f"{item.stage.name:9} {item.reason}")
        after = None
        for stage, job in links:
            command = _command(order, stage, after)
            if job is not None:
                recorded = ledger.jobs(run_dir).get(stage, {})
                if recorded.get("job") != job.id:
                    recorded = ledger.note_job(run_dir, stage, job.id, None)
                before = recorded["command"]
                is_other = before is not None and chosen(before) != chosen(command)
                print(f"{stage:9} job {job.id} is there already: {job}{_OTHER if is_other else ''}")
                after = job.id
                continue
            try:
                number = queue_job(command)
            except LaunchError as error:
                stay = "; the jobs before it stay: submit again, or take them back with `sumpipe cancel`"
                raise LaunchError(f"{stage}: {error}{stay if after else ''}") from error
            ledger.note_job(run_dir, stage, number, command)
            print(f"{stage:9} job {number}" + (f", after {after}" if after else ""))
            after = number
    here = shlex.quote(str(run_dir.root))
    print(f"Watch it with `sumpipe status {here}`; `sumpipe cancel {here}` takes it back.")


def cancel(run_dir: RunDir, stages: Sequence[str]) -> None:
    """Cancel what waits or runs for a run, and say so.

    Raises:
        LaunchError: If Slurm refuses.
    """
    jobs = jobs_of(ledger.places(run_dir), stages)
    active = {stage: job for stage, job in jobs.items() if job.is_active}
    if not active:
        print("Nothing of this run waits or runs; nothing was cancelled.")
        return
    cancel_jobs([job.id for job in active.values()])
    for stage, job in active.items():
        print(f"{stage:9} job {job.id} cancelled; it was {job}")


OTHER_RECIPE = "which would read another recipe"
"""Why a recipe is not changed under jobs: they read recipe.yaml when they start."""


def refuse_beside_jobs(run_dir: RunDir, jobs: Mapping[str, Job], why: str) -> None:
    """Refuse to do what jobs of a run would suffer from.

    Args:
        run_dir: The run.
        jobs: Of the run, ended ones too.
        why: What would happen to them.

    Raises:
        ConfigError: If any of these jobs wait or run.
    """
    active = {stage: job for stage, job in jobs.items() if job.is_active}
    if active:
        told = ", ".join(f"{stage} (job {job.id}, {job.state})" for stage, job in active.items())
        raise ConfigError(
            f"{run_dir.root}: jobs of this run wait or run, {why}: {told}; take them back "
            f"with `sumpipe cancel {shlex.quote(str(run_dir.root))}` first, or choose another --run-dir"
        )


def _command(order: Order, stage: str, after: str | None) -> list[str]:
    return submit_command(stage, order.needs[stage], order.place, after)


@contextlib.contextmanager
def _alone(run_dir: RunDir) -> Iterator[None]:
    """Keep other submits of this run out.

    Raises:
        RunDirInUse: If one is at work.
    """
    marker = run_dir.root / ".submit"
    claim = Claim(marker)
    if not claim.take():
        raise RunDirInUse(
            f"{run_dir.root}: another `sumpipe submit` is at work here; wait for it, or if it is dead "
            f"remove {marker}"
        )
    try:
        yield
    finally:
        claim.release()


def _settle(order: Order, run_dir: RunDir, jobs: Mapping[str, Job]) -> None:
    """Make recipe.yaml what is asked for, as a job reads it when it starts; delete what is to be redone.

    Raises:
        ConfigError: If jobs wait or run that were submitted with another, or work on what would be deleted.
        RunDirInUse: If somebody else works in the run directory.
    """
    if order.redo:
        refuse_beside_jobs(run_dir, jobs, "which may work on what --restart-from deletes")
    if not run_dir.has_recipe(order.text):
        refuse_beside_jobs(run_dir, jobs, OTHER_RECIPE)
    if any(job.is_active for job in jobs.values()):  # one of them may hold the run
        return
    # Held for a moment only: the first job may start before this command is over.
    with lease.hold(run_dir, job_id()):
        for stage in reversed(order.redo):
            run_dir.remove(stage)
            print(f"{stage:9} is removed, as --restart-from asks")
        write_atomic(run_dir.recipe, order.text)
