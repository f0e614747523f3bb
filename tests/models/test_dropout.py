"""Dropout against its definition: zeros at the rate, the rest scaled, the same for the gradient."""

from __future__ import annotations

import pytest
import torch

from nmt.models.dropout import Dropout, drop


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_elements_are_zero_at_the_rate_or_scaled(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    out = drop(torch.ones(1_003, 97, dtype=dtype), rate)
    expected = torch.tensor([0.0, 1 / (1 - rate)], dtype=dtype)
    torch.testing.assert_close(out.unique(), expected, rtol=2e-3, atol=0.0)
    # Four elements share a draw, so that each of the four places is looked at for itself.
    for place in range(4):
        share = (out.flatten()[place::4] == 0).double().mean().item()
        assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 24_000) ** 0.5)


def test_neighbours_fall_independently() -> None:
    torch.manual_seed(1)
    gone = (drop(torch.ones(400_000), 0.5) == 0).double() - 0.5
    for distance in (1, 2, 3, 4, 8):
        assert abs((gone[:-distance] * gone[distance:]).mean().item()) < 4 * 0.25 / 400_000**0.5


def test_the_gradient_goes_where_the_value_went() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    out = drop(x, 0.4)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (out / x).detach())


def test_the_seed_fixes_it() -> None:
    x = torch.randn(33)
    outs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outs.append(drop(x, 0.3))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_the_ends_of_the_range() -> None:
    x = torch.randn(9)
    assert drop(x, 0.0) is x
    assert not drop(x, 1.0).any()
    assert drop(torch.empty(0, 3), 0.5).shape == (0, 3)


def test_only_in_training() -> None:
    module, x = Dropout(0.5), torch.ones(100)
    assert not torch.equal(module.train()(x), x)
    assert module.eval()(x) is x
