"""The order of the checks: what each task finds alone, then what the tasks find together."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config import JSON
from pipeline.distributed.profile import load_profile
from pipeline.distributed.world import World, launcher_holds_port, thread_count, timeout_seconds
from pipeline.doctor.binding import Task, judge_binding
from pipeline.doctor.clocks import judge_clocks
from pipeline.doctor.finding import Finding, Level, failure, guarded, merged, ok
from pipeline.doctor.group import IMPORT_SECONDS, judge_group, try_out
from pipeline.doctor.limits import Limits, judge_limits, limits_here
from pipeline.doctor.meeting import Meeting, Missed, alone, meet
from pipeline.doctor.room import judge_temporary
from pipeline.doctor.shared_files import examine_files
from pipeline.doctor.software import (
    Gpus,
    Software,
    gpus_here,
    installed,
    judge_ops,
    judge_sameness,
    judge_software,
    judge_torch,
    required,
)
from pipeline.errors import LaunchError
from pipeline.stage import Execution, Recipe

_LONGEST_WAIT = 60
"""Seconds that tasks wait for each other; SUMPIPE_TIMEOUT_SECONDS, if shorter."""
_CHECK_SECONDS = 30.0


class Subject(NamedTuple):
    """What is to be looked at."""

    recipe: Recipe | None
    run_dir: Path | None
    execution: Execution


OwnCheck = Callable[[Subject], Iterable[Finding]]


class OwnChecks(NamedTuple):
    """The project's own checks by their names."""

    everywhere: Mapping[str, OwnCheck]
    """Done by every task."""
    once: Callable[[Subject], Mapping[str, OwnCheck]]
    """Gives those that are done by rank 0; they may share what they look up."""


class Report(NamedTuple):
    """What was found."""

    findings: Sequence[Finding]
    tasks: Sequence[JSON]
    """Facts of each task that came."""

    @property
    def has_failure(self) -> bool:
        """Whether something stands in the way of runs."""
        return any(finding.level is Level.FAILURE for finding in self.findings)


def examine(subject: Subject, own: OwnChecks, world: World) -> Report | None:
    """Do all checks, together with the other tasks of this launch.

    Returns:
        The report, on rank 0; None on the others, which take part until the end.

    Raises:
        LaunchError: On another rank, if it does not reach rank 0, or was given up by it.
    """
    limit = min(_LONGEST_WAIT, timeout_seconds())
    mine = _start(subject, own.everywhere, world)
    with _met(world, limit) as (meeting, of_meeting):
        tasks = _present(meeting.collect("the start", mine, limit))
        meeting.collect("the clocks", {}, limit)  # so that all read theirs at the same moment
        read = _present(meeting.collect("the clocks", {"time_s": time.time()}, limit))
        of_files = []
        if subject.run_dir is not None:
            of_files = examine_files(subject.run_dir, world, meeting)
        # All know alike who is there; a group without one of them would only wait.
        everybody = _present(meeting.collect("the trial of torch", {}, limit))
        answers = try_out(world, limit, with_group=len(everybody) == world.size)
        seconds = IMPORT_SECONDS + 3 * limit
        trials = _present(meeting.collect("the all-reduce", answers, seconds))
        lost = [_missed(rank, missed, tasks) for rank, missed in meeting.lost.items()]
    has_met = not any(finding.level is Level.FAILURE for finding in of_meeting)
    if not world.is_first:
        return None
    of_run = _checked(own.once(subject), subject)  # after the others have left: they need not wait
    times = {rank: answer["time_s"] for rank, answer in read.items()}
    findings = [
        *merged({rank: _of_task(rank, tasks, trials, world) for rank in tasks}),
        *judge_sameness({rank: Software(**task["software"]) for rank, task in tasks.items()}),
        *judge_binding([_task(tasks[rank], trials.get(rank, {})) for rank in tasks]),
        *of_meeting,
        *(lost if has_met else []),
        *([judge_clocks(times)] if len(times) > 1 else []),
        *(judge_group(trials) if len(trials) == world.size else []),
        *of_files,
        *of_run,
    ]
    return Report(findings, list(tasks.values()))


def _present(answers: Sequence[JSON | None]) -> dict[int, JSON]:
    return {rank: answer for rank, answer in enumerate(answers) if answer is not None}


@contextlib.contextmanager
def _met(world: World, limit: float) -> Iterator[tuple[Meeting, list[Finding]]]:
    """Bring the tasks together, or let rank 0 go on by itself with a finding that says why."""
    port = world.master_port + launcher_holds_port()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            meeting = stack.enter_context(meet(world, port, limit))
        except LaunchError as error:
            if not world.is_first:
                raise
            text, _, fix = str(error).partition("; ")
            yield alone(world), [failure("rendezvous", text, fix)]
            return
        text = f"{world.size - len(meeting.lost)} task(s) met at {world.master_addr} port {port}"
        found = ok("rendezvous", f"{text} within {time.monotonic() - started:.1f} s")
        yield meeting, [found] if world.size > 1 else []


def _missed(rank: int, missed: Missed, tasks: Mapping[int, JSON]) -> Finding:
    where = f" on {tasks[rank]['host']}" if rank in tasks else ""
    return failure(
        "tasks",
        f"rank {rank}{where} did not come to {missed.step} within {missed.seconds:.0f} s",
        "see what it said itself, and whether its host runs; checks that need it were left out",
    )


def _start(subject: Subject, own: Mapping[str, OwnCheck], world: World) -> JSON:
    """Do what a task can do alone and without torch, and tell its facts."""
    wanted, profile = required(), subject.execution.ds_profile
    software, gpus = installed(list(wanted.packages)), gpus_here()
    checks: dict[str, OwnCheck] = {
        "packages": lambda _: judge_software(software, wanted),
        "deepspeed": lambda _: judge_ops(
            profile.stem, load_profile(profile), software.packages["deepspeed"]
        ),
        "temp files": lambda _: [judge_temporary()],
        **own,
    }
    return {
        "rank": world.rank,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "threads": thread_count(),
        "software": software._asdict(),
        "gpus": gpus._asdict(),
        "limits": limits_here(has_gpu=gpus.visible > 0)._asdict(),
        "findings": [finding._asdict() for finding in _checked(checks, subject)],
    }


def _checked(checks: Mapping[str, OwnCheck], subject: Subject) -> list[Finding]:
    return [
        finding
        for name, check in checks.items()
        for finding in guarded(name, _CHECK_SECONDS, functools.partial(check, subject))
    ]


def _of_task(
    rank: int, tasks: Mapping[int, JSON], trials: Mapping[int, JSON], world: World
) -> list[Finding]:
    """Judge what one task is, has, and found out."""
    mine = tasks[rank]
    neighbours = sum(task["host"] == mine["host"] for task in tasks.values())
    return [
        *map(Finding.of, mine["findings"]),
        *(judge_torch(trials[rank], Gpus(**mine["gpus"])) if rank in trials else []),
        *judge_limits(Limits(**mine["limits"]), world.size, neighbours),
    ]


def _task(facts: JSON, trial: JSON) -> Task:
    torch = trial.get("torch") or {"gpu": None, "gpus": []}
    gpus = [gpu["uuid"] for gpu in torch["gpus"]]
    return Task(facts["rank"], facts["host"], facts["cpus"], facts["threads"], torch["gpu"], gpus)
