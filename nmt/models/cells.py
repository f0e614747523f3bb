"""Recurrent layers: PyTorch's where all positions run at once, our own where a loop is needed.

Shape letters as in seq2seq.py; G = 4 D (LSTM) or 3 D (GRU) gates, I inputs and O outputs of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nmt.models.dropout import Dropout
from nmt.models.projection import Linear, stacked

LayerState = tuple[Tensor, Tensor | None]  # hidden state and, of an LSTM, cell: [N, D] each
Step = Callable[[Tensor, list[LayerState]], list[LayerState]]  # fed vector and state to state


@dataclass
class State:
    """Hidden states [N, L, D] of a stack; LSTM cells too, GRUs have none."""

    hidden: Tensor
    cell: Tensor | None

    def split(self) -> list[LayerState]:
        """Hidden state and cell of each layer, bottom first."""
        hiddens = self.hidden.unbind(1)
        cells = [None] * len(hiddens) if self.cell is None else self.cell.unbind(1)
        return list(zip(hiddens, cells, strict=True))

    @classmethod
    def join(cls, layers: list[LayerState]) -> State:
        """The inverse of `split`."""
        cells = [cell for _, cell in layers if cell is not None]
        hidden = torch.stack([hidden for hidden, _ in layers], 1)
        return cls(hidden, torch.stack(cells, 1) if cells else None)


@dataclass(frozen=True, kw_only=True)
class StackSize:
    """The numbers of a stack of recurrent layers."""

    cell: str  # lstm | gru
    embedding: int
    width: int
    layers: int
    dropout: float

    def rnn(self, inputs: int, *, bidirectional: bool = False) -> nn.LSTM | nn.GRU:
        """PyTorch's layers, batch first, dropout between them; directions share the width."""
        kind: type[nn.LSTM | nn.GRU] = {"lstm": nn.LSTM, "gru": nn.GRU}[self.cell]
        return kind(
            inputs,
            self.width // 2 if bidirectional else self.width,
            self.layers,
            batch_first=True,
            dropout=self.dropout if self.layers > 1 else 0.0,
            bidirectional=bidirectional,
        )


class FreeStack(nn.Module):
    """Layers that run over all positions at once, because nothing is fed back into them."""

    def __init__(self, size: StackSize, *, inputs: int) -> None:
        super().__init__()
        self.rnn = size.rnn(inputs)

    def forward(self, x_NTI: Tensor, state: State) -> tuple[Tensor, State]:
        """Top states [N, T, D] and the state after them."""
        hidden = state.hidden.transpose(0, 1).contiguous()
        if state.cell is None:
            top_NTD, hidden = self.rnn(x_NTI, hidden)
            return top_NTD, State(hidden.transpose(0, 1), None)
        cell = state.cell.transpose(0, 1).contiguous()
        top_NTD, (hidden, cell) = self.rnn(x_NTI, (hidden, cell))
        return top_NTD, State(hidden.transpose(0, 1), cell.transpose(0, 1))


class LoopLinear:
    """A linear layer within a loop over time, whose weight's gradient is computed once, after it.

    Autograd would multiply and add a whole matrix for every step; one product over all steps is
    several times faster, and under bf16 autocast it does not add up in bf16. One instance serves
    one loop and computes in `dtype`.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        self.linear = linear
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.deferred = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if self.deferred:
            self.weight_OI = linear.weight.detach().to(dtype)
            self.anchor = _Anchor.apply(linear.weight, self.seen)

    def __call__(self, x_NI: Tensor) -> Tensor:
        """[N, O] from [N, I]."""
        out_NO: Tensor
        if not self.deferred:
            out_NO = self.linear(x_NI)
            return out_NO
        x_NI = x_NI.to(self.weight_OI.dtype)
        out_NO = _Product.apply(x_NI, self.weight_OI, self.anchor, self.seen)
        return out_NO if self.linear.bias is None else out_NO + self.linear.bias


class _Anchor(torch.autograd.Function):
    """Ties a weight to the products made with it; runs backward after all of them."""

    @staticmethod
    def forward(ctx: Any, weight_OI: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.seen, ctx.dtype = seen, weight_OI.dtype
        return weight_OI.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        inputs, gradients = (stacked(part) for part in zip(*ctx.seen, strict=True))
        ctx.seen.clear()
        return (gradients.t() @ inputs).to(ctx.dtype), None


class _Product(torch.autograd.Function):
    """x W^T, which leaves the gradient of W to the anchor."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight_OI: Tensor, anchor: Tensor, seen: list[Any]
    ) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI, anchor)
        ctx.seen = seen
        return x_NI @ weight_OI.t()

    @staticmethod
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor, None, Tensor, None]:
        x_NI, weight_OI, anchor = ctx.saved_tensors
        ctx.seen.append((x_NI, gradient_NO))
        return gradient_NO @ weight_OI, None, anchor, None


