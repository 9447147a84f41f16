"""Which CPUs and which GPU each task has, and whether two of them would fight for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.doctor.finding import Finding, failure, ok, ranks_text, warning

_CHECK = "binding"


class Task(NamedTuple):
    """What one task has."""

    rank: int
    host: str
    cpus: Sequence[int]
    """CPUs that it may run on, by the system's numbers."""
    threads: int
    """It computes with."""
    gpu: str | None = None
    """Unique name of the GPU that it would use."""
    gpus: Sequence[str] = ()
    """Of all that it sees."""


def judge_binding(tasks: Sequence[Task]) -> list[Finding]:
    """Judge host by host; one line a host if all is well."""
    hosts = dict.fromkeys(task.host for task in tasks)
    return [
        finding
        for host in hosts
        for finding in _of_host(host, [task for task in tasks if task.host == host])
    ]


def _of_host(host: str, tasks: Sequence[Task]) -> Iterator[Finding]:
    faults = [*_gpu_faults(host, tasks), *_cpu_faults(host, tasks)]
    yield from faults
    if not faults:
        cpus = sorted({len(task.cpus) for task in tasks})
        each = f"{cpus[0]}" if len(cpus) == 1 else f"{cpus[0]} to {cpus[-1]}"
        seen = len({gpu for task in tasks for gpu in task.gpus})
        gpus = f", a GPU each of {seen} seen" if seen else ""
        ranks = ranks_text(task.rank for task in tasks)
        yield ok(_CHECK, f"{host}: {ranks}; {each} CPU(s) each{gpus}")


def _gpu_faults(host: str, tasks: Sequence[Task]) -> Iterator[Finding]:
    used = {gpu: [task.rank for task in tasks if task.gpu == gpu] for gpu in {t.gpu for t in tasks}}
    without = used.pop(None, [])
    for gpu, ranks in sorted(used.items(), key=lambda item: item[1]):
        if len(ranks) > 1:
            yield failure(
                _CHECK,
                f"{host}: {ranks_text(ranks)} use the same GPU {gpu}",
                "start one task a GPU: --ntasks-per-node equal to --gpus-per-node, without --gpu-bind",
            )
    if without and used:
        yield failure(
            _CHECK,
            f"{host}: {ranks_text(without)} sees no GPU, others do",
            "start one task a GPU: --ntasks-per-node equal to --gpus-per-node",
        )
    idle = {gpu for task in tasks for gpu in task.gpus} - set(used)
    if idle and used:
        yield warning(
            _CHECK,
            f"{host}: {len(idle)} of {len(idle) + len(used)} GPUs have no task",
            "start one task a GPU: --ntasks-per-node equal to --gpus-per-node",
        )


def _cpu_faults(host: str, tasks: Sequence[Task]) -> Iterator[Finding]:
    single: dict[int, list[int]] = {}
    for task in tasks:
        if len(task.cpus) == 1:
            single.setdefault(task.cpus[0], []).append(task.rank)
    doubled = {cpu: ranks for cpu, ranks in single.items() if len(ranks) > 1}
    for cpu, ranks in doubled.items():
        yield failure(
            _CHECK,
            f"{host}: {ranks_text(ranks)} are all bound to CPU {cpu}",
            "give srun --cpus-per-task, which it does not take over from the job, or --cpu-bind=none",
        )
    cpus = {cpu for task in tasks for cpu in task.cpus}
    wanted = sum(task.threads for task in tasks)
    if len(cpus) < wanted and not doubled:
        yield warning(
            _CHECK,
            f"{host}: {wanted} thread(s) of {len(tasks)} task(s) share {len(cpus)} CPU(s)",
            "give srun --cpus-per-task, or lower SUMPIPE_THREADS",
        )
