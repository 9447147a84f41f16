"""Products with weights that stay as they are: on a CPU they are laid out once as its kernels want them.

oneDNN's fp32 products take half the time of the BLAS that `torch.nn.functional.linear` calls, and laying the
weights out at every call costs bf16 a third with few rows (benchmarks/bench_decode.py). The two operators are
those that torch's compiler uses for frozen weights; where a build of torch has none, `linear` is called.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ROWS = 64
"""Rows the layout is chosen for; any other number works with it."""


class Product(nn.Module):
    """x W^T + b, for inference."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._is_packed = can_pack(weight)
        weight = weight.detach()
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self._is_packed else weight
        )
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        if not self._is_packed:
            return F.linear(x, self._weight, self._bias)
        rows = x.flatten(0, -2)
        more = rounded_up(len(rows)) - len(rows)
        padded = F.pad(rows, (0, 0, 0, more)) if more else rows
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            padded, self._weight, self._bias, "none", [], ""
        )
        return product[: len(rows)].view(*x.shape[:-1], -1)


def rounded_up(rows: int) -> int:
    """Return one of a few numbers of rows, an eighth more at most: oneDNN keeps memory for each."""
    step = 1 << max(rows.bit_length() - 4, 0)
    return -(-rows // step) * step


def can_pack(weight: Tensor) -> bool:
    """Whether this build of torch can lay out these weights: fp32 and bf16 on a CPU with oneDNN."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def joined(products: list[nn.Linear]) -> Product:
    """Return several products of the same input as one."""
    weight = torch.cat([product.weight for product in products])
    return Product(weight, torch.cat([product.bias for product in products]))


def replace_linears(module: nn.Module) -> None:
    """Put a Product in the place of every nn.Linear inside."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Product(child.weight, child.bias))
        else:
            replace_linears(child)
