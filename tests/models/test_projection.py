"""Linear layers with rows added to them, against products in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nmt.models.cells import LoopLinear
from nmt.models.projection import Linear, linear, rounded, spare_rows, stacked
from nmt.training.loss import label_smoothed_cross_entropy

PRODUCTS = ("aten.mm.default", "aten.addmm.default")


class Shapes(TorchDispatchMode):
    """Writes down the shapes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[tuple[int, ...], ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in PRODUCTS:
            self.seen.add(tuple(tuple(matrix.shape) for matrix in args[-2:]))
        return func(*args, **(kwargs or {}))


@contextmanager
def narrow(on: bool = True) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=on):
        yield


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shapes_of(rows: int, *, on: bool) -> set[tuple[tuple[int, ...], ...]]:
    """Shapes of the products of a layer from 4 to 6, forward and backward."""
    layer = Linear(4, 6)
    x = draw(rows, 4).requires_grad_()
    with Shapes() as shapes:
        with narrow(on):
            out = layer(x)
        out.float().sum().backward()
    return shapes.seen


def test_few_numbers_of_rows_and_few_rows_too_many() -> None:
    for rows in range(1, 5_000):
        assert rows <= rounded(rows) <= max(32, 9 * rows / 8)
        assert rounded(rounded(rows)) == rounded(rows)
    assert {rounded(rows) for rows in range(1_025, 2_049)} == set(range(1_152, 2_049, 128))


def test_batches_of_like_size_have_the_same_products() -> None:
    seen = {frozenset(shapes_of(rows, on=True)) for rows in (1_793, 1_800, 1_901, 1_920)}
    assert seen == {frozenset([((1920, 4), (4, 6)), ((1920, 6), (6, 4)), ((6, 1920), (1920, 4))])}
    assert shapes_of(1_793, on=False) != shapes_of(1_800, on=False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(33,), (32,), (5, 7), (3, 2, 11)])
def test_results_and_gradients_are_those_of_float64(shape: tuple[int, ...], bias: bool) -> None:
    layer = Linear(8, 6, bias=bias)
    x, grad = draw(*shape, 8).requires_grad_(), draw(*shape, 6, seed=1)
    with narrow():
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert out.shape == (*shape, 6)
    out.backward(grad.bfloat16())
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert (x.grad.dtype, layer.weight.grad.dtype) == (torch.float32, torch.float32)

    rounded_x, weight = x.detach().bfloat16().double(), layer.weight.detach().bfloat16().double()
    known = grad.bfloat16().double()
    wanted = rounded_x @ weight.T + (layer.bias.detach().bfloat16().double() if bias else 0.0)
    close(out, wanted)
    close(x.grad, known @ weight)
    close(layer.weight.grad, known.reshape(-1, 6).T @ rounded_x.reshape(-1, 8))
    if bias:
        assert layer.bias.grad is not None
        close(layer.bias.grad, known.reshape(-1, 6).sum(0))


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal to bfloat16's rounding of the largest."""
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize(
    "around", [lambda: narrow(on=False), lambda: torch.no_grad()], ids=["fp32", "no gradients"]
)
def test_elsewhere_it_is_the_plain_layer(around: Callable[[], Any]) -> None:
    layer, x = Linear(4, 6), draw(33, 4)
    with around():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        assert spare_rows(x, 33) == 0


def test_what_comes_out_may_be_worked_on_in_place() -> None:
    layer, x = Linear(4, 6), draw(33, 4).requires_grad_()
    with narrow():
        layer(x).relu_().sum().backward()
        gradient, x.grad = x.grad, None
        layer(x).relu().sum().backward()
    assert torch.equal(gradient, x.grad)  # type: ignore[arg-type]


def test_weights_alone_or_inputs_alone_learn() -> None:
    layer, x = Linear(4, 6), draw(33, 4).requires_grad_()
    with narrow():
        layer(x.detach()).sum().backward()
    assert x.grad is None
    assert layer.weight.grad is not None
    layer.weight.grad = None
    layer.weight.requires_grad_(False)
    with narrow():
        layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_rows_added_to_the_loss_cost_nothing_and_learn_nothing() -> None:
    hidden, weight = draw(3, 15, 8), draw(20, 8, seed=2)
    target = torch.arange(45).reshape(3, 15) % 20
    kept = torch.arange(2, 39)  # 37 positions, which become 40
    found = {}
    for on in (False, True):
        given = hidden.clone().requires_grad_()
        learnt = weight.clone().requires_grad_()
        logits = []

        def project(x: Tensor, learnt: Tensor = learnt, logits: list[Any] = logits) -> Tensor:
            out = linear(x, learnt, None)
            logits.append(out.shape)
            return out

        with narrow(on):
            sums = label_smoothed_cross_entropy(project, given, target, kept, smoothing=0.1)
        sums.loss.backward()
        assert logits == [(40 if on else 37, 20)]
        assert sums.tokens == 37
        found[on] = (sums.loss, sums.nll, given.grad, learnt.grad)
    for exact, rough in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.05)
    assert found[True][2] is not None
    assert found[True][2][0, :2].count_nonzero() == 0  # what is not kept, the first place above all


def test_an_empty_micro_batch_learns_nothing_and_does_not_fail() -> None:
    layer, weight = Linear(8, 8), draw(20, 8).requires_grad_()
    given = torch.zeros(0, 5, 8, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    with narrow():
        sums = label_smoothed_cross_entropy(
            lambda x: linear(x, weight, None),
            layer(given),
            nothing.reshape(0, 5),
            nothing,
            smoothing=0.1,
        )
    sums.loss.backward()
    assert (sums.loss.item(), sums.tokens) == (0.0, 0)
    for gradient in (weight.grad, layer.weight.grad):
        assert gradient is not None
        assert gradient.count_nonzero() == 0


def test_a_loops_gradient_has_rows_added_too() -> None:
    for dtype, rows in ((torch.bfloat16, 40), (torch.float32, 37)):
        parts = [draw(30, 4).to(dtype), draw(7, 4, seed=1).to(dtype)]
        found = stacked(parts)
        assert torch.equal(found[:37], torch.cat(parts))
        assert found.shape == (rows, 4)
        assert found[37:].count_nonzero() == 0
    layer = Linear(4, 6)
    steps = [draw(9, 4, seed=seed) for seed in range(5)]
    with narrow(), Shapes() as shapes:
        loop = LoopLinear(layer, torch.bfloat16)
        torch.stack([loop(x) for x in steps]).float().sum().backward()
    assert ((6, 45), (45, 4)) not in shapes.seen
    assert ((6, 48), (48, 4)) in shapes.seen
    assert layer.weight.grad is not None
    close(layer.weight.grad, torch.cat(steps).bfloat16().double().sum(0).expand(6, 4))
