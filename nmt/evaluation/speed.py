"""How fast a model trains on sentences of one length, and how fast it translates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from nmt.decoding.translate import Translation
from nmt.models.seq2seq import Seq2Seq, Source

LENGTHS = (8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Speed:
    """Source and target tokens a second, forward and backward, of the fastest of some steps."""

    length: int
    tokens_per_second: float


def training_speed(
    model: Seq2Seq,
    lengths: Sequence[int] = LENGTHS,
    *,
    tokens: int = 2_048,
    repeats: int = 3,
) -> list[Speed]:
    """Times forward and backward passes over random sentences of equal length.

    The model's weights stay as they are; its gradients are dropped.

    Args:
        tokens: source and target tokens of a batch, whatever the length.
    """
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(1)
    found = []
    was_training = model.training
    model.train()
    for length in lengths:
        rows = max(1, tokens // (2 * length))
        vocabulary = min(model.source_vocab, model.target_vocab)
        ids_BS = torch.randint(4, vocabulary, (rows, length), generator=draw).to(device)
        source = Source(ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))
        seconds = min(_step(model, source, ids_BS) for _ in range(repeats + 1))
        found.append(Speed(length, 2 * rows * length / seconds))
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return found


def decoding_speed(
    translate: Callable[[Sequence[str]], Sequence[Translation]],
    sources: Sequence[str],
    *,
    repeats: int = 2,
) -> float:
    """Target tokens a second, end tokens counted, of the fastest of some translations of a text."""
    translate(sources[:1])  # what is made at the first call is not counted
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        translations = translate(sources)
        seconds = time.perf_counter() - began
        found.append(sum(one.n_best[0].tokens for one in translations) / seconds)
    return max(found)


def _step(model: Seq2Seq, source: Source, ids_BS: torch.Tensor) -> float:
    """Seconds of one pass forward and back."""
    began = time.perf_counter()
    with torch.enable_grad():
        logits_BTV = model.project(model(source, ids_BS))
        cross_entropy(logits_BTV.flatten(0, 1), ids_BS.flatten()).backward()
    if ids_BS.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
