"""A stage's context for tests of fetch."""

from __future__ import annotations

from pathlib import Path

from pipeline.distributed.world import World
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, StageContext


def new_context(work: Path, stop: StopFlag | None = None) -> StageContext:
    work.mkdir(parents=True, exist_ok=True)
    execution = Execution(processes=1, threads=1, ds_profile=Path("zero0.json"))
    progress = Progress("fetch", None, console=False)
    stop = stop or StopFlag()
    return StageContext({}, work, 1, World(), execution, stop, progress, guard=lambda: None)
