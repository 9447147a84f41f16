"""The toy graph with a b that takes its time, so that it can be disturbed on any machine.

Also a command line: `python -m tests.fakes.slow_stages run ...`.
"""

from __future__ import annotations

import dataclasses
import sys
import time

from pipeline.cli import main
from pipeline.files import write_atomic
from pipeline.stage import Metrics, StageContext
from tests.fakes.toy_stages import STAGES as TOY_STAGES
from tests.fakes.toy_stages import BConfig, ToyRecipe

SECONDS = 0.005
"""What each unit takes at least."""


def run_b(config: BConfig, context: StageContext) -> Metrics:
    for unit in range(config.units):
        path = context.work / f"unit{unit}.txt"
        if not path.exists():
            context.stop.check()
            time.sleep(SECONDS)
            write_atomic(path, f"{unit}\n")
            context.progress.update(unit + 1, config.units, "unit")
    return {"units": config.units}


STAGES = tuple(
    dataclasses.replace(stage, entry="tests.fakes.slow_stages:run_b")
    if stage.name == "b"
    else stage
    for stage in TOY_STAGES
)

if __name__ == "__main__":
    sys.exit(main(STAGES, ToyRecipe, rank_module="tests.no_ranks", about="Slow toys"))
