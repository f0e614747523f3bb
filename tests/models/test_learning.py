"""What each model must learn: copying and reversing, decoded greedily, nearly all without a slip.

What cannot, and why: a fixed vector holds a few words, not a sentence (that is why attention was
invented), so `none` is held to short sequences and must be clearly worse on long ones. local_m
looks where the target stands, so it copies and cannot reverse. Bare cosines lie in [-1, 1], so that
no weight is more than e^2 times another: they point at the words of short sequences only. The
encoder of a Transformer without positions sees a bag of words, whose order is not there to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmt.models.build import build_model
from nmt.models.seq2seq import Seq2Seq, Source

Case = Callable[..., Any]
PAD, BOS, EOS, FIRST, VOCAB = 0, 2, 3, 4, 10


def batch(task: str, rows: int, longest: int, generator: torch.Generator) -> tuple[Source, Tensor]:
    """Random sequences of 1 to `longest` symbols and EOS; the target is the same or the reverse."""
    lengths = torch.randint(1, longest + 1, (rows, 1), generator=generator)
    symbols = torch.randint(FIRST, VOCAB, (rows, longest + 1), generator=generator)
    place = torch.arange(longest + 1).expand_as(symbols)
    symbols = symbols.masked_fill(place > lengths, PAD).masked_fill(place == lengths, EOS)
    order = place if task == "copy" else torch.where(place < lengths, lengths - 1 - place, place)
    return Source(symbols, place <= lengths), symbols.gather(1, order)


@torch.no_grad()
def exact(model: Seq2Seq, task: str, longest: int) -> float:
    """The share of 300 new sequences that greedy decoding gets right to the end."""
    source, target = batch(task, 300, longest, torch.Generator().manual_seed(99))
    memory = model.eval().encode(source)
    cache = model.start(memory, torch.arange(300), longest + 1)
    token_N1 = torch.full((300, 1), BOS)
    right = torch.ones(300, dtype=torch.bool)
    for step in range(target.shape[1]):
        hidden, cache = model.decode(token_N1, memory, cache)
        token_N1 = model.project(hidden).argmax(-1)
        right &= (token_N1[:, 0] == target[:, step]) | (target[:, step] == PAD)
    return right.float().mean().item()


def learn(model: Seq2Seq, task: str, longest: int, steps: int, rate: float) -> float:
    """Trains on fresh sequences and scores now and then; stops once nothing is left to learn."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98))
    best = 0.0
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / 50) * (1 - 0.9 * step / steps)
        source, target = batch(task, 64, longest, generator)
        inputs = F.pad(target, (1, 0), value=BOS)[:, :-1]
        logits = model.train().project(model(source, inputs))
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            best = max(best, exact(model, task, longest))
            if best >= 0.98:
                break
    return best


def tiny(case: Any) -> Seq2Seq:
    model, attention = case
    model.dropout = model.attention_dropout = model.activation_dropout = 0.0
    torch.manual_seed(0)
    return build_model(model, attention, VOCAB, VOCAB)


# name: (attention, cell, task, longest)
MUST = {
    "none": (("none", None, None), "lstm", "copy", 3),
    "bahdanau": (("additive", "previous", None), "lstm", "reverse", 5),
    "bahdanau-gru": (("additive", "previous", None), "gru", "copy", 5),
    "luong_dot": (("dot", "current", True), "lstm", "reverse", 5),
    "luong_general-not-fed": (("general", "current", False), "lstm", "copy", 5),
    "luong_concat": (("additive", "current", True), "gru", "reverse", 5),
    "cosine": (("cosine", "current", True), "lstm", "copy", 5),
    "cosine-bare": (("cosine", "current", False), "lstm", "copy", 4),
    "location": (("location", "previous", False), "lstm", "reverse", 5),
    "local_m": (("general", "current", False), "lstm", "copy", 8),
    "local_p": (("general", "current", False), "gru", "copy", 5),
    "two heads": (("additive", "previous", False), "lstm", "reverse", 5),
    "coverage": (("additive", "previous", None), "lstm", "reverse", 5),
    "previous-not-fed": (("additive", "previous", False), "lstm", "copy", 5),
}
# what else a row's attention has
WITH: dict[str, dict[str, Any]] = {
    "cosine-bare": {"learn_temperature": False},
    "local_m": {"window": "local_m", "span": 1},
    "local_p": {"window": "local_p", "span": 2},
    "two heads": {"heads": 2},
    "coverage": {"coverage": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUST)
def test_recurrent_models_learn(name: str, recurrent_case: Case) -> None:
    attention, cell, task, longest = MUST[name]
    extra = WITH.get(name, {})
    case = recurrent_case(attention, cell, width=32, embedding=32, tie="all", **extra)
    assert learn(tiny(case), task, longest, 400, 4e-3) >= 0.98


# name: (task, what differs from a Transformer's defaults)
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("reverse", {}),
    "post-norm": ("copy", {"norm": "post"}),
    "sliding": ("reverse", {"encoder": "sliding", "decoder": "sliding", "span": 2}),
    "linear": ("copy", {"encoder": "linear", "decoder": "linear"}),
    "cosine": ("reverse", {"score": "cosine"}),
    "additive": ("copy", {"score": "additive"}),
    "rotary": ("reverse", {"positions": "rotary"}),
    "learned": ("reverse", {"positions": "learned"}),
}


def transformer_learns(make: Case, task: str, steps: int, **changed: Any) -> float:
    case = make(width=32, heads=4, depth=(1, 1), ffn=64, **changed)
    return learn(tiny(case), task, 4, steps, 8e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_learn(name: str, transformer_case: Case) -> None:
    task, changed = TRANSFORMERS[name]
    assert transformer_learns(transformer_case, task, 250, **changed) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("task", ["copy", "reverse"])
def test_a_bag_of_words_has_no_order(task: str, transformer_case: Case) -> None:
    """Without positions, in the steps that nearly suffice with them: single words come right."""
    assert transformer_learns(transformer_case, task, 150, positions="none") < 0.7


@pytest.mark.slow
def test_a_fixed_vector_does_not_hold_a_sentence(recurrent_case: Case) -> None:
    """With the width and the steps that suffice for three words, ten are out of reach."""
    case = recurrent_case(("none", None, None), width=32, embedding=32, tie="all")
    assert learn(tiny(case), "copy", 10, 300, 4e-3) < 0.9


@pytest.mark.slow
def test_a_monotone_window_cannot_reverse(recurrent_case: Case) -> None:
    """In the steps that suffice to copy sequences of eight."""
    attention = MUST["local_m"][0]
    case = recurrent_case(attention, width=32, embedding=32, tie="all", **WITH["local_m"])
    assert learn(tiny(case), "reverse", 8, 300, 4e-3) < 0.7
