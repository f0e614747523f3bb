"""Linear layers whose products have few shapes where every new shape is dear.

In bfloat16 on a CPU oneDNN makes code for each shape of a product, which takes 3 to 40 ms, and the
rows of a batch are a new number nearly every time: that was 30 % of a training step. So rows of
zeros are added up to one of eight numbers in each octave; they change no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 8  # numbers of rows an octave: 6 % more rows on average, 12 % at most
FEWEST = 32  # rows below which all are one number


def rounded(rows: int) -> int:
    """The number of rows that a product of so many is given."""
    octave = max(FEWEST, 1 << max(0, rows.bit_length() - 1))
    step = max(1, octave // STEPS)
    return max(FEWEST, -(-rows // step) * step)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + b over the last dimension, [..., O] from [..., I]: `F.linear`, gradients and all."""
    if _dear(x):
        out: Tensor = _Product.apply(x, weight_OI, bias_O, torch.get_autocast_dtype("cpu"))
        return out
    return F.linear(x, weight_OI, bias_O)


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., O] from [..., I]."""
        return linear(x, self.weight, self.bias)


def spare_rows(x: Tensor, rows: int) -> int:
    """How many rows `linear` would add to so many; who adds them to x itself saves it a copy.

    None to no rows at all, of which there is none to repeat: an empty micro-batch of a process that
    only waits for others.
    """
    return rounded(rows) - rows if rows and _dear(x) else 0


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Parts [N, I] below each other, and rows of zeros as `linear` would add them."""
    spare = 0
    if parts[0].device.type == "cpu" and parts[0].dtype == torch.bfloat16:
        rows = sum(map(len, parts))
        spare = rounded(rows) - rows
    return torch.cat([*parts, parts[0].new_zeros(spare, parts[0].shape[1])])


def _dear(x: Tensor) -> bool:
    """Whether a new shape is dear: training in half precision on a CPU, without a compiler."""
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


class _Product(torch.autograd.Function):
    """(x [..., I], W [O, I], b [O] or None, dtype to compute in) -> [..., O] of that dtype."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        x_RI, narrow_OI = _with_rows(x, dtype), weight_OI.to(dtype)
        ctx.save_for_backward(x_RI, narrow_OI)
        ctx.shape, ctx.types = x.shape, (x.dtype, weight_OI.dtype)
        out_RO = F.linear(x_RI, narrow_OI, None if bias_O is None else bias_O.to(dtype))
        # Cut off in place: a view as output would forbid whatever works in place on it.
        return out_RO.resize_(*x.shape[:-1], out_RO.shape[1])

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x_RI, narrow_OI = ctx.saved_tensors
        x_type, weight_type = ctx.types
        grad_RO = _with_rows(grad, narrow_OI.dtype)
        grad_x = grad_weight_OI = grad_bias_O = None
        if ctx.needs_input_grad[0]:
            rows = ctx.shape[:-1].numel()
            grad_x = (grad_RO @ narrow_OI)[:rows].view(ctx.shape).to(x_type)
        if ctx.needs_input_grad[1]:
            grad_weight_OI = (grad_RO.t() @ x_RI).to(weight_type)
        if ctx.needs_input_grad[2]:
            grad_bias_O = grad_RO.sum(0).to(weight_type)
        return grad_x, grad_weight_OI, grad_bias_O, None


def _with_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [..., I] as [R, I] in `dtype`, with zeros in the rows behind its own."""
    x_NI = x.reshape(-1, x.shape[-1])
    if rounded(len(x_NI)) == len(x_NI):
        return x_NI.to(dtype)
    filled_RI = x.new_empty((rounded(len(x_NI)), x.shape[-1]), dtype=dtype)
    filled_RI[: len(x_NI)] = x_NI
    filled_RI[len(x_NI) :] = 0.0
    return filled_RI
