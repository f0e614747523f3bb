"""The combinations that the contract tests run over, at widths that keep each test in milliseconds.

Every attention of a recurrent decoder is there with LSTM cells and each kind of decoder with GRU
cells; depth, bridge and tying take turns. The Transformer's norm and positions are crossed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch

from nmt.config import (
    Activation,
    AttentionConfig,
    Bridge,
    Cell,
    ModelConfig,
    ModelKind,
    Norm,
    Positions,
    Score,
    Tie,
    Timing,
)
from nmt.models.build import build_model
from nmt.models.seq2seq import Seq2Seq, Source

VOCAB = 13

# (score, timing, feeding)
ATTENTIONS = [("none", None, None)] + [
    (score, timing, feeding)
    for score in ("dot", "scaled_dot", "general", "additive", "cosine")
    for timing, feeding in (("previous", None), ("current", True), ("current", False))
]
GRU_SCORES = ("none", "additive")
DEPTHS = [(1, 1), (2, 2), (2, 1), (1, 3)]
BRIDGES = ["learned", "last", "zeros"]
TIES = ["decoder", "none", "all"]


def recurrent(
    attention: tuple[str, str | None, bool | None],
    cell: str = "lstm",
    depth: tuple[int, int] = (1, 1),
    bridge: str = "learned",
    tie: str = "decoder",
    width: int = 8,
    embedding: int = 6,
) -> tuple[ModelConfig, AttentionConfig]:
    score, timing, feeding = attention
    model = ModelConfig(
        name=cell,
        kind=ModelKind.lstm,
        cell=Cell(cell),
        encoder_layers=depth[0],
        decoder_layers=depth[1],
        width=width,
        embedding=embedding,
        bridge=Bridge(bridge),
        tie=Tie(tie),
        dropout=0.2,
        attention_dropout=0.1,
    )
    asks = None if timing is None else Timing(timing)
    return model, AttentionConfig(score=Score(score), timing=asks, feeding=feeding)


def transformer(
    norm: str = "pre",
    positions: str = "sinusoidal",
    tie: str = "all",
    depth: tuple[int, int] = (2, 2),
    activation: str = "relu",
    width: int = 8,
    heads: int = 2,
    ffn: int = 12,
) -> tuple[ModelConfig, AttentionConfig]:
    model = ModelConfig(
        name="transformer",
        width=width,
        ffn=ffn,
        heads=heads,
        encoder_layers=depth[0],
        decoder_layers=depth[1],
        norm=Norm(norm),
        positions=Positions(positions),
        max_positions=16,
        tie=Tie(tie),
        activation=Activation(activation),
        dropout=0.2,
        attention_dropout=0.1,
        activation_dropout=0.1,
    )
    return model, AttentionConfig()


def _cases() -> dict[str, tuple[ModelConfig, AttentionConfig]]:
    cases = {}
    decoders = [("lstm", attention) for attention in ATTENTIONS]
    decoders += [("gru", attention) for attention in ATTENTIONS if attention[0] in GRU_SCORES]
    for number, (cell, attention) in enumerate(decoders):
        depth, tie = DEPTHS[number % 4], TIES[number % 3]
        bridge = BRIDGES[(number // 4) % 3]
        if bridge == "last" and depth[1] > depth[0]:
            depth = (2, 2)
        name = "-".join([cell, *map(str, attention), f"{depth[0]}x{depth[1]}", bridge, tie])
        cases[name] = recurrent(attention, cell, depth, bridge, tie)
    shapes = [("all", (1, 2), "relu"), ("none", (2, 1), "gelu"), ("decoder", (1, 1), "relu")]
    for number, (norm, positions) in enumerate(
        product(("pre", "post", "pre"), ("sinusoidal", "learned"))
    ):
        tie, depth, activation = shapes[number % 3]
        name = "-".join(["transformer", norm, positions, tie, f"{depth[0]}x{depth[1]}"])
        cases[name] = transformer(norm, positions, tie, depth, activation)
    return cases


CASES = _cases()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """At these sizes a second thread only waits; on a busy machine that is all the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(CASES))
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    """Every built combination in float64, in evaluation mode."""
    torch.manual_seed(1)
    return sharpen(build_model(*CASES[request.param], VOCAB, VOCAB))


def sharpen(model: Seq2Seq) -> Seq2Seq:
    """Weights large enough for attention to be far from uniform and states far from zero."""
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model


@pytest.fixture
def build() -> Callable[[tuple[ModelConfig, AttentionConfig]], Seq2Seq]:
    """One combination, as `model` makes them."""

    def make(case: tuple[ModelConfig, AttentionConfig]) -> Seq2Seq:
        torch.manual_seed(1)
        return sharpen(build_model(*case, VOCAB, VOCAB))

    return make


@pytest.fixture
def source() -> Source:
    """Three sentences of 6, 4 and 1 tokens, padded to 7."""
    generator = torch.Generator().manual_seed(2)
    ids_BS = torch.randint(4, VOCAB, (3, 7), generator=generator)
    keep_BS = torch.arange(7) < torch.tensor([6, 4, 1])[:, None]
    return Source(ids_BS.masked_fill(~keep_BS, 0), keep_BS)


@pytest.fixture
def tgt_BT() -> torch.Tensor:
    return torch.randint(4, VOCAB, (3, 6), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def recurrent_case() -> Callable[..., tuple[ModelConfig, AttentionConfig]]:
    return recurrent


@pytest.fixture
def transformer_case() -> Callable[..., tuple[ModelConfig, AttentionConfig]]:
    return transformer


@pytest.fixture
def must_fail() -> Callable[[Callable[[], None]], None]:
    """Asserts that a check notices what was broken just before."""

    def run(check: Callable[[], None]) -> None:
        with pytest.raises(AssertionError):
            check()

    return run
