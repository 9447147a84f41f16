"""The `sumpipe` command."""

from __future__ import annotations

import sys

from pipeline.cli import main as run_command_line
from stages.generate.command import add_summarize
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe

COMMANDS = (add_summarize,)
"""Commands beside those on runs."""


def main() -> None:
    """Run the command line."""
    code = run_command_line(
        STAGES,
        SummarizationRecipe,
        rank_module="stages.rank",
        about="Fine-tune a summarizer and score it",
        commands=COMMANDS,
    )
    sys.exit(code)


if __name__ == "__main__":
    main()
