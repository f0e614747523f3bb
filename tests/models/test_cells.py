"""Layers within a loop have the gradients that autograd would give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.models import cells
from nmt.models.cells import LoopLinear
from nmt.models.seq2seq import Source

TOLERANCE = {"rtol": 0.0, "atol": 1e-10}


def loop(layer: Callable[[Tensor], Tensor], x_ND: Tensor) -> Tensor:
    total = x_ND.new_zeros(())
    for _ in range(4):
        x_ND = layer(x_ND).tanh()
        total = total + x_ND.square().sum()
    return total


@pytest.mark.parametrize("bias", [False, True])
def test_loop_linear(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 5, bias=bias).double()
    x_ND = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    wanted = [x_ND, *linear.parameters()]
    expected = torch.autograd.grad(loop(linear, x_ND), wanted)
    total = loop(LoopLinear(linear, torch.float64), x_ND)
    for keep in (True, False):  # a second backward pass gives the same again
        found = torch.autograd.grad(total, wanted, retain_graph=keep)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, **TOLERANCE)


def test_loop_linear_without_gradients() -> None:
    linear = nn.Linear(5, 5)
    with torch.no_grad():
        assert torch.equal(
            LoopLinear(linear, torch.float32)(torch.ones(2, 5)), linear(torch.ones(2, 5))
        )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("timing", ["previous", "current"])
def test_whole_model(
    build: Callable[..., Any],
    recurrent_case: Callable[..., Any],
    source: Source,
    tgt_BT: Tensor,
    cell: str,
    timing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feeding = True if timing == "current" else None
    model = build(recurrent_case(("additive", timing, feeding), cell, (1, 3)))
    gradients = []
    for layer in (LoopLinear, lambda linear, dtype: linear):
        monkeypatch.setattr(cells, "LoopLinear", layer)
        loss = model.project(model(source, tgt_BT)).square().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
