"""The `sumpipe` command."""

from __future__ import annotations

import sys

from pipeline.cli import main as run_command_line
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe


def main() -> None:
    """Run the command line."""
    about = "Fine-tune a summarizer and score it"
    sys.exit(run_command_line(STAGES, SummarizationRecipe, rank_module="stages.rank", about=about))


if __name__ == "__main__":
    main()
