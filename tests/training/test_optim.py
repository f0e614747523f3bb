from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nmt.errors import UserError
from nmt.training.optim import (
    MovingAverage,
    make_optimizer,
    make_schedule,
    optimizer_tensors,
    parameter_groups,
    put_optimizer,
    set_learning_rate,
)

PEAK, WARMUP, END = 0.002, 40, 200
FORMULAS = {
    "constant": lambda s: PEAK,
    "inverse_sqrt": lambda s: PEAK * math.sqrt(WARMUP / s),
    "linear": lambda s: PEAK * (0.1 + 0.9 * (END - s) / (END - WARMUP)),
    "cosine": lambda s: (
        PEAK * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (s - WARMUP) / (END - WARMUP))))
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_schedules_are_their_formulas(name: str) -> None:
    rate = make_schedule(name, learning_rate=PEAK, warmup=WARMUP, max_steps=END, final_ratio=0.1)
    for step in range(1, WARMUP + 1):
        assert rate(step) == pytest.approx(PEAK * step / WARMUP)
    for step in range(WARMUP, END + 1):
        assert rate(step) == pytest.approx(FORMULAS[name](step))
    assert rate(WARMUP) == pytest.approx(PEAK)
    if name in ("linear", "cosine"):
        assert rate(END + 50) == pytest.approx(0.1 * PEAK)


@pytest.mark.parametrize("name", FORMULAS)
def test_no_warmup_starts_at_the_peak(name: str) -> None:
    rate = make_schedule(name, learning_rate=PEAK, warmup=0, max_steps=10_000)
    assert rate(1) == pytest.approx(PEAK, rel=1e-3)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("end", [None, 40])
def test_a_schedule_that_falls_needs_an_end(name: str, end: int | None) -> None:
    with pytest.raises(UserError, match=r"needs an end.*max_steps"):
        make_schedule(name, learning_rate=1.0, warmup=40, max_steps=end)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"optim\.schedule=noam"):
        make_schedule("noam", learning_rate=1.0, warmup=1)
    with pytest.raises(UserError, match=r"optim\.name=sgd"):
        make_optimizer("sgd", Small(), betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.output = nn.Linear(4, 7, bias=False)
        self.output.weight = self.embedding.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_only_matrices_decay() -> None:
    model = Small()
    decayed, plain = parameter_groups(model, 0.3)
    assert [id(p) for p in decayed["params"]] == [id(model.inner.weight)]
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (model.embedding.weight, model.inner.bias, *model.norm.parameters())
    }
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_one_step_is_the_papers(name: str) -> None:
    """First step from zero moments: m_hat = g, v_hat = g^2 (Kingma & Ba, algorithm 1)."""
    model = Small()
    optimizer = make_optimizer(name, model, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.5)
    set_learning_rate(optimizer, 0.1)
    before = model.inner.weight.detach().clone()
    bias = model.inner.bias.detach().clone()
    gradient = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    model.inner.weight.grad, model.inner.bias.grad = gradient.clone(), torch.ones(4)
    optimizer.step()
    if name == "adam":
        expected = before - 0.1 * (gradient + 0.5 * before).sign()
    else:
        expected = before * (1 - 0.1 * 0.5) - 0.1 * gradient.sign()
    assert torch.allclose(model.inner.weight, expected, atol=1e-6)
    assert torch.allclose(model.inner.bias, bias - 0.1, atol=1e-6)


def test_optimizer_state_travels_by_name() -> None:
    first, second = Small(), Small()
    second.load_state_dict(first.state_dict())
    optimizers = [
        make_optimizer("adamw", m, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.1)
        for m in (first, second)
    ]

    def step(model: Small, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
        set_learning_rate(optimizer, 0.01)
        optimizer.step()

    step(first, optimizers[0], 1)
    tensors = {k: v.clone() for k, v in optimizer_tensors(first, optimizers[0]).items()}
    assert "exp_avg/inner.weight" in tensors
    assert not any("frozen" in key for key in tensors)
    second.load_state_dict(first.state_dict())
    put_optimizer(second, optimizers[1], tensors)
    step(first, optimizers[0], 2)
    step(second, optimizers[1], 2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


@pytest.mark.parametrize("key", ["exp_avg/unknown", "exp_avg/inner.weight"])
def test_optimizer_state_of_another_model_is_refused(key: str) -> None:
    model = Small()
    optimizer = make_optimizer("adam", model, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)
    with pytest.raises(UserError, match=key):
        put_optimizer(model, optimizer, {key: torch.zeros(2, 3)})


def test_moving_average_against_a_loop_in_python() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    average = MovingAverage(model, decay=0.5)
    expected = model.weight.item()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.fill_(step * step)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step * step
    assert average.tensors()["weight"].item() == pytest.approx(expected, rel=1e-12)
    with average.swapped():
        assert model.weight.item() == pytest.approx(expected, rel=1e-12)
        assert average.tensors()["weight"].item() == 29 * 29
    assert model.weight.item() == 29 * 29
    average.restart()
    assert average.tensors()["weight"].item() == 29 * 29
