"""The rules of a beam search, as the recipe states them and as Hugging Face's files do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from pipeline.config import JSON, Config, Number

Count = Annotated[StrictInt, Field(ge=0)]
PositiveInt = Annotated[StrictInt, Field(ge=1)]

PROFILE = "sumpipe_profile"
"""The key of the profile in generation_config.json; Hugging Face keeps what it does not know."""


class DecodingRules(Config):
    """Which summary is the best one; lengths are counted as Hugging Face does."""

    profile: Literal["huggingface", "fairseq"] = "huggingface"
    """Whose rules where the two differ. `fairseq`: a forced token costs its log-probability, padding never
    comes, and finished beams beyond `num_beams` are turned away in their order."""
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

    @model_validator(mode="after")
    def _lengths_leave_room(self) -> DecodingRules:
        if self.min_length >= self.max_length:
            raise ValueError(
                f"min_length {self.min_length} must be less than max_length {self.max_length}"
            )
        return self


def as_hugging_face(rules: DecodingRules, model_config: object) -> JSON:
    """Return the fields of Hugging Face's GenerationConfig that say the same.

    Args:
        rules: The rules; of a `fairseq` profile, Hugging Face can only follow the settings.
        model_config: The model's configuration, for its special tokens.
    """
    ids: dict[str, Any] = {
        name: getattr(model_config, name)
        for name in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    }
    # Without beams there is nothing to stop early, and Hugging Face warns of the setting.
    early = {"early_stopping": rules.early_stopping} if rules.num_beams > 1 else {}
    return {
        **ids,
        **early,
        "forced_bos_token_id": ids["bos_token_id"] if rules.force_bos else None,
        "forced_eos_token_id": ids["eos_token_id"] if rules.force_eos else None,
        "num_beams": rules.num_beams,
        "do_sample": False,
        "min_length": rules.min_length,
        "max_length": rules.max_length,
        "length_penalty": rules.length_penalty,
        "no_repeat_ngram_size": rules.no_repeat_ngram_size,
    }
