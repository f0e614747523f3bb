"""What attention costs as sentences grow, counted in operations and numbers, not timed.

From 256 to 1,024 positions, four times as many, a linear cost grows four times and a quadratic one
sixteen times; full attention shows that the counting sees the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nmt.models import multihead
from nmt.models.attention import ScaledDot
from nmt.models.linear import LinearCrossAttention, LinearSelfAttention
from nmt.models.multihead import FullCrossAttention, FullSelfAttention, HeadSize, SelfAttention
from nmt.models.sliding import SlidingSelfAttention

SIZE = HeadSize(width=16, heads=2, head_width=8, dropout=0.0)
SCORE = ScaledDot(8, 2)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def cost(run: Callable[[], Tensor]) -> tuple[int, int]:
    """Operations and largest tensor of a forward and backward pass."""
    flops, largest = FlopCounterMode(display=False), Largest()
    with flops, largest:
        run().sum().backward()
    return flops.get_total_flops(), largest.elements


def growth(layer: Callable[[int], Callable[[], Tensor]]) -> tuple[float, float]:
    """By how much both grow from 256 positions to 1,024."""
    (few, small), (many, large) = cost(layer(256)), cost(layer(1_024))
    return many / few, large / small


def self_attention(kind: str, *, causal: bool) -> SelfAttention:
    if kind == "full":
        return FullSelfAttention(SIZE, SCORE, causal=causal)
    if kind == "sliding":
        return SlidingSelfAttention(SIZE, SCORE, causal=causal, span=10)
    return LinearSelfAttention(SIZE, causal=causal)


@pytest.fixture(autouse=True)
def _explicit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused kernel makes no matrix either, at a quadratic number of operations."""
    monkeypatch.setattr(multihead, "prefers_fused", lambda *_: False)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["full", "sliding", "linear"])
def test_self_attention(kind: str, causal: bool) -> None:
    layer = self_attention(kind, causal=causal)

    def of(length: int) -> Callable[[], Tensor]:
        x_NTD, keep_NT = torch.randn(2, length, 16), torch.ones(2, length, dtype=torch.bool)
        return lambda: layer(x_NTD, layer.mask(keep_NT, 0))

    flops, elements = growth(of)
    if kind == "full":
        assert flops > 8.0
        assert elements > 15.0
    else:
        assert flops == pytest.approx(4.0, rel=0.1)
        assert elements == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("kind", ["full", "linear"])
def test_cross_attention(kind: str) -> None:
    linear = kind == "linear"
    layer = LinearCrossAttention(SIZE) if linear else FullCrossAttention(SIZE, SCORE)

    def of(length: int) -> Callable[[], Tensor]:
        x_NTD, keep_NT = torch.randn(2, length, 16), torch.ones(2, length, dtype=torch.bool)
        return lambda: layer(x_NTD, layer.remember(x_NTD, keep_NT), keep_NT)

    flops, elements = growth(of)
    assert (flops == pytest.approx(4.0, rel=0.1)) == linear
    assert (elements == pytest.approx(4.0, rel=0.1)) == linear


@pytest.mark.parametrize("kind", ["full", "sliding", "linear"])
@torch.no_grad()
def test_one_more_token(kind: str) -> None:
    """A step after 1,024 tokens costs what it costs after 256, but for full attention."""
    layer = self_attention(kind, causal=True)
    found = []
    for length in (256, 1_024):
        keep_NT = torch.ones(2, length, dtype=torch.bool)
        past = layer.begin(0)
        layer(torch.randn(2, length, 16), layer.mask(keep_NT, 0), past=past)
        flops, largest = FlopCounterMode(display=False), Largest()
        with flops, largest:
            layer(torch.randn(2, 1, 16), layer.mask(keep_NT[:, :1], length), past=past)
        found.append((flops.get_total_flops(), largest.elements))
    assert (found[0] == found[1]) == (kind != "full")
