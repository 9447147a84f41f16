"""What jobs ask the cluster for: from the command line, a site file, and defaults, in this order."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StringConstraints

from pipeline.config import JSON, Config, load_yaml, validate
from pipeline.errors import ConfigError
from pipeline.stage import Launch, Stage

Resource = Literal["cpu", "gpu"]

OWNED = {
    *("--parsable", "--job-name", "-J", "--output", "-o", "--chdir", "-D", "--dependency", "-d"),
    *("--kill-on-invalid-dep", "--array", "-a", "--ntasks", "-n", "--nodes", "-N", "--test-only"),
    *("--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "-c", "--wrap", "--wait", "-W"),
    *("--no-requeue", "--open-mode", "--gpus-per-task", "--gpu-bind", "--ntasks-per-gpu"),
}
"""Options of sbatch that are set here, or that would break what is done here."""


def _no_base_60(value: Any) -> Any:
    if isinstance(value, int):  # YAML reads 4:00:00 as the number 14400
        raise ValueError('write it in quotes, as time: "4:00:00"')
    return value


def _sbatch_words(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot be split into words ({error})") from None
    if not words or not words[0].startswith("-"):
        raise ValueError("expected an option of sbatch, such as --exclusive")
    for word in words:
        # sbatch takes -N4, and any unambiguous beginning of a long option
        is_long = word.startswith("--")
        name = word.partition("=")[0] if is_long else word[:2]
        if name in OWNED or (is_long and any(owned.startswith(name) for owned in OWNED)):
            raise ValueError(f"{name} is set by submit itself, or would break its chain")
    return value


Count = Annotated[StrictInt, Field(ge=1)]
Name = Annotated[str, StringConstraints(min_length=1)]


class Options(Config):
    """What a job asks for; null leaves it to the cluster."""

    nodes: Count | None = None
    tasks_per_node: Count | None = None
    gpus_per_node: Annotated[StrictInt, Field(ge=0)] | None = None
    """0 computes on CPUs."""
    cpus_per_task: Count | None = None
    mem_per_cpu: Annotated[str, StringConstraints(pattern=r"^[1-9]\d*[KMGT]?$")] | None = None
    """As `sbatch --mem-per-cpu` takes it: MiB, or with K, M, G or T."""
    time: (
        Annotated[
            str,
            BeforeValidator(_no_base_60),
            StringConstraints(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$"),
        ]
        | None
    ) = None
    """Limit of each job: minutes, H:MM:SS or D-HH:MM:SS."""
    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    constraint: Name | None = None
    sbatch: tuple[Annotated[str, AfterValidator(_sbatch_words)], ...] = ()
    """More options of sbatch, as a shell would take them; those of all sources add up."""


class SlurmSite(Options):
    """Options of all jobs, and by resource class."""

    cpu: Options = Options()
    gpu: Options = Options()


class Site(Config):
    """What a site file says."""

    slurm: SlurmSite = SlurmSite()


DEFAULTS: dict[Resource, Options] = {
    "cpu": Options(nodes=1, tasks_per_node=1, cpus_per_task=2, mem_per_cpu="4G"),
    "gpu": Options(nodes=1, gpus_per_node=1, cpus_per_task=4, mem_per_cpu="4G"),
}


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


def resource_of(stage: Stage) -> Resource:
    """Return the resource class of a stage."""
    return "gpu" if can_share(stage) else "cpu"


def need_of(stage: Stage, site: SlurmSite, flags: Options) -> Need:
    """Return what a stage's job asks for.

    Args:
        stage: A stage; if its work cannot be shared it gets one task on one node.
        site: What the site file says.
        flags: The command line, which wins; its counts are for stages whose work can be shared.

    Raises:
        ConfigError: If the tasks of a node are not its GPUs.
    """
    resource = resource_of(stage)
    if not can_share(stage):
        counts = {"nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task"}
        flags = Options(**flags.model_dump(exclude_unset=True, exclude=counts))
    layers = (DEFAULTS[resource], site, getattr(site, resource), flags)
    asked = _stacked(layers)
    gpus = (asked.gpus_per_node or 0) if resource == "gpu" else 0
    per_node = asked.tasks_per_node or 1
    if gpus:
        if asked.tasks_per_node not in (None, gpus):
            raise ConfigError(
                f"tasks per node: {asked.tasks_per_node}, with {gpus} GPUs per node; there is one task a "
                "GPU: leave it out, or compute on CPUs with --gpus-per-node 0"
            )
        per_node = gpus
    if not can_share(stage):
        return Need(resource, 1, 1, gpus, asked)
    return Need("gpu" if gpus else "cpu", asked.nodes or 1, per_node, gpus, asked)


def _stacked(layers: Sequence[Options]) -> Options:
    """Lay options over one another; what a layer does not mention stays, what it makes null is gone."""
    known = Options.model_fields.keys()
    given: JSON = {}
    extra: list[str] = []
    for layer in layers:
        given |= {name: getattr(layer, name) for name in layer.model_fields_set & known}
        extra += layer.sbatch
    return Options(**{**given, "sbatch": tuple(extra)})
