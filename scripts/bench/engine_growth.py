"""Our own training step on made-up sentences of one length, and the plan of an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from worker import clock, serve

from nmt import compose
from nmt.data.batching import Batch, collate, make_plan
from nmt.data.tokenizer import BOS, EOS, PAD
from nmt.models.build import build_model, count_parameters
from nmt.training.distributed import World
from nmt.training.learner import Learner, resolve_precision
from nmt.training.optim import make_optimizer, set_learning_rate

VOCABULARY = 8_000
now: dict[str, Any] = {}


def made_up(rows: int, length: int) -> Batch:
    """Random ids; every side has ``length`` tokens, its end counted."""
    rng = np.random.default_rng(0)
    sides = [list(rng.integers(4, VOCABULARY, (rows, length - 1))) for _ in range(2)]
    return collate(*sides, pad=PAD, bos=BOS, eos=EOS)


def begin_step(width: int, length: int, tokens: int) -> dict[str, Any]:
    """transformer_small at this width, and a batch of so many tokens in sentences of a length."""
    config = compose.compose(
        ["model=transformer_small", f"model.width={width}", f"model.ffn={4 * width}"]
    )
    torch.manual_seed(0)
    model = build_model(config.model, config.attention, VOCABULARY, VOCABULARY)
    optimizer = make_optimizer("adam", model, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)
    precision = resolve_precision("auto", torch.device("cpu"))
    learner = Learner(
        model, optimizer, world=World(), label_smoothing=0.1, clip=1.0, precision=precision
    )
    set_learning_rate(optimizer, 1e-4)
    batch = made_up(max(1, tokens // (2 * length)), length)
    now["tokens"] = 2 * batch.target_tokens

    def step() -> None:
        learner.backward(batch, batch.target_tokens, last=True)
        learner.step(1)
        learner.take_sums()

    now["step"] = step
    return {"parameters": count_parameters(model).total, "precision": str(precision)}


def begin_plan(pairs: int) -> dict[str, Any]:
    """Lengths of so many pairs."""
    rng = np.random.default_rng(0)
    source, target = rng.integers(5, 40, (2, pairs))
    now["tokens"] = int(source.sum() + target.sum())
    now["step"] = lambda: make_plan(
        source, target, batch_tokens=4_096, pool=20_000, seed=1, epoch=0
    )
    return {"pairs": pairs}


def step(times: int = 1) -> dict[str, Any]:
    """Once more."""
    with clock() as spent:
        for _ in range(times):
            now["step"]()
    return {"tokens": times * now["tokens"], **spent}


if __name__ == "__main__":
    serve({"begin_step": begin_step, "begin_plan": begin_plan, "step": step})
