"""One rank of a stage, for launchers: `deepspeed --module stages.rank finetune --run-dir DIR`."""

from __future__ import annotations

import gc
import sys

from pipeline.preemption import StopFlag


def main() -> int:
    """Listen for signals before anything heavy is imported, then be a rank."""
    stop = StopFlag()
    stop.listen()
    gc.disable()  # until all is imported (pipeline/stage.py)
    from pipeline.rank import main as run_rank
    from stages.graph import STAGES
    from stages.recipe import SummarizationRecipe

    return run_rank(STAGES, SummarizationRecipe, sys.argv[1:], stop)


if __name__ == "__main__":
    sys.exit(main())
