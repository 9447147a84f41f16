"""What the report reads of the scores: rouge.json, checked, and the headline's F row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError, model_validator

from pipeline.artifact import Artifact
from pipeline.config import JSON
from pipeline.errors import CorruptArtifact, DataError
from pipeline.files import read_json


class _Figure(BaseModel):
    mean: float
    low: float
    high: float


class _Parts(BaseModel):
    precision: _Figure
    recall: _Figure
    fmeasure: _Figure


class _System(BaseModel):
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
    systems: dict[str, _System]


class _Label(BaseModel):
    label: str


class _Rouge(BaseModel):
    """What the report reads of rouge.json."""

    split: str
    split_choice: str | None
    rows: int
    exact_match: float
    profile: str
    profiles: dict[str, _Profile]
    measures: dict[str, dict[str, _Figure]]
    systems: dict[str, _Label]
    warnings: list[str]

    @model_validator(mode="after")
    def _has_the_model(self) -> _Rouge:
        if self.profile not in self.profiles:
            raise ValueError(f"has no profile {self.profile}, which is its headline")
        for name, profile in self.profiles.items():
            if "model" not in profile.systems:
                raise ValueError(f"has no figures of the model under {name}")
        return self


def read_rouge(score: Artifact) -> JSON:
    """Return the content of rouge.json.

    Raises:
        CorruptArtifact: If it is no JSON.
        DataError: If it lacks what the report reads of it, as one of another version may.
    """
    path = score.file("rouge.json")
    rouge: JSON = read_json(path)
    try:
        _Rouge.model_validate(rouge, strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "it"
        raise DataError(
            f"{path}: {place}: {fault['msg']}; another version wrote it, or it was altered: score again with "
            "--restart-from score"
        ) from error
    return rouge


def model_scores(
    score: Artifact, profile: str, ids: list[str], kinds: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the model's F by ROUGE type under a profile, row by row.

    Raises:
        CorruptArtifact: If scores.parquet cannot be read, or its rows are not those of `ids`, in order.
    """
    path = score.file("scores.parquet")
    columns = [f"{name}_fmeasure" for name in kinds]
    wanted = [("profile", "=", profile), ("system", "=", "model")]
    try:
        table = pq.read_table(path, columns=["id", *columns], filters=wanted)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptArtifact(
            f"{path}: cannot be read ({error}); make it again with --restart-from score"
        ) from error
    if table["id"].to_pylist() != ids:
        raise CorruptArtifact(
            f"{path}: its rows are not those of the predictions; "
            "make it again with --restart-from score"
        )
    return {
        name: np.asarray(table[column].to_numpy(), dtype=np.float64)
        for name, column in zip(kinds, columns, strict=True)
    }
