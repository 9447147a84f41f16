"""A graph of one stage for a group of ranks, which can be held up, killed or stuck at will.

A command line (`python -m tests.fakes.toy_group run ...`) that starts the same module for each rank.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

from pydantic import StrictInt

from pipeline import cli, rank
from pipeline.config import EXECUTION_ONLY, Config
from pipeline.distributed import presence
from pipeline.files import write_atomic
from pipeline.preemption import StopFlag
from pipeline.stage import Launch, Metrics, Recipe, Stage, StageContext


class GroupConfig(Config):
    units: Annotated[StrictInt, EXECUTION_ONLY] = 20
    pause_ms: Annotated[StrictInt, EXECUTION_ONLY] = 100
    """Work of one unit."""
    stuck_rank: Annotated[StrictInt | None, EXECUTION_ONLY] = None
    """The rank that never leaves unit 3."""
    alone_at: Annotated[StrictInt | None, EXECUTION_ONLY] = None
    """From this unit on nobody waits for anybody."""


class GroupRecipe(Recipe):
    group: GroupConfig = GroupConfig()


def run_group(config: GroupConfig, context: StageContext) -> Metrics:
    """Count to `units` together; a stop is agreed on, as in training."""
    from pipeline.distributed import collectives

    counter = context.work / "unit.txt"
    start = int(counter.read_text(encoding="ascii")) if counter.exists() else 0
    place = collectives.device(context.world)
    for unit in range(start, config.units):
        presence.mark(f"unit {unit}")
        time.sleep(config.pause_ms / 1000)
        while unit == 3 and context.world.rank == config.stuck_rank:
            time.sleep(0.1)
        if config.alone_at is not None and unit >= config.alone_at:
            continue
        must_stop = collectives.all_max(context.stop.reason is not None, place)
        if context.world.is_first:
            write_atomic(counter, str(unit + 1))
        if must_stop:
            context.stop.request("a request to another rank")
            context.stop.check()
    return {"units": config.units}


STAGES = (Stage("group", 1, (), "tests.fakes.toy_group:run_group", launch=Launch.GROUP),)

if __name__ == "__main__":
    if "--lease" in sys.argv:
        stop = StopFlag()
        stop.listen()
        sys.exit(rank.main(STAGES, GroupRecipe, sys.argv[1:], stop))
    sys.exit(cli.main(STAGES, GroupRecipe, rank_module="tests.fakes.toy_group", about="Toys"))
