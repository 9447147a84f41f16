"""Decoding behind the stage's own interface; today by Hugging Face `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, BartForConditionalGeneration, GenerationConfig
from transformers.generation.utils import GenerateEncoderDecoderOutput

from pipeline.errors import ConfigError, PipelineError
from stages.generate.config import GenerateConfig
from stages.schema import Prediction


@dataclass(frozen=True, slots=True)
class Source:
    """A document to summarise, as token ids."""

    id: str
    token_ids: list[int]


class Decoder:
    """A model with its tokenizer and decoding settings, on one device."""

    def __init__(self, folder: Path, config: GenerateConfig) -> None:
        positions = AutoConfig.from_pretrained(folder).max_position_embeddings
        if config.max_length > positions:
            raise ConfigError(
                f"generate.max_length: {config.max_length} is more than the model's {positions} positions"
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        # transformers fills what our settings leave open from the model's own; it shall have none.
        model.generation_config = GenerationConfig()
        self._model = model.to(self._device).eval()
        self._config = config
        self._settings = generation_settings(config, model.config)

    def summarize(self, sources: Sequence[Source]) -> Iterator[Prediction]:
        """Yield a prediction for each source, in order.

        Sources of near lengths share a batch, so that little is padded; which ones do depends on
        `sources` and `batch_size` alone.

        Raises:
            PipelineError: If the device runs out of memory, naming the setting to lower.
        """
        by_length = sorted(range(len(sources)), key=lambda at: (len(sources[at].token_ids), at))
        found: dict[int, Prediction] = {}
        size = self._config.batch_size
        for start in range(0, len(by_length), size):
            batch = by_length[start : start + size]
            try:
                predictions = self._decode([sources[at] for at in batch])
            except torch.cuda.OutOfMemoryError as error:
                raise PipelineError(
                    f"out of GPU memory while decoding {len(batch)} sources of up to "
                    f"{len(sources[batch[-1]].token_ids)} tokens: lower generate.batch_size (now {size})"
                ) from error
            found.update(zip(batch, predictions, strict=True))
        yield from (found[at] for at in range(len(sources)))

    def _decode(self, sources: list[Source]) -> list[Prediction]:
        pad_id, eos_id = self._settings.pad_token_id, self._settings.eos_token_id
        width = max(len(source.token_ids) for source in sources)
        ids = torch.full((len(sources), width), pad_id)
        mask = torch.zeros_like(ids)
        for row, source in enumerate(sources):
            ids[row, : len(source.token_ids)] = torch.tensor(source.token_ids)
            mask[row, : len(source.token_ids)] = 1
        with torch.no_grad():
            output = self._model.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=self._settings,
            )
        predictions = []
        scores = self._scores(output)
        for source, row, score in zip(sources, output.sequences.tolist(), scores, strict=True):
            generated = row[1:]  # after the start token
            stop = "eos" if eos_id in generated[: self._config.max_length - 2] else "length"
            tokens = generated.index(eos_id) + 1
            text = self._tokenizer.decode(generated[:tokens], skip_special_tokens=True).strip()
            predictions.append(Prediction(source.id, text, score, tokens, stop))
        return predictions

    def _scores(self, output: GenerateEncoderDecoderOutput) -> list[float]:
        if self._config.num_beams > 1:
            beam_scores: list[float] = output.sequences_scores.tolist()
            return beam_scores
        # Greedy search reports no sequence score: beam search's formula over its choices, which is the
        # model's own log-probability (bans do not renormalise it), and 0 for a forced token.
        tokens = output.sequences[:, 1:]
        log_p_BTV = torch.stack(output.logits, 1).float().log_softmax(-1)
        chosen = log_p_BTV.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        is_forced = torch.stack(output.scores, 1).isfinite().sum(-1) == 1
        is_token = tokens != self._settings.pad_token_id
        total = torch.where(is_token & ~is_forced, chosen, 0.0).sum(1)
        greedy: list[float] = (total / is_token.sum(1) ** self._config.length_penalty).tolist()
        return greedy


def generation_settings(config: GenerateConfig, model_config: object) -> GenerationConfig:
    """Return Hugging Face's settings for ours; nothing is taken from the model's own defaults."""
    ids = {
        name: getattr(model_config, name)
        for name in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    }
    return GenerationConfig(
        **ids,
        forced_bos_token_id=ids["bos_token_id"] if config.force_bos else None,
        forced_eos_token_id=ids["eos_token_id"],
        num_beams=config.num_beams,
        do_sample=False,
        min_length=config.min_length,
        max_length=config.max_length,
        length_penalty=config.length_penalty,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        early_stopping=config.early_stopping if config.num_beams > 1 else False,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=config.num_beams == 1,
    )
