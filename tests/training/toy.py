"""A corpus, two models and a validation small enough to train in a blink; also a script.

As a script it is one of several processes: ``python toy.py '[[RUN, {"option": value}], …]'``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from nmt.config import AttentionConfig, ModelConfig, ModelKind, Score, Timing
from nmt.data.batching import TrainingPairs, subword_sampler
from nmt.data.store import Ragged
from nmt.models.build import build_model
from nmt.models.seq2seq import Seq2Seq
from nmt.training.checkpoint import put_weights
from nmt.training.distributed import World, start
from nmt.training.learner import Learner
from nmt.training.loop import Outcome, train
from nmt.training.monitor import Monitor, Validation
from nmt.training.optim import make_optimizer, make_schedule
from nmt.training.state import LoopOptions

VOCABULARY = 24


def ragged(rows: list[list[int]]) -> Ragged:
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Ragged(np.array([i for row in rows for i in row], dtype=np.int32), offsets, lengths)


def toy_pairs(
    count: int = 60,
    *,
    batch_tokens: int = 64,
    sample: Any = None,
    corpora: Sequence[tuple[int, float]] = (),
) -> TrainingPairs:
    """Copy with a shift: short random sentences of ids 4 to VOCABULARY - 1."""
    rng = np.random.default_rng(7)
    rows = [rng.integers(4, VOCABULARY, rng.integers(1, 9)).tolist() for _ in range(count)]
    targets = [[4 + (i - 3) % (VOCABULARY - 4) for i in row] for row in rows]
    return TrainingPairs(
        source=ragged(rows),
        target=ragged(targets),
        batch_tokens=batch_tokens,
        pool=20,
        seed=3,
        pad=0,
        bos=2,
        eos=3,
        sample=sample,
        corpora=corpora,
    )


def resampled_pairs() -> TrainingPairs:
    """Pairs whose segmentation is drawn anew each epoch."""

    def encode(texts: list[str], seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [rng.integers(4, VOCABULARY, rng.integers(1, 9)).tolist() for _ in texts]

    def texts(start: int, end: int) -> list[str]:
        return [""] * (end - start)

    return toy_pairs(sample=subword_sampler((texts, texts), (encode, encode), pairs=60, seed=1))


def toy_model(kind: str, *, dropout: float, seed: int = 11) -> Seq2Seq:
    torch.manual_seed(seed)
    if kind == "transformer":
        model = ModelConfig(
            name="tiny", kind=ModelKind.transformer, width=8, ffn=16, heads=2, encoder_layers=1,
            decoder_layers=1, dropout=dropout,
        )  # fmt: skip
        attention = AttentionConfig(preset="full", score=Score.scaled_dot)
    else:
        model = ModelConfig(
            name="tiny", kind=ModelKind.lstm, width=8, embedding=8, encoder_layers=1,
            decoder_layers=1, dropout=dropout,
        )  # fmt: skip
        attention = AttentionConfig(
            preset="luong_general", score=Score.general, timing=Timing.current, feeding=True
        )
    return build_model(model, attention, VOCABULARY, VOCABULARY)


def weight_sum(model: nn.Module) -> Validation:
    """A validation that depends on the weights and is quick: not a measure of quality."""
    total = sum(p.detach().double().abs().sum().item() for p in model.parameters())
    return Validation({"loss": total}, samples=[("a", "b", "c")])


@dataclass
class Trained:
    outcome: Outcome
    learner: Learner
    run: Path

    def same_weights(self, other: Trained) -> bool:
        mine, theirs = self.learner.weights(), other.learner.weights()
        return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def run_toy(
    run: Path,
    *,
    kind: str = "transformer",
    pairs: TrainingPairs | None = None,
    sampling: bool = False,
    dropout: float = 0.2,
    ema: float = 0.0,
    precision: torch.dtype = torch.float32,
    world: World | None = None,
    validate: Callable[[Seq2Seq], Validation] = weight_sum,
    double: bool = False,
    clip: float | None = 1.0,
    name: str = "adamw",
    learning_rate: float = 0.01,
    before: Callable[[Learner], None] = lambda learner: None,
    **options: Any,
) -> Trained:
    """Train a toy model in ``run`` with a real loop, monitor and checkpoints."""
    world = world or World()
    model = toy_model(kind, dropout=dropout)
    if double:
        model.double()
    optimizer = make_optimizer(name, model, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01)
    learner = Learner(
        model, optimizer, world=world, label_smoothing=0.1, clip=clip, precision=precision, ema=ema
    )
    before(learner)
    run.mkdir(parents=True, exist_ok=True)
    settings = {"seed": 5, "max_steps": 12, "validate_every": 4, "log_every": 2, **options}
    outcome = train(
        learner,
        pairs or (resampled_pairs() if sampling else toy_pairs()),
        make_schedule("inverse_sqrt", learning_rate=learning_rate, warmup=4),
        validate,
        run,
        LoopOptions(**settings),
        world=world,
        monitor=Monitor(run if world.first else None, live=False, tensorboard=False),
        identity={"tokenizer": "abc"},
    )
    return Trained(outcome, learner, run)


def golden_losses(run: Path, golden: Path, kind: str) -> list[float]:
    """The losses of 50 steps from the committed initial weights, without dropout."""
    weights = safetensors.torch.load_file(golden / f"{kind}.safetensors")
    run_toy(
        run,
        kind=kind,
        dropout=0.0,
        accumulate=2,
        max_steps=50,
        log_every=1,
        validate_every=50,
        before=lambda learner: put_weights(learner.model, weights, origin=kind),
    )
    lines = (run / "log.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [record["loss"] for line in lines if (record := json.loads(line))["kind"] == "train"]


def main() -> None:
    """Train the runs of the command line in turn, as one of the processes that share them."""
    with start("cpu", timeout_minutes=1) as world:
        for run, settings in json.loads(sys.argv[1]):
            trained = run_toy(Path(run), world=world, **settings)
            weights = {k: t.clone() for k, t in trained.learner.weights().items()}
            file = Path(run) / f"rank{world.rank}.safetensors"
            safetensors.torch.save_file(weights, file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
