"""Where our own time goes: the training loop as it is, and operations by kind."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine_nmt import RATE, Training, begin_decoding, decode
from torch.profiler import ProfilerActivity, profile
from worker import serve

from nmt.commands.train import training_pairs
from nmt.data.batching import Batch, Epoch
from nmt.data.prepare import prepare
from nmt.models.seq2seq import Seq2Seq
from nmt.training.learner import Learner, Update
from nmt.training.loop import train
from nmt.training.monitor import Monitor, Validation
from nmt.training.state import LoopOptions

KINDS = {
    "loss": "SmoothedCrossEntropy",
    "optimiser": r"Optimizer|_fused_adam|_foreach|linalg_vector_norm|_amp_",
    "dropout": "[Dd]ropout|bernoulli",
    "matrix products": r"aten::(mm|addmm|bmm|baddbmm|linear|matmul|_addmm_activation)$",
    "recurrent layers": "lstm|mkldnn_rnn|rnn_layer",
    "attention": r"scaled_dot_product|softmax|masked_fill",
    "normalisation": "layer_norm|LayerNorm",
    "copies and casts": r"aten::(copy_|_to_copy|to|contiguous|clone|cat|stack|reshape)$",
    "embeddings": "embedding|Embedding",
    "choosing": r"topk|logsumexp|amax|gather|index_select|index|scatter|argmax",
    "zeros and sums of gradients": r"aten::(zeros|zero_|fill_|new_zeros|sum)$|AccumulateGrad",
    "activation": r"relu|threshold|gelu|tanh|sigmoid",
}
"""Kind -> names of operations and of those they are part of, the first that fits."""
INSIDE = ("loss", "optimiser", "dropout")
"""Kinds that keep everything inside them, whatever it is."""


def kind_of(event: Any) -> str:
    """The kind of an operation: that of the nearest one around it which has one."""
    nearest, current = "", event
    while current is not None:
        for kind, pattern in KINDS.items():
            if re.search(pattern, current.name):
                if kind in INSIDE:
                    return kind
                nearest = nearest or kind
                break
        current = current.cpu_parent
    return nearest or "other operations"


class Timed(Learner):
    """A learner that adds up what its forward and backward passes and its optimiser take."""

    def __init__(self, other: Learner, model: Seq2Seq) -> None:
        super().__init__(
            model,
            other.optimizer,
            world=other.world,
            label_smoothing=0.1,
            clip=other.clip,
            precision=other.precision,
        )
        self.spent: Counter[str] = Counter()
        self.began = self.ended = 0.0

    def learn(self, epoch: Epoch, update: Update, *, seed: int, step: int, rate: float) -> None:
        self.began = self.began or time.perf_counter()
        super().learn(epoch, update, seed=seed, step=step, rate=rate)
        self.ended = time.perf_counter()

    def backward(self, batch: Batch, update_tokens: int, *, last: bool) -> None:
        begin = time.perf_counter()
        super().backward(batch, update_tokens, last=last)
        self.spent["forward and backward"] += time.perf_counter() - begin

    def step(self, step: int) -> None:
        begin = time.perf_counter()
        super().step(step)
        self.spent["optimiser"] += time.perf_counter() - begin


def loop(words: list[str], places: dict[str, str], updates: int) -> dict[str, Any]:
    """Shares of the real loop, from the first update to the last, log records included."""
    training = Training.on_corpus(words, places, updates)
    learner = Timed(training.learner, training.model)
    prepared = prepare(training.config.data, training.config.tokenizer, report=lambda line: None)
    with tempfile.TemporaryDirectory() as folder:
        train(
            learner,
            training_pairs(training.config, prepared, training.model),
            lambda step: RATE,
            lambda model: Validation({"loss": 0.0}),
            Path(folder),
            LoopOptions(seed=1, max_steps=updates, validate_every=updates),
            world=training.world,
            monitor=Monitor(Path(folder), live=False),
            identity={},
        )
    whole = learner.ended - learner.began
    shares = {name: seconds / whole for name, seconds in learner.spent.items()}
    return {"shares": shares | {"everything else": 1 - sum(shares.values())}, "seconds": whole}


def operations(words: list[str], places: dict[str, str], updates: int) -> dict[str, Any]:
    """Training by kind of operation."""
    training = Training.on_corpus(words, places, updates)

    def work() -> None:
        for _ in range(updates):
            training.learn(training.next())

    for _ in range(3):
        training.learn(training.next())
    return profiled(work)


def translating(
    run: str, precision: str, batches: list[list[list[int]]], beam: int, limit: int
) -> dict[str, Any]:
    """Decoding by kind of operation."""
    begin_decoding(run, precision)
    decode(batches, beam, limit)
    return profiled(lambda: decode(batches, beam, limit))


def profiled(work: Callable[[], object]) -> dict[str, Any]:
    """Shares of wall-clock time by kind of operation; Python is what no operation accounts for."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begin = time.perf_counter()
        work()
        whole = time.perf_counter() - begin
    spent: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for event in profiler.events():
        seconds = event.self_cpu_time_total / 1e6
        spent[kind_of(event)] += seconds
        names[event.name] += seconds
    spent["Python, and the profiler itself"] = max(0.0, whole - sum(spent.values()))
    return {
        "shares": {kind: seconds / whole for kind, seconds in spent.most_common()},
        "largest": {name: seconds / whole for name, seconds in names.most_common(25)},
        "seconds": whole,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    serve({"loop": loop, "operations": operations, "translating": translating})
