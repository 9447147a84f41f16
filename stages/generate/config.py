"""Settings of generation."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from stages.decoding import DecodingRules, PositiveInt


class SearchConfig(DecodingRules):
    """How summaries are decoded, and by what."""

    engine: Literal["sumpipe", "huggingface"] = "sumpipe"
    """Whose beam search; both give the same sequences and scores, up to rounding."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of weights and activations; scores are summed in fp32."""
    return_sequences: PositiveInt = 1
    """Most summaries of each document, the best first; those after the first are its `alternatives`."""

    @model_validator(mode="after")
    def _fits(self) -> SearchConfig:
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
