"""Settings of scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictInt, field_validator

from pipeline.config import EXECUTION_ONLY, JSON, Config
from pipeline.errors import ConfigError
from pipeline.stage import HashFile
from stages.rouge_json import MODEL

ProfileName = Literal["rouge-score", "rouge155", "pegasus", "gigaword-unilm", "unicode"]
"""The rows of profiles.py."""
Splitter = Literal["newline", "simple", "punkt"]
Baseline = Literal["lead", "oracle", "random_training_summary", "model_against_another_reference"]
BASELINES: tuple[Baseline, ...] = (
    *("lead", "oracle"),
    *("random_training_summary", "model_against_another_reference"),
)
SystemName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]


class LeadConfig(Config):
    """The baseline that copies the beginning of the document."""

    unit: Literal["sentences", "words"] = "sentences"
    """What is counted."""
    count: Annotated[StrictInt, Field(ge=1)] = 3
    """How many of them are copied."""


class BertScoreConfig(Config):
    """BERTScore of the model's summaries, by the `bertscore` extra."""

    model: Path
    """Folder of the Hugging Face model that embeds the words."""
    layer: Annotated[StrictInt, Field(ge=1)] | None = None
    """Which layer's output is compared; null for bert-score's own choice, if it knows the model."""
    batch_size: Annotated[StrictInt, Field(ge=1)] = 64
    """Texts embedded together."""


class ScoreConfig(Config):
    """How predictions are compared with references."""

    profiles: tuple[ProfileName, ...] = Field(default=("rouge-score",), min_length=1)
    """Ways to compute ROUGE, whose figures do not compare; the first one's are the headline."""
    sentences: Splitter | None = None
    """How text is split for ROUGE-Lsum: at newlines; also after `.!?` before a capital (simple); or also by
    nltk's punkt_tab. Null for each profile's own. With `newline`, documents in one line are split by
    `simple`."""
    lead: LeadConfig = LeadConfig()
    baselines: tuple[Baseline, ...] = BASELINES
    """What is scored on the same rows beside the model."""
    predictions: dict[SystemName, Path] = Field(default_factory=dict)
    """Files of other systems' summaries of the same rows, by the name to show: JSONL with `id` and
    `prediction`, or one summary a line in the order of the rows."""
    wordnet: Annotated[Path | None, EXECUTION_ONLY] = None
    """Folder of WordNet's exception lists for profiles that need them; null for nltk's `wordnet` corpus or
    Debian's package wordnet-base. What was read is recorded by its sha256."""
    bertscore: BertScoreConfig | None = None

    @field_validator("profiles", "baselines")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("names one twice")
        return names

    @field_validator("predictions")
    @classmethod
    def _names_are_free(cls, files: dict[str, Path]) -> dict[str, Path]:
        if taken := {MODEL, *BASELINES} & files.keys():
            raise ValueError(f"{min(taken)} is the name of a system of our own; choose another")
        return files


def identity(config: ScoreConfig, seed: int, hash_file: HashFile) -> JSON:
    """Return what is hashed for score: the settings, files replaced by their contents.

    Raises:
        ConfigError: If a file is missing.
    """
    payload = config.identity()
    for name, path in config.predictions.items():
        if not path.is_file():
            raise ConfigError(f"score.predictions.{name}: {path} is not a file")
    payload["predictions"] = {name: hash_file(path) for name, path in config.predictions.items()}
    if config.bertscore is not None:
        folder = config.bertscore.model
        if not (folder / "config.json").is_file():
            raise ConfigError(f"score.bertscore.model: {folder} has no config.json of a model")
        files = sorted(path for path in folder.iterdir() if path.is_file())
        payload["bertscore"]["model"] = {path.name: hash_file(path) for path in files}
    return payload
