"""What jobs ask the cluster for: from the command line, a site file, and defaults, in this order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictInt,
    StringConstraints,
    field_validator,
)

from pipeline.config import JSON, Config, load_yaml, validate
from pipeline.errors import ConfigError
from pipeline.stage import Launch, Resource, Stage

OWNED = {
    *("--parsable", "--job-name", "-J", "--output", "-o", "--chdir", "-D", "--dependency", "-d"),
    *("--kill-on-invalid-dep", "--array", "-a", "--ntasks", "-n", "--nodes", "-N", "--test-only"),
    *("--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "-c", "--wrap", "--wait", "-W"),
    *("--no-requeue", "--open-mode", "--gpus-per-task", "--gpu-bind", "--ntasks-per-gpu"),
    *("--help", "-h", "--usage", "-u", "--version", "-V", "--clusters", "-M"),
    *("--time", "-t", "--time-min"),
}
"""Options of sbatch that are set here, or that would break what is done here."""

WARNING_SECONDS = 300
"""Tasks get USR2 so long before the time limit, unless told otherwise."""
_EARLY_SECONDS = 30
"""By how much Slurm may be early."""


def _no_base_60(value: Any) -> Any:
    if isinstance(value, int):  # YAML reads 4:00:00 as the number 14400
        raise ValueError('write it in quotes, as time: "4:00:00"')
    return value


def _sbatch_words(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot be split into words ({error})") from None
    for word in words or [""]:
        # A value in a word of its own could not be told from an option.
        if not re.match(r"--?[A-Za-z]", word):
            raise ValueError(f"expected options of sbatch, a value as --name=value; found {word!r}")
        # sbatch takes -N4, and any unambiguous beginning of a long option
        is_long = word.startswith("--")
        name = word.partition("=")[0] if is_long else word[:2]
        if name in OWNED or (is_long and any(owned.startswith(name) for owned in OWNED)):
            raise ValueError(
                f"{name} is set by submit itself, or would break its chain; leave it out, or give the "
                "option of submit if there is one (`sumpipe submit --help`)"
            )
        if _is_signal(word) and _warning(word) is None:
            raise ValueError(
                f"{word}: tasks stop and save on USR2 alone, and have to get it themselves; give "
                "--signal=USR2@SECONDS"
            )
    return value


def _is_signal(word: str) -> bool:
    return word.startswith("--") and "--signal".startswith(word.partition("=")[0])


def _warning(word: str) -> int | None:
    """Return the seconds of a --signal that tasks understand; None of another."""
    found = re.fullmatch(r"--\w+=USR2@([1-9]\d*)", word)
    return None if found is None else int(found[1])


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _matching(pattern: str, wanted: str) -> AfterValidator:
    """Ask for text of a form that `wanted` describes."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"expected {wanted}")
        return value

    return AfterValidator(check)


Count = Annotated[StrictInt, Field(ge=1)]
Name = Annotated[str, StringConstraints(min_length=1)]


class Options(Config):
    """What a job asks for; null leaves it to the cluster."""

    nodes: Count | None = None
    tasks_per_node: Count | None = None
    gpus_per_node: Annotated[StrictInt, Field(ge=0)] | None = None
    """0 computes on CPUs."""
    gpu_type: Annotated[str, _matching(r"[\w.-]+", "a name of Slurm's, such as a100")] | None = None
    """Where nodes have GPUs of several types."""
    cpus_per_task: Count | None = None
    mem_per_cpu: (
        Annotated[
            str, _matching(r"[1-9]\d*[KMGT]?", "MiB, or a number with K, M, G or T, such as 4G")
        ]
        | None
    ) = None
    """As `sbatch --mem-per-cpu` takes it."""
    time: (
        Annotated[
            str,
            BeforeValidator(_no_base_60),
            _matching(r"(\d+-)?\d+(:\d\d){0,2}", "minutes, H:MM:SS or D-HH:MM:SS"),
        ]
        | None
    ) = None
    """Limit of each job: minutes, H:MM:SS or D-HH:MM:SS."""
    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    constraint: Name | None = None
    sbatch: Annotated[
        tuple[Annotated[str, AfterValidator(_sbatch_words)], ...], BeforeValidator(_one_or_many)
    ] = ()
    """More options of sbatch, as a shell would take them; those of all sources add up."""

    @property
    def words(self) -> list[str]:
        """`sbatch`, word by word."""
        return [word for text in self.sbatch for word in shlex.split(text)]


def _empty_section(value: Any) -> Any:
    if value is None:  # all in it is commented out
        return {}
    if not isinstance(value, (dict, Config)):
        raise ValueError("expected a section of settings")
    return value


_Section = BeforeValidator(_empty_section)


