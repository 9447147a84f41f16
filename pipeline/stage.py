"""What a stage is: an inert description, and the context its function receives."""

from __future__ import annotations

import contextlib
import gc
import importlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

from pydantic import Field, StrictInt

from pipeline.artifact import Artifact
from pipeline.config import JSON, Config
from pipeline.distributed.world import World
from pipeline.errors import ConfigError
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.shards import Shards, work_through

Metrics = dict[str, Any]
"""Results of a stage; numbers, strings or None by a name that carries the unit.

`content_...` are checksums (see cache.py); `warning_...` are texts, told when the stage is done, and again
when a run takes it from a cache.
"""

HashFile = Callable[[Path], str]
"""Gives the sha256 of a file outside the run directory."""


Resource = Literal["cpu", "gpu"]
"""What a stage computes with."""


class Launch(StrEnum):
    """How the processes of a stage are started."""

    LOCAL = "local"
    """One process, which may start workers of its own."""
    GROUP = "group"
    """One process per GPU, joined in a process group by a launcher."""


class Recipe(Config):
    """What every recipe has; the project's own adds one section a stage."""

    name: str
    """The recipe's name, for people."""
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 1
    """Seed of everything random in the run."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Where each value is from, by its dotted name; for people, part of no identity."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How work is carried out; recorded, never part of an identity."""

    processes: int
    """Processes a stage may use on this host."""
    threads: int
    """Threads each process computes with."""
    ds_profile: Path
    """The DeepSpeed sharding profile."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """Everything a stage function may touch besides its configuration."""

    inputs: Mapping[str, Artifact]
    """Committed artifacts of the stages it reads, by name."""
    work: Path
    """The only directory it may write; survives a crash, so a stage resumes by looking inside."""
    seed: int
    world: World
    execution: Execution
    stop: StopFlag
    """Poll at every update, shard or row boundary."""
    progress: Progress
    guard: Callable[[], None]
    """Call before publishing anything in `work`: raises if another process took the run over."""
    fingerprint: str = ""
    """Identity of what is made, for names that other work may not share."""
    recipe_name: str = "unnamed"
    """For people; not part of any identity."""

    @property
    def claims(self) -> Path:
        """Where those who share this very work claim shards."""
        return self.work.parent / ".claims" / f"{self.work.stem}-{self.fingerprint[:12]}"

    @property
    def shared(self) -> Path:
        """Where shards are published; other work has another folder (see Shards.folder)."""
        return self.work / f"shards-{self.fingerprint[:12]}"

    def adopt(self, make: Callable[[], Path], names: Sequence[str]) -> None:
        """Have work done in shards once, and move its folders into `work`, where they stay.

        Args:
            make: Shares the steps and returns the folder in `shared` that has the result.
            names: Its folders.
        """
        made = self.work / "made"
        if not made.is_dir() and not (self.work / names[-1]).is_dir():
            found = make()
            self.guard()
            found.rename(made)
        for name in names:
            if (made / name).is_dir():
                (made / name).rename(self.work / name)
        if made.is_dir():
            made.rmdir()
        self.end_sharing()

    def end_sharing(self) -> None:
        """Remove the shards once they are joined, also what a crash has left of a removal."""
        self.guard()
        doomed = self.shared.with_name(f"removed-{self.shared.name}")
        if doomed.exists():
            shutil.rmtree(doomed)
        if self.shared.exists():
            # Renamed first: a helper that is late may still write there, and then finds the place gone.
            self.shared.rename(doomed)
            shutil.rmtree(doomed)
        shutil.rmtree(self.claims, ignore_errors=True)
        with contextlib.suppress(OSError):  # others' claims are there, or none ever were
            self.claims.parent.rmdir()

    def share(self, shards: Shards) -> None:
        """Do shards, together with whoever joins, until none is left.

        Raises:
            Preempted: If a stop was asked for.
            LaunchError: If workers keep dying.
        """
        execution = self.execution
        shards.claims.mkdir(parents=True, exist_ok=True)
        shards.folder.mkdir(parents=True, exist_ok=True)
        self.progress.update(shards.count - len(shards.missing()), shards.count, shards.unit)
        for done in work_through(shards, execution.processes, execution.threads, self.stop):
            self.guard()
            self.progress.update(done, shards.count, shards.unit)
        # A helper that is late may still write there; what it leaves is no part of the run.
        shutil.rmtree(shards.claims, ignore_errors=True)


class StageFunction(Protocol):
    """The whole contract of a stage: work in `context.work`, return metrics."""

    def __call__(self, config: Any, context: StageContext) -> Metrics:
        """Do the stage's work, or what is left of it."""


