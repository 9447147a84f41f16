"""How much of the noise is left where it matters: three places of the encoder, one share each.

Adding 1e-5 to an embedding of 0.04 leaves most entries as they were once 16 bits round them. One share
alone misleads: the sum may survive while the first product still sees equal numbers in both halves.

Shapes: M rows of both halves stacked, S source positions, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ENOUGH = 0.5
"""A share under this is worth a warning: the KL is mostly rounding and dropout then."""
_DOUBLINGS = 40


@dataclass(frozen=True, slots=True)
class Survival:
    """Shares of entries, 0 to 1, in which the noised half differs from the clean one."""

    embedding: float
    """At the input of the embedding's LayerNorm: embedding + noise + position."""
    residual: float
    """In what enters the first layer; entries that dropout zeroed in a half are left out."""
    compute: float
    """The same, as the first matrix product sees it: after the cast to its precision."""


class NoiseProbe:
    """Listens to one forward pass of the encoder, on its device; whoever asks for the shares waits for it.

    Args:
        keeps_difference: Keep the first layer's input, for `sufficient_factor`.
    """

    def __init__(self, *, keeps_difference: bool = True) -> None:
        self._keeps_difference = keeps_difference
        self._counts: list[Tensor] = []
        """Changed entries and all that count, at each place."""
        self._residual: tuple[Tensor, Tensor, Tensor] | None = None
        self._dtype = torch.float32

    @contextlib.contextmanager
    def listening(self, encoder: nn.Module, mask_MS: Tensor, dtype: torch.dtype) -> Iterator[None]:
        """Record the two halves at LayerNorm and at the first layer, padding left out.

        Args:
            encoder: BART's encoder, about to run on clean and noised rows stacked.
            mask_MS: 0 on padding.
            dtype: What matrix products are taken in.
        """
        is_token = mask_MS.chunk(2)[0].bool().unsqueeze(-1)
        self._dtype, self._counts = dtype, []

        def at_layer_norm(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            clean, noised = arguments[0].detach().chunk(2)
            self._counts += _changed(clean, noised, is_token.expand_as(clean))

        def at_first_layer(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            clean, noised = arguments[0].detach().chunk(2)
            counts = is_token & (clean != 0) & (noised != 0)
            self._counts += _changed(clean, noised, counts)
            self._counts += _changed(clean.to(dtype), noised.to(dtype), counts)
            if self._keeps_difference:
                self._residual = clean, noised, counts

        handles = (
            encoder.layernorm_embedding.register_forward_pre_hook(at_layer_norm),  # type: ignore[union-attr]
            encoder.layers[0].register_forward_pre_hook(at_first_layer),  # type: ignore[index, union-attr]
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def survival(self) -> Survival:
        """Return the three shares; waits for the device."""
        if not self._counts:
            raise RuntimeError("no noised pass was listened to")
        found = torch.stack(self._counts).tolist()
        return Survival(*(c / max(n, 1) for c, n in zip(found[::2], found[1::2], strict=True)))

    def sufficient_factor(self) -> float:
        """Return by what the noise must grow for `compute` to reach ENOUGH, to 5 %; inf if nothing does.

        The first layer's difference is taken as proportional to the noise, which holds while it is small.
        """
        if self._residual is None:
            raise RuntimeError("no noised pass was listened to, or its difference was not kept")
        clean, noised = (half[self._residual[2]] for half in self._residual[:2])
        difference = noised - clean

        def is_enough(factor: float) -> bool:
            grown = (clean + factor * difference).to(self._dtype)
            return float((grown != clean.to(self._dtype)).double().mean()) >= ENOUGH

        high = next((2.0**k for k in range(_DOUBLINGS) if is_enough(2.0**k)), None)
        if high is None:
            return float("inf")
        low = high / 2
        while high / low > 1.05:
            middle = (low * high) ** 0.5
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return high


def _changed(clean: Tensor, noised: Tensor, counts: Tensor) -> list[Tensor]:
    """Return how many entries differ and how many count, on their device."""
    return [((clean != noised) & counts).sum(), counts.sum()]
