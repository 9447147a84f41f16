"""From documents as token ids to summaries as text, by the engine that the settings name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, BartForConditionalGeneration

from pipeline.errors import ConfigError, DataError, PipelineError
from stages.generate import decoding, huggingface
from stages.generate.candidates import Constraints
from stages.generate.config import SearchConfig
from stages.generate.decoding import BartModel, Hypothesis, Search
from stages.generate.search import UNREACHABLE, Rules
from stages.schema import Prediction

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Source:
    """A document to summarise, as token ids."""

    id: str
    token_ids: list[int]
    tokens_lost: int = 0
    """Tokens that were cut off."""


class Summarizer:
    """A model with its tokenizer and decoding settings, on one device."""

    def __init__(self, folder: Path, config: SearchConfig, device: str | None = None) -> None:
        of_model = AutoConfig.from_pretrained(folder, local_files_only=True)
        if of_model.model_type != "bart":
            raise ConfigError(
                f"{folder}: its model_type is {of_model.model_type!r}; only 'bart' can be decoded"
            )
        self._positions: int = of_model.max_position_embeddings
        if config.max_length > self._positions:
            raise ConfigError(
                f"generate.max_length: {config.max_length} is more than the model's {self._positions} "
                "positions"
            )
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self._device.type == "cuda":
            torch.cuda.set_device(
                self._device.index or 0
            )  # streams and graphs belong to the current device
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._config = config
        self._vocabulary: int = of_model.vocab_size
        self._search = search_of(config, of_model)
        bart = _loaded(folder, _DTYPES[config.precision]).to(self._device).eval()
        self._model = bart if config.engine == "huggingface" else BartModel(bart)

    def summarize(
        self, sources: Sequence[Source], batch_size: int, setting: str
    ) -> Iterator[Prediction]:
        """Yield a prediction for each source, in order; one that fails says why in `stop`.

        Args:
            sources: What to summarise.
            batch_size: Sources decoded together.
            setting: What the user lowers for a smaller batch, with its value, for the message.

        Raises:
            PipelineError: If the device runs out of memory, naming the setting to lower.
        """
        reasons = [self._refusal(source) for source in sources]
        whole = [number for number, reason in enumerate(reasons) if reason is None]
        found: dict[int, list[Hypothesis]] = {}
        try:
            for at, hypotheses in self._decode(
                [sources[number].token_ids for number in whole], batch_size
            ):
                found[whole[at]] = hypotheses
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            longest = max(len(source.token_ids) for source in sources)
            raise PipelineError(
                f"out of memory while decoding {batch_size} sources of up to {longest} tokens together, with "
                f"{self._config.num_beams} beams each: lower {setting}"
            ) from error
        for number, source in enumerate(sources):
            yield self._prediction(source, reasons[number], found.get(number, []))

    def _refusal(self, source: Source) -> str | None:
        """Return why a source cannot be decoded, if it cannot."""
        ids = source.token_ids
        if not ids:
            return "failed: no tokens"
        if len(ids) > self._positions:
            return f"failed: {len(ids)} tokens, the model has {self._positions} positions"
        if not 0 <= min(ids) <= max(ids) < self._vocabulary:
            return f"failed: token id outside 0 to {self._vocabulary - 1}"
        return None

    def _decode(
        self, sources: list[list[int]], batch_size: int
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        if isinstance(self._model, BartModel):
            return decoding.decode(self._model, sources, self._search, batch_size)
        return huggingface.decode(self._model, sources, self._config, batch_size)

    def _prediction(
        self, source: Source, reason: str | None, hypotheses: list[Hypothesis]
    ) -> Prediction:
        if any(math.isnan(one.score) for one in hypotheses[:1]):
            reason = "failed: the model's output is not finite"
        hypotheses = [one for one in hypotheses if self._is_reached(one)]
        if reason is None and not hypotheses:
            reason = "failed: the model's output is not finite, or the settings allow no sequence"
        if reason is not None:
            return Prediction(source.id, "", None, 0, reason, source.tokens_lost)
        best, *others = (
            {
                "prediction": self.tokenizer.decode(ids, skip_special_tokens=True).strip(),
                "score": score,
                "tokens": len(ids),
                "stop": self._stop(ids),
            }
            for ids, score in hypotheses[: self._config.return_sequences]
        )
        return Prediction(
            source.id, **best, source_tokens_lost=source.tokens_lost, alternatives=others
        )

    def _is_reached(self, found: Hypothesis) -> bool:
        """Whether any sequence led there; beams that none has reached end too when others are forced to."""
        total: float = found.score * len(found.token_ids) ** self._config.length_penalty
        return total > UNREACHABLE / 2

    def _stop(self, ids: list[int]) -> str:
        is_full = len(ids) == self._config.max_length - 1
        is_forced = is_full and self._config.force_eos
        return "eos" if ids[-1] == self._search.rules.eos_id and not is_forced else "length"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a GPU or here; torch has no error of its own for the latter."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(
        error
    )


def _loaded(folder: Path, dtype: torch.dtype) -> BartForConditionalGeneration:
    """Load a model all of whose weights are in the folder.

    Raises:
        DataError: If some are missing; transformers would go on with random ones.
    """
    bart, report = BartForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise DataError(
            f"{folder}: {len(missing)} weights of a summarizing BART are missing, such as {missing[0]}; "
            "expected what BartForConditionalGeneration saves"
        )
    return bart


def search_of(config: SearchConfig, model_config: object) -> Search:
    """Return the engine's settings for the stage's and a model's special tokens.

    Raises:
        ConfigError: If one of those is not a token.
    """
    bos_id = _special_token(model_config, "bos_token_id") if config.force_bos else None
    pad_id, eos_id, start_id = (
        _special_token(model_config, name)
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id")
    )
    is_fairseq = config.profile == "fairseq"
    rules = Rules(
        num_beams=config.num_beams,
        max_length=config.max_length,
        eos_id=eos_id,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        takes_first=is_fairseq,
    )
    constraints = Constraints(
        max_length=config.max_length,
        eos_id=eos_id,
        min_length=config.min_length,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        forced_bos_id=bos_id,
        forces_eos=config.force_eos,
        banned_id=pad_id if is_fairseq else None,
        scores_forced=is_fairseq,
    )
    return Search(rules, constraints, start_id, pad_id)


def _special_token(model_config: object, name: str) -> int:
    value, vocabulary = getattr(model_config, name, None), getattr(model_config, "vocab_size", 0)
    if isinstance(value, int) and 0 <= value < vocabulary:
        return value
    raise ConfigError(
        f"the model's config.json: {name}: expected a token from 0 to {vocabulary - 1}, found {value!r}"
    )
