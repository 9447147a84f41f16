"""rouge.json, the result of scoring, as its readers find it: checked before anything is taken from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ValidationError, model_validator

from pipeline.config import JSON
from pipeline.errors import DataError
from pipeline.files import read_json

MODEL = "model"
"""The system that is scored; others are baselines on the same rows."""


class _Figure(BaseModel):
    mean: float
    low: float
    high: float


class _Parts(BaseModel):
    precision: _Figure
    recall: _Figure
    fmeasure: _Figure


class _Types(BaseModel):
    rouge1: _Parts
    rouge2: _Parts
    rougeL: _Parts
    rougeLsum: _Parts


class _Interval(BaseModel):
    resamples: int
    seed: int
    confidence: float


class _Settings(BaseModel):
    scorer: str
    tokenizer: str
    stemmer: str
    sentences: str
    headline_l: Literal["rougeL", "rougeLsum"]
    interval: _Interval


class _Profile(BaseModel):
    settings: _Settings
    systems: dict[str, _Types]


class _System(BaseModel):
    label: str


class _Rouge(BaseModel):
    """What has to be in rouge.json, and what may; other fields are let through."""

    rows: int
    references_sha256: str
    documents_sha256: str | None
    profile: str
    profiles: dict[str, _Profile]
    systems: dict[str, _System]
    exact_match: float
    measures: dict[str, dict[str, _Figure]]
    warnings: list[str]
    dataset: str | JSON | None = None
    split: str | None = None
    split_choice: str | None = None
    bertscore: JSON | None = None

    @model_validator(mode="after")
    def _headline_is_there(self) -> Self:
        if self.profile not in self.profiles:
            raise ValueError(f"profiles lacks the headline, {self.profile}")
        for name, profile in self.profiles.items():
            if MODEL not in profile.systems:
                raise ValueError(f"profiles.{name} lacks the system {MODEL}")
        return self


def read_rouge(path: Path) -> JSON:
    """Read a rouge.json.

    Raises:
        CorruptArtifact: If it is not JSON.
        DataError: If a field that this version reads is missing or of another kind; names it.
    """
    found: JSON = read_json(path)
    try:
        _Rouge.model_validate(found, strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "it"
        raise DataError(
            f"{path}: {place}: {fault['msg']}, so another version wrote it, or it was altered; "
            "score it again, in a run directory with --restart-from score"
        ) from error
    return found