class SlurmSite(Options):
    """Options of all jobs, and by resource class."""

    cpu: Annotated[Options, _Section] = Options()
    """For jobs without GPUs; those whose work can be shared take counts from here too."""
    gpu: Annotated[Options, _Section] = Options()
    """For jobs with GPUs."""

    @field_validator("cpu")
    @classmethod
    def _cpu_has_no_gpus(cls, cpu: Options) -> Options:
        if found := cpu.model_fields_set & {"gpus_per_node", "gpu_type"}:
            raise ValueError(
                f"{min(found)} is not for jobs without GPUs; write it under gpu, or beside both"
            )
        return cpu


class Site(Config):
    """What a site file says."""

    slurm: Annotated[SlurmSite, _Section] = SlurmSite()


PREPARING = Options(cpus_per_task=2, mem_per_cpu="4G")
"""Asked for by a stage that computes on CPUs."""
COMPUTING = Options(nodes=1, gpus_per_node=1, cpus_per_task=4, mem_per_cpu="4G")
"""Asked for by a stage that computes on GPUs, if there are any."""


class Need(NamedTuple):
    """What one stage's job asks for, complete."""

    resource: Resource
    """Which script it runs."""
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    asked: Options
    """The rest."""

    @property
    def tasks(self) -> int:
        """All tasks of the job."""
        return self.nodes * self.tasks_per_node


def read_site(path: Path | None) -> SlurmSite:
    """Read the `slurm:` section of a site file; without a file, nothing is asked for.

    Raises:
        ConfigError: With every mistake in it.
    """
    return SlurmSite() if path is None else validate(Site, load_yaml(path), str(path)).slurm


def can_share(stage: Stage) -> bool:
    """Whether more than one task can work on a stage."""
    return stage.launch is Launch.GROUP or stage.shards is not None


def need_of(stage: Stage, site: SlurmSite, flags: Options) -> Need:
    """Return what a stage's job asks for.

    Args:
        stage: A stage; if its work cannot be shared it gets one task on one node.
        site: What the site file says.
        flags: The command line, which wins. Its counts are for the stages that compute on GPUs; where there
            are none, for all whose work can be shared.

    Raises:
        ConfigError: If the tasks of a node are not its GPUs, or the time limit leaves no time to save.
    """
    may_compute = stage.resource == "gpu" or can_share(stage)
    need = _computing(site, flags) if may_compute else _preparing(stage, site, flags)
    if stage.resource == "cpu" and need.gpus_per_node:
        need = _preparing(stage, site, flags)
    _require_time_to_save(need.asked)
    return need


def _preparing(stage: Stage, site: SlurmSite, flags: Options) -> Need:
    counts = {"nodes", "tasks_per_node", "gpus_per_node", "gpu_type", "cpus_per_task"}
    rest = Options(**flags.model_dump(exclude_unset=True, exclude=counts))
    asked = _stacked((PREPARING, site, site.cpu, rest))
    if not can_share(stage):
        return Need("cpu", 1, 1, 0, asked)
    return Need("cpu", asked.nodes or 1, asked.tasks_per_node or 1, 0, asked)


def _computing(site: SlurmSite, flags: Options) -> Need:
    asked = _stacked((COMPUTING, site, site.gpu, flags))
    gpus = asked.gpus_per_node or 0
    if not gpus:
        if flags.gpu_type is not None:
            raise ConfigError(
                f"--gpu-type {flags.gpu_type}: with no GPUs per node; leave it out, or ask for some"
            )
        asked = _stacked((COMPUTING, site, site.cpu, flags))
        return Need("cpu", asked.nodes or 1, asked.tasks_per_node or 1, 0, asked)
    if asked.tasks_per_node not in (None, gpus):
        raise ConfigError(
            f"tasks per node: {asked.tasks_per_node}, with {gpus} GPUs per node; there is one task a "
            "GPU: leave it out, or compute on CPUs with --gpus-per-node 0"
        )
    return Need("gpu", asked.nodes or 1, gpus, gpus, asked)


def _require_time_to_save(asked: Options) -> None:
    """Raise ConfigError if the warning before the time limit would come as soon as the job begins."""
    given = [_warning(word) for word in asked.words if _is_signal(word)]
    warning = given[-1] if given and given[-1] else WARNING_SECONDS
    least = warning + _EARLY_SECONDS
    limit = None if asked.time is None else _seconds(asked.time)
    if limit and limit <= least:  # 0 is no limit
        raise ConfigError(
            f"time {asked.time}: is {limit} s, and tasks are warned {warning} s before its end, or up "
            f"to {_EARLY_SECONDS} s earlier; give more than {least} s, or a later warning with --sbatch "
            '"--signal=USR2@SECONDS"'
        )


def _seconds(time: str) -> int:
    """Return a time limit in seconds, read as sbatch does: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, has_days, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not has_days and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _stacked(layers: Sequence[Options]) -> Options:
    """Lay options over one another; what a layer does not mention stays, what it makes null is gone."""
    known = Options.model_fields.keys()
    given: JSON = {}
    extra: list[str] = []
    for layer in layers:
        given |= {name: getattr(layer, name) for name in layer.model_fields_set & known}
        extra += layer.sbatch
    return Options(**{**given, "sbatch": tuple(extra)})
