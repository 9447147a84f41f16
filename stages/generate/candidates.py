"""From logits to candidates: a model's log-probabilities, what is banned, and what is forced.

Bans do not renormalise: a candidate's score is the model's own log-probability, as in fairseq and in Hugging
Face. Forced tokens differ: Hugging Face gives them log-probability 0, fairseq their own.

Shapes: B sources, K beams, V vocabulary (padded, see `padded_width`), C candidates (2K), T tokens, W windows
of N tokens.

Sources: transformers 5.23, generation/logits_process.py; fairseq, sequence_generator.py, `_generate`, and
ngram_repeat_block.py. Deviation: fairseq lets an n-gram ban strike a forced token, which ends in a search
without candidates; here a forced token is never banned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.generate.search import Beams, Candidates

_BLOCK = 64
"""Columns that share one maximum when the best of a row are looked for."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """What may follow; lengths count the start token, as Hugging Face's do."""

    max_length: int
    eos_id: int
    min_length: int = 0
    no_repeat_ngram_size: int = 0
    forced_bos_id: int | None = None
    """The token that every sequence begins with, after the start token."""
    forces_eos: bool = True
    """Whether a sequence that reaches `max_length` ends with the end token."""
    banned_id: int | None = None
    """A token that never comes unless it is forced: fairseq's padding."""
    scores_forced: bool = False
    """Whether forced tokens cost their log-probability (fairseq) or nothing (Hugging Face)."""


def padded_width(vocabulary: int) -> int:
    """Return the columns that logits need here: whole blocks, one column more than the vocabulary or more."""
    return (vocabulary // _BLOCK + 1) * _BLOCK


def propose(logits_BKV: Tensor, beams: Beams, constraints: Constraints) -> Candidates:
    """Return each source's best 2K continuations.

    Args:
        logits_BKV: What may follow each running beam, -inf in the padding columns; overwritten.
        beams: The state they belong to.
        constraints: What may not follow, or must.
    """
    total_BK = logits_BKV.to(beams.scores_BK.dtype).logsumexp(2)
    token_B = _forced_tokens(beams.length_B, constraints)
    forced = _forced(logits_BKV, total_BK, beams, token_B, constraints.scores_forced)
    ban(logits_BKV, beams, constraints)
    free = _free(logits_BKV, total_BK, beams)
    is_forced_B1 = (token_B >= 0)[:, None]
    pairs = zip(forced, free, strict=True)
    return Candidates(*(torch.where(is_forced_B1, one, other) for one, other in pairs))


def _free(logits_BKV: Tensor, total_BK: Tensor, beams: Beams) -> Candidates:
    count = 2 * beams.scores_BK.shape[1]
    best_BKC, tokens_BKC = best_of_rows(logits_BKV, count)
    log_p_BKC = best_BKC.to(total_BK.dtype) - total_BK.unsqueeze(2)
    sums_BKC = log_p_BKC + beams.scores_BK.unsqueeze(2)
    scores_BC, at_BC = sums_BKC.flatten(1).topk(count)
    beams_BC = at_BC // sums_BKC.shape[2]
    return Candidates(scores_BC, beams_BC, tokens_BKC.flatten(1).gather(1, at_BC))


def _forced_tokens(length_B: Tensor, constraints: Constraints) -> Tensor:
    """Return the token that each source's beams must go on with [B]; -1 where they are free."""
    token_B = torch.full_like(length_B, -1)
    if constraints.forced_bos_id is not None:
        token_B = torch.where(length_B == 1, constraints.forced_bos_id, token_B)
    if constraints.forces_eos:
        token_B = torch.where(length_B + 1 == constraints.max_length, constraints.eos_id, token_B)
    return token_B


def _forced(
    logits_BKV: Tensor, total_BK: Tensor, beams: Beams, token_B: Tensor, has_cost: bool
) -> Candidates:
    """Let every beam go on with its source's forced token; there are no other candidates."""
    scores_BK = beams.scores_BK
    if has_cost:
        at_BK1 = token_B.clamp(min=0)[:, None, None].expand(*scores_BK.shape, 1)
        chosen_BK = logits_BKV.gather(2, at_BK1).squeeze(2)
        scores_BK = scores_BK + (chosen_BK.to(total_BK.dtype) - total_BK)
    scores_BK, beams_BK = scores_BK.sort(dim=1, descending=True, stable=True)
    none_BK = torch.full_like(scores_BK, -torch.inf)
    tokens_BC = token_B[:, None].expand(-1, 2 * scores_BK.shape[1])
    return Candidates(
        torch.cat([scores_BK, none_BK], 1), torch.cat([beams_BK, beams_BK], 1), tokens_BC
    )


def ban(logits_BKV: Tensor, beams: Beams, constraints: Constraints) -> None:
    """Set what may not follow to -inf, in place."""
    eos_id, size = constraints.eos_id, constraints.no_repeat_ngram_size
    if constraints.banned_id is not None:
        logits_BKV[:, :, constraints.banned_id] = -torch.inf
    if constraints.min_length > 1:
        is_short_B1 = (beams.length_B < constraints.min_length)[:, None]
        logits_BKV[:, :, eos_id].masked_fill_(is_short_B1, -torch.inf)
    if size:
        ban_repeats(logits_BKV, beams.tokens_BKT, beams.length_B, size)


def ban_repeats(logits_BKV: Tensor, tokens_BKT: Tensor, length_B: Tensor, size: int) -> None:
    """Ban each token that would complete an n-gram which its beam already has, in place.

    Args:
        logits_BKV: Has a last column that is not a token's.
        tokens_BKT: The beams; only their first `length_B` tokens count.
        length_B: Tokens of each source's beams.
        size: n.
    """
    K, T = tokens_BKT.shape[1:]
    if size > T:
        return
    ngrams_BKWN = tokens_BKT.unfold(2, size, 1)
    ends_W = torch.arange(size - 1, T, device=tokens_BKT.device)
    is_ban_BKW = (ends_W < length_B[:, None])[:, None].expand(-1, K, -1)
    if size > 1:
        at_BN = length_B[:, None] + torch.arange(1 - size, 0, device=tokens_BKT.device)
        last_BKN = tokens_BKT.gather(2, at_BN.clamp(min=0)[:, None].expand(-1, K, -1))
        is_same_BKW = (ngrams_BKWN[..., :-1] == last_BKN.unsqueeze(2)).all(3)
        is_ban_BKW = is_ban_BKW & is_same_BKW & (length_B >= size - 1)[:, None, None]
    nobody = logits_BKV.shape[2] - 1
    banned_BKW = torch.where(is_ban_BKW, ngrams_BKWN[..., -1], nobody)
    logits_BKV.scatter_(2, banned_BKW, -torch.inf)


def best_of_rows(values_BKV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest `count` values of each row and their columns, the largest first.

    Finds the blocks with the largest maxima first, which hold them all: one pass over the row in place of a
    partial sort of it. Rows must be whole blocks wide.
    """
    B, K, V = values_BKV.shape
    blocks = V // _BLOCK
    if blocks <= count:
        return values_BKV.topk(min(count, V))
    values_BKXY = values_BKV.view(B, K, blocks, _BLOCK)
    chosen_BKX = values_BKXY.amax(3).topk(count).indices
    near_BKXY = values_BKXY.gather(2, chosen_BKX.unsqueeze(3).expand(-1, -1, -1, _BLOCK))
    best_BKC, at_BKC = near_BKXY.flatten(2).topk(count)
    columns_BKC = chosen_BKX.gather(2, at_BKC // _BLOCK) * _BLOCK + at_BKC % _BLOCK
    return best_BKC, columns_BKC
