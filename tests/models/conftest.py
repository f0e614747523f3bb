"""The combinations that the contract tests run over, at widths that keep each test in milliseconds.

Recurrent decoders: each score with each way to ask and to feed, and of window, heads, coverage and
cell each value with each value of every other axis (a pairwise covering set); depth, bridge and
tying take turns. Transformers: a pairwise covering set of score, patterns, positions, norm and head
width; depth, activation and tying take turns.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from types import ModuleType
from typing import Any

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
    Pattern,
    Positions,
    Score,
    Tie,
    Timing,
    Window,
)
from nmt.errors import UserError
from nmt.models.build import build_model, check_pair
from nmt.models.recurrent import AttentiveDecoder, Recurrent
from nmt.models.recurrent_attention import LocalM, LocalP
from nmt.models.seq2seq import Seq2Seq, Source

VOCAB = 13

# score (or the cosine without temperature), timing and feeding, and what goes with any of them
RECURRENT_AXES: dict[str, Sequence[Any]] = {
    "score": ["dot", "scaled_dot", "general", "additive", "cosine", "bare cosine", "location"],
    "asks": [("previous", None), ("previous", False), ("current", True), ("current", False)],
    "window": ["full", "local_m", "local_p"],
    "heads": [None, 2, 3],
    "coverage": [False, True],
    "cell": ["lstm", "gru"],
}
# The head width is the width's equal share or, against it, six.
TRANSFORMER_AXES: dict[str, Sequence[Any]] = {
    "score": ["dot", "scaled_dot", "general", "additive", "cosine"],
    "encoder": ["full", "sliding", "linear"],
    "decoder": ["full", "sliding", "linear"],
    "cross": ["full", "linear"],
    "positions": ["sinusoidal", "learned", "rotary", "none"],
    "norm": ["pre", "post"],
    "head_width": [None, 6],
}
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
    *,
    window: str = "full",
    span: int = 2,
    heads: int | None = None,
    head_width: int | None = None,
    coverage: bool = False,
    learn_temperature: bool | None = None,
    masked_heads: Sequence[str] = (),
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
        head_width=head_width,
    )
    return model, AttentionConfig(
        score=Score(score),
        timing=None if timing is None else Timing(timing),
        feeding=feeding,
        window=Window(window),
        span=span,
        heads=heads,
        coverage=coverage,
        learn_temperature=learn_temperature,
        masked_heads=list(masked_heads),
    )


def attentive(
    score: str, asks: tuple[str, bool | None], heads: int | None, **others: Any
) -> tuple[ModelConfig, AttentionConfig]:
    """A point of RECURRENT_AXES; three heads, which do not divide the width, have their own."""
    return recurrent(
        (score.removeprefix("bare "), *asks),
        heads=heads,
        head_width=5 if heads == 3 else None,
        learn_temperature=False if score == "bare cosine" else None,
        **others,
    )


def is_built(point: dict[str, Any]) -> bool:
    try:
        check_pair(*attentive(**point))
    except UserError:
        return False
    return True


def pairwise(
    axes: dict[str, Sequence[Any]], allowed: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Points that hold every pair of values of two axes that any allowed point holds."""
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    pairs = [set(combinations(point.items(), 2)) for point in points if allowed(point)]
    missing: set[Any] = set().union(*pairs)
    chosen = []
    while missing:
        best = max(pairs, key=lambda held: len(held & missing))
        missing -= best
        chosen.append(dict(item for pair in best for item in pair))
    return [{name: point[name] for name in axes} for point in chosen]


def transformer(
    norm: str = "pre",
    positions: str = "sinusoidal",
    tie: str = "all",
    depth: tuple[int, int] = (2, 2),
    activation: str = "relu",
    width: int = 8,
    heads: int = 2,
    ffn: int = 12,
    *,
    score: str = "scaled_dot",
    encoder: str = "full",
    decoder: str = "full",
    cross: str = "full",
    span: int = 2,
    head_width: int | None = None,
    masked_heads: Sequence[str] = (),
) -> tuple[ModelConfig, AttentionConfig]:
    model = ModelConfig(
        name="transformer",
        width=width,
        ffn=ffn,
        heads=heads,
        head_width=head_width,
        encoder_layers=depth[0],
        decoder_layers=depth[1],
        norm=Norm(norm),
        positions=Positions(positions),
        max_positions=16,
        tie=Tie(tie),
        activation=Activation(activation),
        dropout=0.2,
        attention_dropout=0.0 if encoder == decoder == cross == "linear" else 0.1,
        activation_dropout=0.1,
    )
    return model, AttentionConfig(
        score=Score(score),
        encoder=Pattern(encoder),
        decoder=Pattern(decoder),
        cross=Pattern(cross),
        span=span,
        masked_heads=list(masked_heads),
    )


def is_transformer(point: dict[str, Any]) -> bool:
    try:
        check_pair(*transformer(**point))
    except UserError:
        return False
    return True


def _cases() -> dict[str, tuple[ModelConfig, AttentionConfig]]:
    cases = {}
    points: list[dict[str, Any]] = [{"score": "none", "cell": cell} for cell in ("lstm", "gru")]
    points += pairwise(RECURRENT_AXES, is_built)
    for number, point in enumerate(points):
        depth, tie = DEPTHS[number % 4], TIES[number % 3]
        bridge = BRIDGES[(number // 4) % 3]
        if bridge == "last" and depth[1] > depth[0]:
            depth = (2, 2)
        shape = {"depth": depth, "bridge": bridge, "tie": tie}
        if point["score"] == "none":
            case = recurrent(("none", None, None), point["cell"], **shape)
        else:
            case = attentive(**point, **shape)
        name = "-".join(str(value) for value in [*point.values(), *depth, bridge, tie])
        cases[name.translate(str.maketrans(" ", "_", "(',)"))] = case
    shapes = [("all", (1, 2), "relu"), ("none", (2, 1), "gelu"), ("decoder", (2, 2), "relu")]
    for number, point in enumerate(pairwise(TRANSFORMER_AXES, is_transformer)):
        tie, depth, activation = shapes[number % 3]
        words = ["transformer", *point.values(), tie, f"{depth[0]}x{depth[1]}"]
        cases["-".join(map(str, words))] = transformer(
            **point, tie=tie, depth=depth, activation=activation
        )
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
def cross_seen() -> Callable[[Seq2Seq, torch.Tensor, int], tuple[torch.Tensor, bool]]:
    """What a model's cross-attention may see, [B, T, M], and whether weights sum to one."""

    def see(model: Seq2Seq, keep_BM: torch.Tensor, count: int) -> tuple[torch.Tensor, bool]:
        keep_BTM = keep_BM[:, None, :].expand(-1, count, -1)
        if isinstance(model, Recurrent) and isinstance(model.decoder, AttentiveDecoder):
            window = model.decoder.attention.window
            if isinstance(window, LocalM):
                away = torch.arange(keep_BM.shape[1]) - torch.arange(count)[:, None]
                return keep_BTM & (away.abs() <= window.span), True
            return keep_BTM, not isinstance(window, LocalP)
        return keep_BTM, True

    return see


@pytest.fixture(scope="session")
def recurrent_reference() -> ModuleType:
    """The module that decodes in NumPy."""
    path = Path(__file__).with_name("recurrent_reference.py")
    spec = importlib.util.spec_from_file_location("recurrent_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
