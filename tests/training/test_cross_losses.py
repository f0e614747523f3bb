"""Losses on cross-attention: against loops, and their arithmetic over batches and processes."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from nmt.data.batching import Batch, TrainingPairs
from nmt.models.seq2seq import Source
from nmt.training.distributed import World
from nmt.training.learner import Learner, Objective, Update
from nmt.training.loss import (
    SMALLEST_WEIGHT,
    CrossLosses,
    coverage_loss,
    guided_alignment_loss,
    label_smoothed_cross_entropy,
)
from nmt.training.optim import make_optimizer

B, H, T, S = 3, 2, 5, 4
LENGTHS = ((5, 4), (3, 2), (1, 4))  # target and source tokens of each row


def keep_of(lengths: list[int], longest: int) -> Tensor:
    return torch.arange(longest)[None] < torch.tensor(lengths)[:, None]


@pytest.fixture
def layers() -> list[Tensor]:
    """Weights of three layers in float64, zero on source padding."""
    generator = torch.Generator().manual_seed(3)
    keep_BS = keep_of([s for _, s in LENGTHS], S)
    scores = torch.randn(3, B, H, T, S, dtype=torch.float64, generator=generator) * 2
    weights = scores.masked_fill(~keep_BS[:, None, None], -torch.inf).softmax(-1)
    return list(weights.unbind(0))


@pytest.fixture
def aligned() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    links = torch.rand(B, T, S, generator=generator) < 0.4
    for row, (t, s) in enumerate(LENGTHS):
        links[row, t:] = False
        links[row, :, s:] = False
    assert (links.sum(-1) == 0).any()
    assert (links.sum(-1) > 1).any()
    return links / links.sum(-1, keepdim=True).clamp(min=1)


# ---- the equations -------------------------------------------------------------------------------


def guided_by_loops(weights: Tensor, aligned: Tensor) -> float:
    total = 0.0
    for row, (t_end, s_end) in enumerate(LENGTHS):
        for t in range(t_end):
            for s in range(s_end):
                if aligned[row, t, s] > 0:
                    total -= aligned[row, t, s].item() * math.log(weights[row, t, s].item())
    return total


def coverage_by_loops(layers: list[Tensor]) -> float:
    total = 0.0
    for layer in layers:
        for row, (t_end, s_end) in enumerate(LENGTHS):
            covered = [0.0] * s_end
            for t in range(t_end):
                for s in range(s_end):
                    a = sum(float(layer[row, h, t, s]) for h in range(H)) / H
                    total += min(a, covered[s])
                    covered[s] += a
    return total / len(layers)


def test_guided_alignment_is_cross_entropy(layers: list[Tensor], aligned: Tensor) -> None:
    layers[0].requires_grad_()
    loss = guided_alignment_loss(layers[0][:, 1], aligned.double())
    assert loss.item() == pytest.approx(guided_by_loops(layers[0][:, 1], aligned), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, layers[0])
    assert torch.allclose(gradient[:, 1], -aligned.double() / layers[0][:, 1].clamp(min=1e-300))
    assert (gradient[:, 0] == 0).all()


def test_coverage_is_what_is_looked_at_twice(layers: list[Tensor]) -> None:
    keep_BT = keep_of([t for t, _ in LENGTHS], T)
    assert coverage_loss(layers, keep_BT).item() == pytest.approx(
        coverage_by_loops(layers), rel=1e-12
    )
    assert coverage_loss(layers[:1], keep_BT).item() == pytest.approx(
        coverage_by_loops(layers[:1]), rel=1e-12
    )
    torch.autograd.gradcheck(
        lambda *weights: coverage_loss(weights, keep_BT),
        [layer.requires_grad_() for layer in layers],
        eps=1e-7,
        atol=1e-5,
    )


def test_coverage_of_a_diagonal_and_of_a_stare() -> None:
    keep_BT = torch.ones(1, 4, dtype=torch.bool)
    assert coverage_loss([torch.eye(4)[None, None]], keep_BT).item() == 0.0
    stare = torch.zeros(1, 1, 4, 4)
    stare[..., 2] = 1.0
    assert coverage_loss([stare], keep_BT).item() == 3.0  # every look but the first


def test_which_layer_and_head_are_guided(layers: list[Tensor], aligned: Tensor) -> None:
    keep_BT = keep_of([t for t, _ in LENGTHS], T)
    a = aligned.double()

    def guided(cross: list[Tensor], head: int | None) -> float:
        return CrossLosses(guided=2.0, head=head).total(cross, a, keep_BT).item()

    def expected(weights: Tensor) -> Any:
        return pytest.approx(2 * guided_by_loops(weights, aligned), rel=1e-12)

    assert guided(layers, 0) == expected(layers[1][:, 0])  # the last of three but one
    assert guided(layers[:2], 1) == expected(layers[0][:, 1])
    assert guided(layers[:1], None) == expected(layers[0].mean(1))


def test_both_are_added(layers: list[Tensor], aligned: Tensor) -> None:
    keep_BT = keep_of([t for t, _ in LENGTHS], T)
    both = CrossLosses(guided=0.5, head=0, coverage=3.0)
    expected = 0.5 * guided_by_loops(layers[1][:, 0], aligned) + 3 * coverage_by_loops(layers)
    assert both.total(layers, aligned.double(), keep_BT).item() == pytest.approx(expected)
    assert bool(both)
    assert not CrossLosses(head=0)


def test_a_weight_of_zero_costs_much_but_no_infinity() -> None:
    weights = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    loss = guided_alignment_loss(weights, torch.tensor([[[1.0, 0.0]]]))
    assert loss.item() == pytest.approx(-math.log(SMALLEST_WEIGHT))
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.isfinite().all()


def test_what_cannot_be_judged_is_an_error(layers: list[Tensor]) -> None:
    keep_BT = torch.ones(B, T, dtype=torch.bool)
    with pytest.raises(ValueError, match="no cross-attention weights"):
        CrossLosses(coverage=1.0).total([], None, keep_BT)
    with pytest.raises(ValueError, match="batches with alignments"):
        CrossLosses(guided=1.0).total(layers, None, keep_BT)


# ---- in training ---------------------------------------------------------------------------------

LOSSES = {"guided": 0.7, "coverage": 0.3}


def diagonal(pair: int, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The toy corpus copies: token i comes from token i, but every third pair does not say so."""
    return np.eye(len(target), len(source), dtype=bool) & bool(pair % 3)


