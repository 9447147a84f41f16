"""Settings of generation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from pipeline.config import Config, Number

Count = Annotated[StrictInt, Field(ge=0)]
PositiveInt = Annotated[StrictInt, Field(ge=1)]


class SearchConfig(Config):
    """How summaries are decoded; lengths are counted as Hugging Face does."""

    engine: Literal["sumpipe", "huggingface"] = "sumpipe"
    """Whose beam search; both give the same sequences and scores, up to rounding."""
    profile: Literal["huggingface", "fairseq"] = "huggingface"
    """Whose rules where the two differ. `fairseq`: a forced token costs its log-probability, padding never
    comes, and finished beams beyond `num_beams` are turned away in their order."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of weights and activations; scores are summed in fp32."""
    num_beams: PositiveInt = 4
    """Beam width; 1 is greedy search."""
    min_length: Count = 0
    """Fewest tokens, start token included: fairseq's min_len + 1."""
    max_length: Annotated[StrictInt, Field(ge=2)] = 142
    """Most tokens, start and end tokens included: fairseq's max_len_b + 2."""
    length_penalty: Annotated[Number, Field(ge=-2, le=10)] = 1.0
    """Exponent of the length that a beam's score is divided by."""
    no_repeat_ngram_size: Count = 0
    """No n-gram of this size comes twice; 0 for no ban."""
    early_stopping: StrictBool | Literal["never"] = True
    """Whether a source is done at its first `num_beams` finished beams."""
    force_bos: StrictBool = True
    """Start every summary with <s>, as the targets do."""
    force_eos: StrictBool = True
    """End a summary that reaches `max_length` with </s>."""
    return_sequences: PositiveInt = 1
    """Most summaries of each document, the best first; those after the first are its `alternatives`."""

    @model_validator(mode="after")
    def _fits(self) -> SearchConfig:
        if self.min_length >= self.max_length:
            raise ValueError(
                f"min_length {self.min_length} must be less than max_length {self.max_length}"
            )
        if self.return_sequences > self.num_beams:
            raise ValueError(
                f"return_sequences {self.return_sequences} must not be more than num_beams {self.num_beams}"
            )
        if self.profile == "fairseq":
            if self.engine != "sumpipe":
                raise ValueError(
                    "profile fairseq needs engine sumpipe: Hugging Face has its own rules"
                )
            if self.early_stopping is not True or not self.force_eos:
                raise ValueError(
                    "profile fairseq has early_stopping: true and force_eos: true only"
                )
        return self


class GenerateConfig(SearchConfig):
    """What is summarised, and in which portions."""

    split: Literal["valid", "test"] = "test"
    """The split to summarise."""
    shard_rows: PositiveInt = 128
    """Rows of a shard, the unit of commit; shards do not depend on the number of workers."""
    batch_size: PositiveInt = 16
    """Sources decoded together; a source that is done makes room for the next of its shard. Out of memory is
    an error that names this setting."""
