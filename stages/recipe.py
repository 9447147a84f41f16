"""The recipe: one section a stage."""

from __future__ import annotations

from pipeline.stage import Recipe
from stages.clean.config import CleanConfig
from stages.encode.config import EncodeConfig
from stages.export.config import ExportConfig
from stages.fetch.config import FetchConfig
from stages.finetune.config import FinetuneConfig
from stages.generate.config import GenerateConfig
from stages.report.config import ReportConfig
from stages.score.config import ScoreConfig


class SummarizationRecipe(Recipe):
    """Everything that identifies a run."""

    fetch: FetchConfig
    clean: CleanConfig = CleanConfig()
    encode: EncodeConfig
    finetune: FinetuneConfig
    export: ExportConfig = ExportConfig()
    generate: GenerateConfig
    score: ScoreConfig = ScoreConfig()
    report: ReportConfig = ReportConfig()
