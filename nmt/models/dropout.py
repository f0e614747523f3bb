"""Dropout (Srivastava et al. 2014) whose random numbers cost little on a CPU.

PyTorch draws a number of 32 random bits or more for every element, which took a sixth of a small
Transformer's step in bf16. Sixteen bits decide as well, and four decisions come from one draw.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # a rate is rounded to a multiple of 1 / LEVELS, and the scale with it


def drop(x: Tensor, rate: float) -> Tensor:
    """x with a share `rate` of its elements zero and the others divided by 1 - rate.

    Draws from PyTorch's generator, so that `torch.manual_seed` fixes it.
    """
    zeroed = round(rate * LEVELS)
    if zeroed == 0:
        return x
    if x.device.type != "cpu" or zeroed == LEVELS or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    out: Tensor = _Dropout.apply(x, zeroed)
    return out


class Dropout(nn.Module):
    """`drop` in training, nothing otherwise."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The shape and type of x."""
        return drop(x, self.rate) if self.training else x

    def extra_repr(self) -> str:
        return str(self.rate)


class _Dropout(torch.autograd.Function):
    """(x, how many of LEVELS are zeroed) -> x times 0 or the scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, zeroed: int) -> Tensor:
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        # Compared straight into numbers of x's type: a boolean mask would be converted every time.
        factor = torch.ge(bits, zeroed - LEVELS // 2, out=x.new_empty(x.shape))
        factor *= LEVELS / (LEVELS - zeroed)
        ctx.save_for_backward(factor)
        return x * factor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grads[0] * factor, None
