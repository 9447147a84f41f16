"""One rank of a stage, for launchers: `deepspeed --module stages.rank finetune --run-dir DIR`."""

from __future__ import annotations

import sys

from pipeline.rank import main
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe

if __name__ == "__main__":
    sys.exit(main(STAGES, SummarizationRecipe, sys.argv[1:]))