def learner_of(toy: ModuleType, kind: str, world: World | None = None, **losses: float) -> Learner:
    model = toy.toy_model(kind, dropout=0.0).double()
    optimizer = make_optimizer("adamw", model, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0)
    head = 0 if kind == "transformer" else None
    return Learner(
        model,
        optimizer,
        world=world or World(),
        label_smoothing=0.1,
        clip=None,
        cross_losses=CrossLosses(head=head, **losses),
    )


def toy_pairs(toy: ModuleType) -> TrainingPairs:
    pairs: TrainingPairs = toy.toy_pairs()
    pairs.links = diagonal
    return pairs


def gradients(learner: Learner, pairs: TrainingPairs, groups: list[np.ndarray]) -> dict[str, Any]:
    """Gradients of one update that is cut into these micro-batches."""
    epoch = pairs.epoch(0)
    tokens = sum(epoch.target_tokens(group) for group in groups)
    learner.step = lambda step: None  # type: ignore[method-assign]
    update = Update(0, list(enumerate(groups)), tokens)
    learner.learn(epoch, update, seed=1, step=1, rate=0.0)
    return {name: p.grad.clone() for name, p in learner.model.named_parameters()}  # type: ignore[union-attr]


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    difference = sum(float((one[k] - other[k]).pow(2).sum()) for k in one)
    return math.sqrt(difference / sum(float(t.pow(2).sum()) for t in one.values()))


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_any_cut_into_micro_batches_gives_the_same_gradients(toy: ModuleType, kind: str) -> None:
    pairs = toy_pairs(toy)
    numbers = np.arange(24)
    whole = gradients(learner_of(toy, kind, **LOSSES), pairs, [numbers])
    for cut in ([numbers[:7], numbers[7:]], [*numbers.reshape(6, 4)], [numbers[:24], numbers[:0]]):
        assert distance(whole, gradients(learner_of(toy, kind, **LOSSES), pairs, cut)) < 1e-12
    plain = gradients(learner_of(toy, kind), pairs, [numbers])
    assert distance(plain, whole) > 0.01
    for name, weight in LOSSES.items():
        one = gradients(learner_of(toy, kind, **{name: weight}), pairs, [numbers])
        assert distance(one, whole) > 0.001


