"""What ranks do in the tests of training: the finetune stage itself, with faults at chosen moments."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.artifact import RunDir
from pipeline.distributed import collectives, storage
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import World
from pipeline.errors import PipelineError
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.recipe import resolve
from pipeline.stage import Execution, StageContext
from stages.finetune import loop, run
from stages.recipe import SummarizationRecipe
from tests.launching import TINY

Fault = Literal["stop", "kill"]
Usage = namedtuple("Usage", "total used free")


class _Said(logging.Handler):
    """Keeps what people would read."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] in {"pipeline", "stages"}:
            self.messages.append(f"{record.levelname} {record.getMessage()}")


class _Told(Progress):
    """Keeps the updates that progress was told of."""

    def __init__(self) -> None:
        super().__init__("finetune", None, console=False)
        self.updates: list[int] = []

    def update(self, done: int, total: int, unit: str, **figures: float) -> None:
        self.updates.append(done)
        super().update(done, total, unit, **figures)


def _on_the_way(moment: str, fault: Fault, stop: StopFlag) -> None:
    """Stop or kill this rank at a moment such as `update 5`, `record 5`, `validation 8`, `validated 8`."""
    real_update, real_validate, real_add = loop.train_update, loop.validate, loop.Loop._add
    now = 0

    def reached(what: str) -> None:
        if what != moment:
            return
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        stop.request("USR2")

    def train_update(ranks: Any, work: Any, number: int, *rest: Any) -> Any:
        nonlocal now
        now = number + 1
        assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "compilers would die"
        reached(f"update {now}")
        return real_update(ranks, work, number, *rest)

    def validate(*arguments: Any) -> Any:
        reached(f"validation {now}")
        return real_validate(*arguments)

    def add(self: loop.Loop, **values: float | None) -> None:
        nonlocal now
        now = self.state.update
        real_add(self, **values)
        reached(f"{'validated' if 'valid/nll' in values else 'record'} {now}")

    loop.train_update, loop.validate = train_update, validate
    loop.Loop._add = add  # type: ignore[method-assign]


def _fail_saves(updates: Sequence[int]) -> None:
    """Let every write into the checkpoints of some updates fail."""
    real = torch.save

    def sick(state: object, path: str, **settings: Any) -> None:
        if any(f"update_{update:08d}" in str(path) for update in updates):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        real(state, path, **settings)

    torch.save = sick  # type: ignore[assignment]


def finetune(
    world: World,
    run_dir: str,
    settings: Sequence[str],
    profile: str = "zero0",
    moment: str = "",
    fault: Fault = "stop",
    on_rank: int | None = None,
    bad_saves: Sequence[int] = (),
    free_bytes: int | None = None,
) -> dict[str, Any]:
    """Run or resume the stage to its commit, and tell what was said.

    Args:
        world: This rank.
        run_dir: A run with a committed fetch and encode.
        settings: Changes of the tiny recipe, each under `finetune.`.
        profile: The sharding profile.
        moment: When `fault` happens; empty for never.
        fault: What happens to a rank.
        on_rank: The rank it happens to; None for all.
        bad_saves: Updates whose checkpoints cannot be written.
        free_bytes: What the disk claims to have left.
    """
    storage.FIRST_PAUSE = 0.01  # in the rank's process only
    said, told, stop = _Said(), _Told(), StopFlag()
    logging.getLogger().addHandler(said)
    logging.getLogger().setLevel(logging.INFO)
    if on_rank in (None, world.rank):
        _on_the_way(moment, fault, stop)
    _fail_saves(bad_saves)
    if free_bytes is not None:
        shutil.disk_usage = lambda _: Usage(10**12, 0, free_bytes)  # type: ignore[assignment]
    recipe, _ = resolve(SummarizationRecipe, str(TINY), [f"finetune.{pair}" for pair in settings])
    assert isinstance(recipe, SummarizationRecipe)
    folder = RunDir(Path(run_dir))
    if world.is_first:
        folder.open_partial("finetune", {})
    collectives.barrier()
    inputs = {name: artifact for name in ("fetch", "encode") if (artifact := folder.artifact(name))}
    context = StageContext(
        inputs=inputs,
        work=folder.partial("finetune"),
        seed=recipe.seed,
        world=world,
        execution=Execution(world.size, 1, find_profile(profile)),
        stop=stop,
        progress=told,
        guard=lambda: None,
    )
    found: dict[str, Any] = {"error": "", "code": 0, "metrics": None}
    try:
        found["metrics"] = run.run(recipe.finetune, context)
        collectives.barrier()
        if world.is_first:
            folder.commit("finetune", {}, found["metrics"], {})
    except PipelineError as error:
        found |= {"error": f"{type(error).__name__}: {error}", "code": error.exit_code}
    return {**found, "said": said.messages, "progress": told.updates}


def export(world: World, run_dir: str) -> dict[str, Any]:
    """Export what `finetune` committed into export.partial; returns its metrics."""
    from stages.decoding import DecodingRules
    from stages.export.config import ExportSettings
    from stages.export.run import run as export_run

    folder = RunDir(Path(run_dir))
    inputs = {
        name: artifact for name in ("fetch", "finetune") if (artifact := folder.artifact(name))
    }
    context = StageContext(
        inputs=inputs,
        work=folder.open_partial("export", {}),
        seed=1,
        world=world,
        execution=Execution(1, 1, find_profile("zero0")),
        stop=StopFlag(),
        progress=Progress("export", None, console=False),
        guard=lambda: None,
    )
    return export_run(ExportSettings(decoding=DecodingRules()), context)
