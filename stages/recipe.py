"""The recipe: one section a stage."""

from __future__ import annotations

from pydantic import model_validator

from pipeline.stage import Recipe
from stages.clean.config import CleanConfig
from stages.decoding import DecodingRules
from stages.encode.config import EncodeConfig
from stages.export.config import ExportConfig, ExportSettings
from stages.fetch.config import FetchConfig, ScratchModel
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

    @model_validator(mode="after")
    def _lengths_fit_a_new_model(self) -> SummarizationRecipe:
        if isinstance(self.fetch.model, ScratchModel):
            positions = self.fetch.model.max_positions
            for name, length in (
                ("encode.max_source_tokens", self.encode.max_source_tokens),
                ("encode.max_target_tokens", self.encode.max_target_tokens),
                ("generate.max_length", self.generate.max_length),
            ):
                if length > positions:
                    raise ValueError(
                        f"{name} {length} is more than fetch.model.max_positions {positions}"
                    )
        return self


def export_settings(recipe: SummarizationRecipe) -> ExportSettings:
    """Return what export is given: its section, and how generate decodes."""
    rules = {name: getattr(recipe.generate, name) for name in DecodingRules.model_fields}
    return ExportSettings(**dict(recipe.export), decoding=DecodingRules(**rules))
