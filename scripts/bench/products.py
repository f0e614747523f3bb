"""The matrix products of a training step, run alone: how fast the machine could be.

`Recorder` writes down every product that a step asks for, by operation, shapes, strides and types.
`Products` runs the same list again on random numbers, so that its time is what the products cost by
themselves, at the precision and in the layouts of the step. A fused attention counts as the
products inside it: two in the forward pass, five in the backward pass (one of them a second time).
Those of `nn.LSTM` are inside one operation of the library and are not counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PLAIN = (aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default)
FUSED = "_scaled_dot_product"


@dataclass(frozen=True)
class Operand:
    """Shape, strides and type of a matrix."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    @classmethod
    def plain(cls, *shape: int, dtype: torch.dtype) -> Operand:
        """Contiguous."""
        return cls.of(torch.empty(shape, dtype=dtype, device="meta"))

    def random(self, device: torch.device) -> Tensor:
        """Random numbers in this layout."""
        made = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=device)
        return made.normal_()


@dataclass(frozen=True)
class Product:
    """One operation and its operands."""

    operation: Any
    operands: tuple[Operand, ...]

    @property
    def flop(self) -> int:
        """Multiplications and additions: 2 x rows x columns x inner."""
        left, right = (operand.shape for operand in self.operands[-2:])
        outer = left[0] if len(left) == 3 else 1
        return 2 * outer * left[-2] * left[-1] * right[-1]


class Recorder(TorchDispatchMode):
    """Inside, every matrix product is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PLAIN:
            operands = tuple(Operand.of(a) for a in args if isinstance(a, Tensor))
            self.found[Product(func, operands)] += 1
        elif FUSED in str(func):
            tensors = [a for a in args if isinstance(a, Tensor)]
            backward = "backward" in str(func)
            self._attention(*(tensors[1:4] if backward else tensors[:3]), backward=backward)
        return func(*args, **(kwargs or {}))

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *, backward: bool) -> None:
        batch, t, m, d = query.shape[:-2].numel(), query.shape[-2], key.shape[-2], key.shape[-1]
        kinds = {  # scores and their gradients, contexts and the gradients of the operands
            (t, d, m): 2 if backward else 1,
            (t, m, d): 1,
            (m, t, d): 2 if backward else 0,
        }
        for (rows, inner, columns), count in kinds.items():
            left = Operand.plain(batch, rows, inner, dtype=query.dtype)
            right = Operand.plain(batch, inner, columns, dtype=value.dtype)
            self.found[Product(aten.bmm.default, (left, right))] += count


class Products:
    """A recorded list, ready to be run."""

    def __init__(self, found: Counter[Product], device: torch.device) -> None:
        operands = {operand for product in found for operand in product.operands}
        made = {operand: operand.random(device) for operand in operands}
        self.steps = [
            (product.operation, [made[operand] for operand in product.operands], count)
            for product, count in found.items()
        ]
        self.flop = sum(product.flop * count for product, count in found.items())

    def run(self) -> None:
        """All products once."""
        with torch.no_grad():
            for operation, operands, count in self.steps:
                for _ in range(count):
                    operation(*operands)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