class Sharder(Protocol):
    """Gives the shards of a stage's work."""

    def __call__(self, config: Any, context: StageContext) -> Iterable[Shards]:
        """Yield the shards of one step after the other; those of a step may need what the last one made."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a forecast."""

    label: str
    text: str
    """The value with its unit, for people."""
    certainty: Literal["exact", "estimate", "measured", "unknown"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a stage will take, told before it runs."""

    figures: tuple[Figure, ...]
    details: JSON
    """The same for machines, units in the names."""


@dataclass(frozen=True, slots=True)
class ForecastContext:
    """What a forecast may look at."""

    inputs: Mapping[str, Artifact]
    """The stage's inputs by name, as far as they are committed and current."""
    recipe: JSON
    """The whole resolved recipe as plain data: what stages before it will do."""
    seed: int
    execution: Execution


class Forecaster(Protocol):
    """Tells what a stage will take; writes nothing."""

    def __call__(self, config: Any, context: ForecastContext) -> Forecast:
        """Return the forecast."""


class Identity(Protocol):
    """Turns a configuration that names outside files into one that holds their contents' hashes."""

    def __call__(self, config: Any, seed: int, hash_file: HashFile) -> JSON:
        """Return what is hashed in place of the plain configuration; the seed only if it is used."""


@dataclass(frozen=True, slots=True)
class Stage:
    """An inert description of a stage; building the graph imports nothing heavy.

    `version` is raised by hand when the meaning of the output changes.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    entry: str
    launch: Launch = Launch.LOCAL
    resource: Resource = "cpu"
    seeded: bool = False
    settings: Callable[[Any], Config] | None = None
    """Makes what the stage is given from the recipe; None for the section of its name."""
    identity: Identity | None = None
    check: Callable[[Any, Execution], None] | None = None
    """Raises ConfigError if the configuration cannot be carried out in this way; before any work."""
    forecast: str | None = None
    """`module:function` of a Forecaster that imports nothing heavy, for `plan`; None for no forecast."""
    probe: str | None = None
    """`module:function` of a Forecaster that tries it on this machine, for `plan --probe`."""
    cached: bool = False
    """Whether runs share it through a cache directory (see cache.py)."""
    shards: str | None = None
    """`module:function` of a Sharder: other processes, on any host, may help; None if it is done by one."""

    def config(self, recipe: Recipe) -> Config:
        """Return what the stage is given of the recipe: the whole of what it may depend on."""
        section: Config = self.settings(recipe) if self.settings else getattr(recipe, self.name)
        return section

    def payload(self, recipe: Recipe, inputs: Mapping[str, str], hash_file: HashFile) -> JSON:
        """Return what identifies this stage's output.

        Args:
            recipe: The resolved recipe; only what this stage is given (and the seed, if used) enters.
            inputs: Fingerprints of the input artifacts by stage name, which makes it a Merkle chain.
            hash_file: Hashes files that the section names.
        """
        section = self.config(recipe)
        config = (
            self.identity(section, recipe.seed, hash_file) if self.identity else section.identity()
        )
        payload: JSON = {"stage": self.name, "version": self.version, "config": config}
        if self.seeded:
            payload["seed"] = recipe.seed
        return {**payload, "inputs": dict(inputs)}

    def load(self) -> StageFunction:
        """Import the stage's function."""
        return cast(StageFunction, _imported(self.entry))

    def sharder(self) -> Sharder:
        """Import what gives the stage's shards."""
        if self.shards is None:
            raise ConfigError(f"{self.name}: is done by one process; nobody can help with it")
        return cast(Sharder, _imported(self.shards))


def forecaster(entry: str) -> Forecaster:
    """Import what `Stage.forecast` or `Stage.probe` names."""
    return cast(Forecaster, _imported(entry))


def _imported(entry: str) -> Any:
    """Import `module:name`; the one dynamic import of the project.

    What is imported lives to the end, and is much: the collector, which would walk it again and again, at the
    end of the process too, is told to leave it alone: it is a good part of the CPU time of a rank's start.
    """
    module, _, name = entry.partition(":")
    gc.disable()
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        gc.enable()
        gc.freeze()