class Gates(nn.Module):
    """One recurrent layer, its projections apart, so that those of the inputs can be hoisted."""

    def __init__(self, *, cell: str, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = cell == "lstm"
        gates = (4 if self.lstm else 3) * width
        self.inputs = Linear(inputs, gates)
        self.hidden = Linear(width, gates)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(
        self, inputs_NG: Tensor, again_NG: Tensor, hidden_ND: Tensor, cell_ND: Tensor | None
    ) -> LayerState:
        """One step from projected inputs and states, in the state's precision.

        Gates lie in PyTorch's order.
        """
        inputs_NG, gates_NG = inputs_NG.to(hidden_ND.dtype), again_NG.to(hidden_ND.dtype)
        if cell_ND is not None:
            gate_in, forget, new, gate_out = (inputs_NG + gates_NG).chunk(4, 1)
            cell_ND = forget.sigmoid() * cell_ND + gate_in.sigmoid() * new.tanh()
            return gate_out.sigmoid() * cell_ND.tanh(), cell_ND
        reset_x, update_x, new_x = inputs_NG.chunk(3, 1)
        reset_h, update_h, new_h = gates_NG.chunk(3, 1)
        new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        return torch.lerp(new, hidden_ND, (update_x + update_h).sigmoid()), None


class FedStack(nn.Module):
    """Layers that go step by step, because a vector of the step before enters the bottom one."""

    def __init__(self, size: StackSize) -> None:
        super().__init__()
        cell, width = size.cell, size.width
        self.bottom = Gates(cell=cell, inputs=size.embedding, width=width)
        self.fed = Linear(width, self.bottom.hidden.out_features, bias=False)
        nn.init.uniform_(self.fed.weight, -(width**-0.5), width**-0.5)
        self.upper = nn.ModuleList(
            Gates(cell=cell, inputs=width, width=width) for _ in range(size.layers - 1)
        )
        self.dropout = Dropout(size.dropout)

    def steps(self, x_NTE: Tensor) -> Iterator[Step]:
        """A step for each of T positions; the embeddings' share of the gates is computed here."""
        inputs_NTG: Tensor = self.bottom.inputs(x_NTE)
        dtype = inputs_NTG.dtype  # that of autocast, where it is on
        fed, bottom = LoopLinear(self.fed, dtype), LoopLinear(self.bottom.hidden, dtype)
        upper = [
            (layer, LoopLinear(layer.inputs, dtype), LoopLinear(layer.hidden, dtype))
            for layer in self.upper
            if isinstance(layer, Gates)
        ]

        def step(inputs_NG: Tensor, fed_ND: Tensor, state: list[LayerState]) -> list[LayerState]:
            inputs_NG = inputs_NG + fed(fed_ND)
            after = [self.bottom(inputs_NG, bottom(state[0][0]), *state[0])]
            for (layer, inputs, hidden), before in zip(upper, state[1:], strict=True):
                inputs_NG = inputs(self.dropout(after[-1][0]))
                after.append(layer(inputs_NG, hidden(before[0]), *before))
            return after

        for inputs_NG in inputs_NTG.unbind(1):
            yield partial(step, inputs_NG)
