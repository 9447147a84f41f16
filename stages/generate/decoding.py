"""Decode many sources by beam search in a fixed number of slots: one that is done makes room for the next.

Which sources share a batch depends on the sources and the number of slots alone, never on time or memory.
Shapes: B slots, N sources that enter together, S source tokens, K beams, T tokens of the longest sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import BartForConditionalGeneration

from stages.generate.bart_decoder import BartDecoder
from stages.generate.candidates import Constraints, propose
from stages.generate.cuda_graphs import Graphs
from stages.generate.products import replace_linears
from stages.generate.search import Beams, Rules, advance, begin

_ENCODER_TOKENS = 8192
"""Source tokens, padding included, that enter the encoder together; more makes it no faster."""
_LEAST_FILLED = 0.9
"""Length of the shortest of them, as a share of the longest."""
_POSITIONS, _SOURCE_TOKENS = 16, 64
"""Caches are read up to a multiple of these."""
_STEPS_BETWEEN_LOOKS = 4
"""Steps on a GPU after which the host asks who is done, for which it has to wait."""


@dataclass(frozen=True, slots=True)
class Search:
    """Everything that decides what comes out, besides model and source."""

    rules: Rules
    constraints: Constraints
    start_id: int
    pad_id: int


class Hypothesis(NamedTuple):
    """A sequence that beam search found."""

    token_ids: list[int]
    """What follows the start token, the end token included."""
    score: float
    """Sum of log-probabilities in nats over length ** length_penalty; nan if the model's output was."""


