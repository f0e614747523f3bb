from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmt.training import loss as module
from nmt.training.loss import label_smoothed_cross_entropy

B, T, D, V = 3, 5, 8, 50
KEPT = torch.tensor([0, 1, 2, 5, 6, 10])


@pytest.fixture
def data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, D, dtype=torch.float64, generator=generator)
    weight = torch.randn(V, D, dtype=torch.float64, generator=generator)
    return hidden, weight, torch.randint(0, V, (B, T), generator=generator)


def gradients(
    loss: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    return (out := loss(hidden, weight)).detach(), *torch.autograd.grad(out / 7, (hidden, weight))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("chunk", [1, 2 * V, 4 * V, 2**20])
def test_is_torchs_cross_entropy(
    smoothing: float, chunk: int, data: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_CHUNK", chunk)
    hidden, weight, target = data

    def ours(hidden: Tensor, weight: Tensor) -> Tensor:
        sums = label_smoothed_cross_entropy(
            lambda h: h @ weight.T, hidden, target, KEPT, smoothing=smoothing
        )
        logits = (hidden @ weight.T).flatten(0, 1)[KEPT]
        plain = F.cross_entropy(logits, target.flatten()[KEPT], reduction="sum")
        assert sums.tokens == len(KEPT)
        assert torch.allclose(sums.nll, plain.detach(), rtol=1e-12)
        return sums.loss

    def theirs(hidden: Tensor, weight: Tensor) -> Tensor:
        logits = (hidden @ weight.T).flatten(0, 1)[KEPT]
        return F.cross_entropy(
            logits, target.flatten()[KEPT], reduction="sum", label_smoothing=smoothing
        )

    for mine, reference in zip(
        gradients(ours, hidden, weight), gradients(theirs, hidden, weight), strict=True
    ):
        assert torch.allclose(mine, reference, rtol=1e-12, atol=1e-14)


def test_single_precision_is_close_and_bf16_logits_are_summed_in_float(
    data: tuple[Tensor, ...],
) -> None:
    hidden, weight, target = data
    logits = (hidden @ weight.T).flatten(0, 1)[KEPT]
    exact = F.cross_entropy(
        logits, target.flatten()[KEPT], reduction="sum", label_smoothing=0.1
    ).float()
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        sums = label_smoothed_cross_entropy(
            lambda h, dtype=dtype: (h @ weight.T).to(dtype), hidden, target, KEPT, smoothing=0.1
        )
        assert sums.loss.dtype == torch.float32
        assert torch.allclose(sums.loss, exact, rtol=tolerance)


def test_nothing_kept_gives_zero_and_zero_gradients(data: tuple[Tensor, ...]) -> None:
    hidden, weight, target = data
    empty = torch.empty(0, dtype=torch.int64)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return label_smoothed_cross_entropy(
            lambda h: h @ weight.T, hidden, target, empty, smoothing=0.1
        ).loss

    assert all((tensor == 0).all() for tensor in gradients(loss, hidden, weight))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_poisons_every_gradient(
    bad: float, data: tuple[Tensor, ...]
) -> None:
    hidden, weight, target = data
    hidden = hidden.clone()
    hidden[0, 0, 0] = bad

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return label_smoothed_cross_entropy(
            lambda h: h @ weight.T, hidden, target, KEPT, smoothing=0.0
        ).loss

    value, hidden_grad, weight_grad = gradients(loss, hidden, weight)
    assert not value.isfinite()
    assert hidden_grad[2, 0].isnan().all()  # the third sentence is untouched by the bad number
    assert weight_grad.isnan().all()


def test_a_projection_that_needs_its_output_is_noticed(data: tuple[Tensor, ...]) -> None:
    hidden, weight, target = data

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return label_smoothed_cross_entropy(
            lambda h: (h @ weight.T).exp(), hidden, target, KEPT, smoothing=0.1
        ).loss

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(loss, hidden, weight)


def test_without_gradients_the_logits_stay_as_they_are(data: tuple[Tensor, ...]) -> None:
    hidden, weight, target = data
    logits = (hidden.flatten(0, 1)[KEPT] @ weight.T).float()
    before = logits.clone()
    with torch.no_grad():
        label_smoothed_cross_entropy(lambda _: logits, hidden, target, KEPT, smoothing=0.1)
    assert torch.equal(before, logits)
