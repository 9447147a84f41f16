"""Replay of a step that was captured once for each of its shapes, without the host's share of the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Graphs:
    """A step as CUDA graphs; on a CPU it is simply called.

    The step works in place on tensors that stay where they are, and its two numbers decide all its shapes.
    """

    def __init__(self, step: Callable[[int, int], None], changed: Sequence[Tensor]) -> None:
        """Take a step and the tensors that a call changes for good."""
        self._step, self._changed = step, changed
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def __call__(self, positions: int, source_tokens: int) -> None:
        """Take the step."""
        if not self._changed[0].is_cuda:
            self._step(positions, source_tokens)
            return
        key = (positions, source_tokens)
        if key not in self._graphs:
            self._graphs[key] = self._captured(positions, source_tokens)
        self._graphs[key].replay()

    def _captured(self, positions: int, source_tokens: int) -> torch.cuda.CUDAGraph:
        # Libraries allocate workspaces at a first call, which must not be captured. It counts for nothing.
        before = [tensor.clone() for tensor in self._changed]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._step(positions, source_tokens)
        torch.cuda.current_stream().wait_stream(aside)
        for tensor, old in zip(self._changed, before, strict=True):
            tensor.copy_(old)
        graph = torch.cuda.CUDAGraph()
        others = next(iter(self._graphs.values()), None)
        with torch.cuda.graph(graph, pool=None if others is None else others.pool()):
            self._step(positions, source_tokens)
        return graph
