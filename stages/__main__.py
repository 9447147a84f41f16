"""The `sumpipe` command."""

from __future__ import annotations

import sys

from pipeline.cli import main as run_command_line
from pipeline.slurm.command import slurm_commands
from stages.compare.command import add_compare
from stages.doctor import add_doctor
from stages.drill import add_drill
from stages.generate.command import add_summarize
from stages.graph import STAGES
from stages.pages import add_report
from stages.push import add_push
from stages.recipe import SummarizationRecipe
from stages.score.command import add_score
from stages.trace import add_trace

COMMANDS = (
    *(add_summarize, add_trace, add_score, add_report, add_compare, add_push),
    *(slurm_commands(STAGES, SummarizationRecipe), add_doctor, add_drill),
)
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