class BartModel:
    """A BART model taken apart for decoding: its encoder as it is, its decoder as ours."""

    def __init__(self, bart: BartForConditionalGeneration) -> None:
        self.decoder = BartDecoder(bart)
        self.vocabulary: int = bart.config.vocab_size
        self.positions: int = bart.config.max_position_embeddings
        self.encoder = bart.model.encoder
        replace_linears(self.encoder)
        if self.encoder.embed_tokens.weight.data_ptr() == bart.lm_head.weight.data_ptr():
            self.encoder.embed_tokens.weight.data = self.decoder.embedding_VM[: self.vocabulary]

    def encode(self, source_ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
        """Return the encoder's output [N, S, M] and the sources' lengths [N]."""
        device = self.decoder.device
        lengths_N = torch.tensor([len(ids) for ids in source_ids], device=device)
        rows = [torch.tensor(ids) for ids in source_ids]
        ids_NS = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
        mask_NS = torch.arange(ids_NS.shape[1], device=device) < lengths_N[:, None]
        return self.encoder(ids_NS.to(device), mask_NS).last_hidden_state, lengths_N


def decode(
    model: BartModel, sources: Sequence[Sequence[int]], search: Search, slots: int
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield each source's number and its hypotheses, the best first, as they are done.

    Args:
        model: What to decode with.
        sources: Token ids of each source; none empty, none longer than the model's positions.
        search: How.
        slots: Sources decoded together.

    Raises:
        torch.OutOfMemoryError: If they do not fit on the device; nothing is tried again with fewer.
    """
    if sources:
        yield from _Decoding(model, sources, search, min(slots, len(sources))).run()


class _Group(NamedTuple):
    """Sources that enter together."""

    numbers: list[int]
    encoded_NSM: Tensor
    lengths_N: Tensor


class _Decoding:
    """One call of `decode`: who is in which slot."""

    def __init__(
        self, model: BartModel, sources: Sequence[Sequence[int]], search: Search, slots: int
    ) -> None:
        self._model, self._sources, self._search = model, sources, search
        # The longest first: their slots' caches hold all that come later.
        order = sorted(range(len(sources)), key=lambda number: (-len(sources[number]), number))
        self._waiting = deque(order)
        self._tenants: list[int | None] = [None] * slots
        """The source in each slot."""
        self._lengths = [0] * slots
        """Tokens of each slot's beams while it is not done, at most."""
        rules, width = search.rules, len(sources[order[0]])
        like = torch.zeros((), dtype=_score_dtype(model.decoder.dtype), device=model.decoder.device)
        self._factors_T = rules.length_factors(like)
        self._beams = begin(slots, rules, search.start_id, like)
        self._beams.is_done_B.fill_(True)
        self._caches = model.decoder.new_caches(slots, rules.num_beams, rules.max_length, width)
        self._group_size = max(1, slots // 8)
        self._ahead: _Group | None = None
        """Sources that the encoder has done, or is doing, before there is a slot for them."""
        self._on_gpu = model.decoder.device.type == "cuda"
        self._aside = torch.cuda.Stream() if self._on_gpu else None  # type: ignore[no-untyped-call]
        if self._aside is not None:
            self._aside.wait_stream(torch.cuda.current_stream())  # for the weights
        self._graphs = self._new_graphs()

    @torch.inference_mode()
    def run(self) -> Iterator[tuple[int, list[Hypothesis]]]:
        self._ahead = self._next_group()
        while self._ahead or any(tenant is not None for tenant in self._tenants):
            self._admit()
            for _ in range(_STEPS_BETWEEN_LOOKS if self._on_gpu else 1):
                self._step()
            yield from self._leave()

    def _admit(self) -> None:
        """Give free slots to the group that is next, and to those after it, while there are enough."""
        free = [slot for slot, tenant in enumerate(self._tenants) if tenant is None]
        while self._ahead is not None and len(self._ahead.numbers) <= len(free):
            numbers, encoded_NSM, lengths_N = self._ahead
            slots, free = free[: len(numbers)], free[len(numbers) :]
            for slot, number in zip(slots, numbers, strict=True):
                self._tenants[slot], self._lengths[slot] = number, 1
            at_N = torch.tensor(slots, device=self._model.decoder.device)
            if self._aside is not None:
                torch.cuda.current_stream().wait_stream(self._aside)
                for tensor in (encoded_NSM, lengths_N):
                    tensor.record_stream(torch.cuda.current_stream())
            self._model.decoder.remember(self._caches, at_N, encoded_NSM, lengths_N)
            rules, like = self._search.rules, self._beams.scores_BK
            fresh = begin(len(numbers), rules, self._search.start_id, like)
            for values, new in zip(self._beams, fresh, strict=True):
                values[at_N] = new
            self._ahead = self._next_group()

    def _next_group(self) -> _Group | None:
        """Encode the next sources of near lengths; on a GPU while the decoder goes on."""
        if not self._waiting:
            return None
        longest = len(self._sources[self._waiting[0]])
        most = min(self._group_size, max(1, _ENCODER_TOKENS // longest))
        numbers: list[int] = []
        while self._waiting and len(numbers) < most:
            if len(self._sources[self._waiting[0]]) < _LEAST_FILLED * longest:
                break
            numbers.append(self._waiting.popleft())
        ids = [self._sources[number] for number in numbers]
        with torch.cuda.stream(self._aside):
            return _Group(numbers, *self._model.encode(ids, self._search.pad_id))

    def _step(self) -> None:
        """Give every beam one token more."""
        busy = [
            (length, len(self._sources[number]))
            for length, number in zip(self._lengths, self._tenants, strict=True)
            if number is not None
        ]
        longest, widest = (max(sizes) for sizes in zip(*busy, strict=True))
        positions = min(_rounded_up(longest, _POSITIONS), self._search.rules.max_length)
        source_tokens = min(
            _rounded_up(widest, _SOURCE_TOKENS), self._caches.source_mask_BS.shape[1]
        )
        self._graphs(positions, source_tokens)
        self._lengths = [min(n + 1, self._search.rules.max_length) for n in self._lengths]

    def _new_graphs(self) -> Graphs:
        return Graphs(self._next, [*self._beams, self._caches.is_ancestor_BKP])

    def _next(self, positions: int, source_tokens: int) -> None:
        """Give every beam one token more, in place; see BartDecoder.logits for the bounds."""
        beams, is_ancestor_BKP = self._beams, self._caches.is_ancestor_BKP
        last_BK1 = (beams.length_B - 1)[:, None, None].expand(-1, beams.tokens_BKT.shape[1], 1)
        last_BK = beams.tokens_BKT.gather(2, last_BK1).squeeze(2)
        logits_BKV = self._model.decoder.logits(
            self._caches, last_BK, beams.length_B, positions, source_tokens
        )
        written = beams._replace(tokens_BKT=beams.tokens_BKT[:, :, :positions])
        candidates = propose(logits_BKV, written, self._search.constraints)
        new, parents_BK = advance(beams, candidates, self._search.rules, self._factors_T)
        at_BKP = parents_BK.unsqueeze(2).expand_as(is_ancestor_BKP)
        is_ancestor_BKP.copy_(is_ancestor_BKP.gather(1, at_BKP))
        for values, replacement in zip(beams, new, strict=True):
            values.copy_(replacement)

    def _leave(self) -> Iterator[tuple[int, list[Hypothesis]]]:
        is_done = self._beams.is_done_B.tolist()
        leaving = [
            slot
            for slot, tenant in enumerate(self._tenants)
            if tenant is not None and is_done[slot]
        ]
        if not leaving:
            return
        at_N = torch.tensor(leaving, device=self._model.decoder.device)
        tokens = self._beams.finished_tokens_BKT[at_N].tolist()
        scores = self._beams.finished_scores_BK[at_N].tolist()
        lengths = self._beams.finished_length_BK[at_N].tolist()
        if (self._beams.scores_BK[at_N] + self._beams.finished_scores_BK[at_N]).isnan().any():
            self._model.decoder.forget(self._caches, at_N)
        for slot, *found in zip(leaving, tokens, scores, lengths, strict=True):
            number, self._tenants[slot] = self._tenants[slot], None
            assert number is not None
            yield (
                number,
                [Hypothesis(ids[1:n], score) for ids, score, n in zip(*found, strict=True) if n],
            )
        self._beams.length_B[at_N] = 1  # empty slots are computed too: within everybody's bounds
        self._narrow()

    def _narrow(self) -> None:
        """Drop empty slots once nobody waits for them and they are half of all."""
        busy = [slot for slot, tenant in enumerate(self._tenants) if tenant is not None]
        if self._ahead or not busy or 2 * len(busy) > len(self._tenants):
            return
        at_N = torch.tensor(busy, device=self._model.decoder.device)
        self._tenants = [self._tenants[slot] for slot in busy]
        self._lengths = [self._lengths[slot] for slot in busy]
        self._beams = Beams(*(values[at_N] for values in self._beams))
        self._caches = self._caches.of(at_N)
        self._graphs = self._new_graphs()


def _rounded_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Scores are summed in fp32, or in the model's type if that is finer."""
    return torch.promote_types(dtype, torch.float32)