def batch_of(toy: ModuleType, count: int = 12) -> Batch:
    return toy_pairs(toy).epoch(0).batch(np.arange(count))


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_the_objective_is_the_sum_of_its_parts(toy: ModuleType, kind: str) -> None:
    learner, batch = learner_of(toy, kind, **LOSSES), batch_of(toy)
    loss, nll = learner.objective(batch)
    model = learner.model
    source = Source(batch.source_BS, batch.source_keep_BS)
    explained = model.explain(source, batch.target_in_BT).cross
    assert explained is not None
    assert batch.aligned_BTS is not None
    weights = explained[0][:, 0] if kind == "transformer" else explained[0].mean(1)
    guided = guided_alignment_loss(weights, batch.aligned_BTS)
    covered = coverage_loss(list(explained), batch.target_keep_BT)
    plain = label_smoothed_cross_entropy(
        model.project,
        model(source, batch.target_in_BT),
        batch.target_out_BT,
        batch.kept_N,
        smoothing=0.1,
    )
    expected = plain.loss + 0.7 * guided + 0.3 * covered
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert nll.item() == pytest.approx(plain.nll.item(), rel=1e-9)  # perplexity stays what it is


def test_off_collects_no_weights(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy.toy_model("transformer", dropout=0.0)
    seen: list[Any] = []
    forward = type(model).forward

    def watch(self: Any, source: Any, tgt: Tensor, cross: Any = None) -> Any:
        seen.append(cross)
        return forward(self, source, tgt, cross)

    monkeypatch.setattr(type(model), "forward", watch)
    Objective(model, 0.1, CrossLosses())(batch_of(toy))
    Objective(model, 0.1, CrossLosses(coverage=0.1))(batch_of(toy))
    assert seen[0] is None
    assert len(seen[1]) == 1


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_attention_learns_what_it_is_told(toy: ModuleType, kind: str) -> None:
    """Links say that the sentence is read backwards, where the task says nothing of the kind."""
    pairs = toy_pairs(toy)
    pairs.links = lambda pair, s, t: np.eye(len(t), len(s), dtype=bool)[::-1]
    epoch, numbers = pairs.epoch(0), np.arange(60)
    batch = epoch.batch(numbers)
    assert batch.aligned_BTS is not None
    mass = {}
    for guided in (0.0, 1.0):
        learner = learner_of(toy, kind, guided=guided)
        for step in range(60):
            update = Update(0, [(0, numbers)], batch.target_tokens)
            learner.learn(epoch, update, seed=1, step=step, rate=0.03)
        cross: list[Tensor] = []
        learner.model(Source(batch.source_BS, batch.source_keep_BS), batch.target_in_BT, cross)
        weights = cross[0][:, 0] if kind == "transformer" else cross[0].mean(1)
        right = (weights * batch.aligned_BTS).sum(-1)[batch.target_keep_BT]
        mass[guided] = right.mean().item()
    assert mass[1.0] > mass[0.0] + 0.15, mass


GRADIENTS = """
import importlib.util, sys, torch
from pathlib import Path
import safetensors.torch
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
toy, tests = load("toy", sys.argv[1]), load("tests", sys.argv[2])
from nmt.training.distributed import start
torch.set_num_threads(1)
with start("cpu", timeout_minutes=1) as world:
    for kind in ("transformer", "lstm"):
        found = tests.update_of_four(toy, kind, world)
        safetensors.torch.save_file(found, Path(sys.argv[3]) / f"{kind}{world.rank}.safetensors")
"""


def update_of_four(toy: ModuleType, kind: str, world: World | None = None) -> dict[str, Any]:
    """One update of three micro-batches and an empty one."""
    groups = [*np.arange(21).reshape(3, 7), np.empty(0, dtype=np.int64)]
    return gradients(learner_of(toy, kind, world, **LOSSES), toy_pairs(toy), groups)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(toy: ModuleType, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    script = str(Path(__file__).with_name("toy.py"))
    command = [sys.executable, "-c", GRADIENTS, script, __file__, str(tmp_path)]
    ranks = [{**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    processes = [subprocess.Popen(command, env=here) for here in ranks]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for kind in ("transformer", "lstm"):
        alone = update_of_four(toy, kind)
        for rank in (0, 1):
            theirs = safetensors.torch.load_file(tmp_path / f"{kind}{rank}.safetensors")
            assert distance(alone, theirs) < 1e-12, json.dumps([kind, rank])
