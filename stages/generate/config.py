"""Settings of generation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from pipeline.config import Config, Number

Count = Annotated[StrictInt, Field(ge=0)]
PositiveInt = Annotated[StrictInt, Field(ge=1)]


class GenerateConfig(Config):
    """How summaries are decoded; lengths are counted as Hugging Face does."""

    split: Literal["valid", "test"] = "test"
    """The split to summarise."""
    num_beams: PositiveInt = 4
    """Beam width; 1 is greedy search."""
    min_length: Count = 0
    """Fewest tokens, start token included: fairseq's min_len + 1."""
    max_length: Annotated[StrictInt, Field(ge=2)] = 142
    """Most tokens, start and end tokens included: fairseq's max_len_b + 2."""
    length_penalty: Number = 1.0
    """Exponent of the length that a beam's score is divided by."""
    no_repeat_ngram_size: Count = 0
    """No n-gram of this size comes twice; 0 for no ban."""
    early_stopping: StrictBool | Literal["never"] = True
    """Whether a source is done at its first `num_beams` finished beams."""
    force_bos: StrictBool = True
    """Start every summary with <s>, as the targets do."""
    shard_rows: PositiveInt = 64
    """Rows of a shard, the unit of commit; shards do not depend on the number of workers."""
    batch_size: PositiveInt = 16
    """Sources decoded together; out of memory is an error that names this setting."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> GenerateConfig:
        if self.min_length >= self.max_length:
            raise ValueError(
                f"min_length {self.min_length} must be less than max_length {self.max_length}"
            )
        return self
