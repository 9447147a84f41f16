"""Beam search by Hugging Face's `generate`: what ours is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BartForConditionalGeneration, GenerationConfig
from transformers.generation.utils import GenerateEncoderDecoderOutput

from stages.decoding import as_hugging_face
from stages.generate.config import SearchConfig
from stages.generate.decoding import Hypothesis


def decode(
    bart: BartForConditionalGeneration,
    sources: Sequence[Sequence[int]],
    config: SearchConfig,
    batch_size: int,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield each source's number and its hypotheses, the best first.

    Sources of near lengths share a batch; which ones do depends on `sources` and `batch_size` alone.

    Raises:
        torch.OutOfMemoryError: If a batch does not fit on the device.
    """
    # transformers fills what our settings leave open from the model's own; it shall have none.
    bart.generation_config = GenerationConfig()
    settings = generation_settings(config, bart.config)
    by_length = sorted(range(len(sources)), key=lambda at: (-len(sources[at]), at))
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        rows = [torch.tensor(sources[at]) for at in batch]
        ids_BS = pad_sequence(rows, batch_first=True, padding_value=settings.pad_token_id)
        mask_BS = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.no_grad():
            output = bart.generate(
                input_ids=ids_BS.to(bart.device),
                attention_mask=mask_BS.to(bart.device),
                generation_config=settings,
            )
        scores = _scores(output, settings)
        found = zip(output.sequences[:, 1:].tolist(), scores, strict=True)
        for at in batch:
            each = (next(found) for _ in range(settings.num_return_sequences))
            yield at, [Hypothesis(_unpadded(ids, settings), score) for ids, score in each]


def _unpadded(ids: list[int], settings: GenerationConfig) -> list[int]:
    """Cut what follows the end token, or the padding after a sequence that has none."""
    if settings.eos_token_id in ids:
        return ids[: ids.index(settings.eos_token_id) + 1]
    return ids[: settings.max_length - 1]


def _scores(output: GenerateEncoderDecoderOutput, settings: GenerationConfig) -> list[float]:
    if settings.num_beams > 1:
        beam_scores: list[float] = output.sequences_scores.tolist()
        return beam_scores
    # Greedy search reports no sequence score: beam search's formula over its choices, which is the
    # model's own log-probability (bans do not renormalise it), and 0 for a forced token.
    tokens = output.sequences[:, 1:]
    logits_BTV = torch.stack(output.logits, 1)
    log_p_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32)).log_softmax(-1)
    chosen: Tensor = log_p_BTV.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    is_forced = torch.stack(output.scores, 1).isfinite().sum(-1) == 1
    ends = tokens == settings.eos_token_id
    is_token = ends.cumsum(1) - ends.long() == 0
    total = torch.where(is_token & ~is_forced, chosen, 0.0).sum(1)
    greedy: list[float] = (
        total / is_token.sum(1).to(total.dtype) ** settings.length_penalty
    ).tolist()
    return greedy


def generation_settings(config: SearchConfig, model_config: object) -> GenerationConfig:
    """Return Hugging Face's settings for ours; nothing is taken from the model's own defaults."""
    return GenerationConfig(
        **as_hugging_face(config, model_config),
        num_return_sequences=config.return_sequences,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=config.num_beams == 1,
    )
