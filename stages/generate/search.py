"""The rule of beam search: which beams go on, which are finished, and when a source is done.

Pure functions of tensors; a model comes in only as the candidates that it proposes. Every source has its own
length, so sources that began at different times share a batch.

Shapes: B sources, K beams, C candidates of a source (2K), T tokens of the longest sequence (max_length).

Sources: Hugging Face transformers 5.23, generation/utils.py, `_beam_search`; fairseq, sequence_generator.py,
`_generate` and `finalize_hypos`. Deviation: a source with one beam is done at its first finished one, as in
greedy search, whatever `early_stopping` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

UNREACHABLE = -1e9
"""Score of a beam that no sequence has reached, as in Hugging Face."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides, besides the model."""

    num_beams: int
    max_length: int
    """Most tokens, start token included."""
    eos_id: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = True
    takes_first: bool = False
    """Whether finished beams beyond `num_beams` are turned away in their order (fairseq), or the worst of
    all is (Hugging Face)."""

    @property
    def ends_when_full(self) -> bool:
        """Whether a source is done at its first `num_beams` finished beams."""
        return self.early_stopping is True or self.num_beams == 1

    def length_factors(self, like: Tensor) -> Tensor:
        """Return length ** length_penalty for 0 to T - 1 generated tokens [T]; the first is not used."""
        factors = [1.0, *(float(n) ** self.length_penalty for n in range(1, self.max_length))]
        return torch.tensor(factors, dtype=like.dtype, device=like.device)


class Beams(NamedTuple):
    """The state of a search."""

    tokens_BKT: Tensor
    """Running sequences, the start token first."""
    scores_BK: Tensor
    """Sums of log-probabilities in nats, the best beam first."""
    length_B: Tensor
    """Tokens of the running sequences, start token included; below T, since none runs on with T."""
    finished_tokens_BKT: Tensor
    finished_scores_BK: Tensor
    """Beam scores (divided by length ** length_penalty), the best first."""
    finished_length_BK: Tensor
    """Tokens of the finished sequences, start token included; 0 where there is none."""
    is_done_B: Tensor


class Candidates(NamedTuple):
    """The best continuations of a source over all its beams, the best first."""

    scores_BC: Tensor
    """Sums of log-probabilities in nats."""
    beams_BC: Tensor
    """Which beam each continues."""
    tokens_BC: Tensor
    """With which token."""


def begin(sources: int, rules: Rules, start_id: int, like: Tensor) -> Beams:
    """Return the state before the first token; scores are of the type and on the device of `like`."""
    shape = (sources, rules.num_beams)
    tokens_BKT = torch.full(
        (*shape, rules.max_length), start_id, dtype=torch.int64, device=like.device
    )
    scores_BK = like.new_full(shape, UNREACHABLE)
    scores_BK[:, 0] = 0.0
    length_B = torch.ones(sources, dtype=torch.int64, device=like.device)
    return Beams(
        tokens_BKT=tokens_BKT,
        scores_BK=scores_BK,
        length_B=length_B,
        finished_tokens_BKT=tokens_BKT.clone(),
        finished_scores_BK=like.new_full(shape, UNREACHABLE),
        finished_length_BK=torch.zeros(shape, dtype=torch.int64, device=like.device),
        is_done_B=torch.zeros_like(length_B, dtype=torch.bool),
    )


def advance(
    beams: Beams, candidates: Candidates, rules: Rules, factors_T: Tensor
) -> tuple[Beams, Tensor]:
    """Take one step; sources that are done keep what they have finished.

    Args:
        factors_T: `rules.length_factors`.

    Returns:
        The new state, and for each running beam the beam that it continues [B, K].
    """
    K = rules.num_beams
    ending_tokens_BCT = _rows(beams.tokens_BKT, candidates.beams_BC)
    at_BC1 = beams.length_B[:, None, None].expand(*candidates.tokens_BC.shape, 1)
    ending_tokens_BCT.scatter_(2, at_BC1, candidates.tokens_BC.unsqueeze(2))
    is_last_B = beams.length_B + 1 >= rules.max_length
    ends_BC = (candidates.tokens_BC == rules.eos_id) | is_last_B[:, None]

    # Only the first K may finish: the others are there so that K beams go on whatever ends.
    may_finish_BC = ends_BC & ~beams.is_done_B[:, None]
    may_finish_BC[:, K:] = False
    if rules.takes_first:
        room_B1 = K - (beams.finished_length_BK > 0).sum(1, keepdim=True)
        may_finish_BC &= (may_finish_BC.cumsum(1) <= room_B1) & candidates.scores_BC.isfinite()
    ending_BC = candidates.scores_BC / factors_T[beams.length_B][:, None]
    ending_BC = torch.where(may_finish_BC, ending_BC, 2 * UNREACHABLE)
    finished_scores_BK, kept_BK = torch.cat([beams.finished_scores_BK, ending_BC], 1).topk(K)
    length_BC = (beams.length_B + 1)[:, None] * may_finish_BC
    finished_length_BK = torch.cat([beams.finished_length_BK, length_BC], 1).gather(1, kept_BK)
    finished_tokens_BKT = _rows(
        torch.cat([beams.finished_tokens_BKT, ending_tokens_BCT], 1), kept_BK
    )

    running_BC = torch.where(ends_BC, candidates.scores_BC + UNREACHABLE, candidates.scores_BC)
    scores_BK, chosen_BK = running_BC.topk(K)
    is_done_B = beams.is_done_B | is_last_B
    length_B = torch.where(is_done_B, beams.length_B, beams.length_B + 1)
    is_full_B = (finished_length_BK > 0).all(1)
    if rules.ends_when_full:
        is_done_B = is_done_B | is_full_B
    else:
        # Hugging Face's estimate of the best that a running beam can still become.
        is_long_best = rules.early_stopping == "never" and rules.length_penalty > 0
        generated_B = length_B.clamp(min=rules.max_length) - 1 if is_long_best else length_B - 1
        can_win_B = scores_BK[:, 0] / factors_T[generated_B] > finished_scores_BK[:, -1]
        is_done_B = is_done_B | (is_full_B & ~can_win_B)
    new = Beams(
        tokens_BKT=_rows(ending_tokens_BCT, chosen_BK),
        scores_BK=scores_BK,
        length_B=length_B,
        finished_tokens_BKT=finished_tokens_BKT,
        finished_scores_BK=finished_scores_BK,
        finished_length_BK=finished_length_BK,
        is_done_B=is_done_B,
    )
    return new, candidates.beams_BC.gather(1, chosen_BK)


def _rows(sequences_BXT: Tensor, chosen_BY: Tensor) -> Tensor:
    """Pick sequences of each source: [B, X, T] and [B, Y] to [B, Y, T]."""
    at_BYT = chosen_BY.unsqueeze(2).expand(-1, -1, sequences_BXT.shape[2])
    return sequences_BXT.gather(1, at_BYT)
