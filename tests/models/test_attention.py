"""Scores and the masked softmax, each against an oracle."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from nmt.config import AttentionConfig, ModelConfig, ModelKind, Timing, Window
from nmt.config import Score as ScoreName
from nmt.models import attention
from nmt.models.attention import SCORES, Cosine, Location, PerHead, Score, weigh
from nmt.models.build import build_model
from nmt.models.recurrent_attention import Attention, Heads
from nmt.models.seq2seq import Memory, Source

MustFail = Callable[[Callable[[], None]], None]
TOLERANCE = {"rtol": 0.0, "atol": 1e-10}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def keep_BM() -> Tensor:
    return torch.arange(7) < torch.tensor([7, 4, 1])[:, None]


# --- the masked softmax ---------------------------------------------------------------------------


def test_weigh_is_the_softmax_of_what_is_kept() -> None:
    scores = randn(3, 5) * 4
    keep = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    weights = weigh(scores, keep)
    for row in range(3):
        torch.testing.assert_close(weights[row, keep[row]], scores[row, keep[row]].softmax(-1))
    assert (weights[~keep] == 0).all()
    assert torch.equal(weigh(scores, None), scores.softmax(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_weigh_has_no_nan(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1e4, -1e4, 0.0], [3.0, 2.0, 1.0]], dtype=dtype, requires_grad=True)
    weights = weigh(scores, torch.tensor([[True, True, True], [False, False, False]]))
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert weights.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    weights.square().sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[1].any()


# --- scores ---------------------------------------------------------------------------------------


def inner_sum(w: dict[str, Tensor], q: Tensor, k: Tensor, a: int) -> float:
    """Row a of W q + U k."""
    return sum(
        float(w["query.weight"][a, d] * q[d] + w["key.weight"][a, d] * k[d]) for d in range(len(q))
    )


def location(w: dict[str, Tensor], j: int, previous: Tensor, a: int) -> float:
    """Row a of P f_j + b, f = F * previous (Chorowski et al. 2015, Eq. 8 and 9)."""
    filters, taps = w["convolution.weight"].shape[0], w["convolution.weight"].shape[2]
    total = float(w["offset"][0, 0, a])
    for number in range(filters):
        for tap in range(taps):
            place = j + tap - taps // 2
            if 0 <= place < len(previous):
                total += float(
                    w["feature.weight"][a, number]
                    * w["convolution.weight"][number, 0, tap]
                    * previous[place]
                )
    return total


def loop(name: str, w: dict[str, Tensor], q: Tensor, k: Tensor, j: int, previous: Tensor) -> float:
    """Score of one head's query q and slot k, the memory's j-th, from that head's weights.

    Luong et al. 2015, Eq. 8; Bahdanau et al. 2015, A.1.2; Vaswani et al. 2017, Eq. 1; Chorowski et
    al. 2015, Eq. 9, which alone reads `previous`, the weights of the step before.
    """
    width = range(len(q))
    if name in ("dot", "scaled_dot"):
        root = math.sqrt(len(q)) if name == "scaled_dot" else 1.0
        return sum(float(q[d] * k[d]) for d in width) / root
    if name == "general":
        return sum(float(q[i] * w["key.weight"][i, j] * k[j]) for i in width for j in width)
    if name in ("additive", "location"):
        inner = [inner_sum(w, q, k, a) for a in width]
        if name == "location":
            inner = [inner[a] + location(w, j, previous, a) for a in width]
        return sum(float(w["out.weight"][0, a]) * math.tanh(inner[a]) for a in width)
    cosine = sum(float(q[d] * k[d]) for d in width) / float(q.norm() * k.norm())
    return cosine * (math.exp(float(w["log_sharpness"])) if "log_sharpness" in w else 1.0)


def check_score(name: str, heads: int, score: Score) -> None:
    """Each of the scores of two rows with two queries and five slots, one head after the other."""
    with torch.no_grad():
        for parameter in score.parameters():
            parameter.copy_(randn(*parameter.shape, seed=parameter.numel()))
    query_BHTd, slots_BHMd = randn(2, heads, 2, 4, seed=1), randn(2, heads, 5, 4, seed=2)
    previous_BHM = randn(2, heads, 5, seed=3).softmax(-1)
    keys_BHMd = score.keys(slots_BHMd)
    if isinstance(score, Location):
        inner_BHTMd = score.inner(previous_BHM).unsqueeze(2)
        found_BHTM = score.compare(score.queries(query_BHTd), keys_BHMd, inner_BHTMd)
    else:
        found_BHTM = score(query_BHTd, keys_BHMd)
    for b, head, t, m in product(range(2), range(heads), range(2), range(5)):
        own = {
            key: value if value.dim() == 0 else value.chunk(heads)[head]
            for key, value in score.state_dict().items()
        }
        q, k = query_BHTd[b, head, t], slots_BHMd[b, head, m]
        expected = loop(name, own, q, k, m, previous_BHM[b, head])
        assert abs(found_BHTM[b, head, t, m].item() - expected) < 1e-10


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("name", SCORES)
def test_score(name: str, heads: int) -> None:
    check_score(name, heads, SCORES[name](4, heads).double())


@pytest.mark.parametrize("heads", [1, 3])
def test_bare_cosine(heads: int) -> None:
    score = Cosine(4, heads, learn_temperature=False).double()
    assert not list(score.parameters())
    check_score("cosine", heads, score)


def test_one_head_has_the_papers_shapes() -> None:
    """Checkpoints hold these names and shapes."""
    shapes = {
        "additive": {"query.weight": (6, 6), "key.weight": (6, 6), "out.weight": (1, 6)},
        "general": {"key.weight": (6, 6)},
        "cosine": {"log_sharpness": ()},
        "dot": {},
        "scaled_dot": {},
    }
    for name, expected in shapes.items():
        held = SCORES[name](6, 1).state_dict()
        assert {key: tuple(value.shape) for key, value in held.items()} == expected


def test_score_check_notices_a_dropped_scale(
    monkeypatch: pytest.MonkeyPatch, must_fail: MustFail
) -> None:
    monkeypatch.setattr(attention.ScaledDot, "queries", attention.Dot.queries)
    must_fail(lambda: test_score("scaled_dot", 3))


def test_score_check_notices_shared_heads(
    monkeypatch: pytest.MonkeyPatch, must_fail: MustFail
) -> None:
    """Mutation: each head uses the weights of the next."""
    apply = PerHead.forward
    monkeypatch.setattr(PerHead, "forward", lambda me, x: apply(me, x.roll(1, 1)).roll(-1, 1))
    for name in ("general", "additive", "location"):
        must_fail(lambda name=name: test_score(name, 3))


def test_the_names_are_those_of_the_schema() -> None:
    assert set(SCORES) | {"none"} == {name.value for name in ScoreName}


def test_key_projections_have_no_bias() -> None:
    for kind in SCORES.values():
        assert not [name for name, _ in kind(4, 2).named_parameters() if "bias" in name]


@pytest.mark.parametrize("name", SCORES)
def test_products_are_products(name: str) -> None:
    """What a score says of itself, so that a fused kernel may take the place of `compare`."""
    score = SCORES[name](4, 2).double()
    queries, keys = score.queries(randn(2, 2, 3, 4)), score.keys(randn(2, 2, 5, 4, seed=1))
    if score.is_product:
        torch.testing.assert_close(score.compare(queries, keys), queries @ keys.mT, **TOLERANCE)
    else:
        assert isinstance(score, attention.Additive)


# --- an attention of several heads ----------------------------------------------------------------


def check_heads(keep_BM: Tensor) -> None:
    """Against torch.nn.MultiheadAttention, padding included."""
    torch.manual_seed(3)
    asks = Attention(
        score=SCORES["scaled_dot"](4, 3), dropout=0.0, heads=Heads(width=12, heads=3, head_width=4)
    ).double()
    assert asks.heads is not None
    theirs = nn.MultiheadAttention(12, 3, bias=False, batch_first=True).double()
    with torch.no_grad():
        weights = [asks.heads.query.weight, asks.heads.inputs.weight]
        theirs.in_proj_weight.copy_(torch.cat(weights))
        theirs.out_proj.weight.copy_(asks.heads.out.weight)
    query_BTD, states_BMD = randn(3, 5, 12, seed=1), randn(3, 7, 12, seed=2)
    memory = Memory(keep_BM=keep_BM, stream_BM=keep_BM, position_BM=keep_BM)
    trace: list[Tensor] = []
    context_BTD, history = asks(query_BTD, asks.project(states_BMD), memory, None, trace)
    expected_BTD, expected_BHTM = theirs(
        query_BTD, states_BMD, states_BMD, key_padding_mask=~keep_BM, average_attn_weights=False
    )
    assert history is None
    torch.testing.assert_close(context_BTD, expected_BTD, **TOLERANCE)
    torch.testing.assert_close(trace[0], expected_BHTM, **TOLERANCE)


def test_heads(keep_BM: Tensor) -> None:
    check_heads(keep_BM)


def test_heads_check_notices_a_flipped_mask(
    keep_BM: Tensor, monkeypatch: pytest.MonkeyPatch, must_fail: MustFail
) -> None:
    monkeypatch.setattr(attention, "weigh", lambda scores, keep: weigh(scores, ~keep))
    must_fail(lambda: check_heads(keep_BM))


# --- the worked example ---------------------------------------------------------------------------


def test_add_your_own_attention(monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    """The block in the README runs, and its score works in both families of models."""
    page = (Path(attention.__file__).parent / "README.md").read_text(encoding="utf-8")
    section = page.split("## Add your own attention")[1]
    (block,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert block.count("\n") <= 35
    monkeypatch.setitem(SCORES, "gaussian", None)
    names: dict[str, Any] = {}
    exec(block, names)
    score, weights_BHTM = names["score"], names["weights_BHTM"]
    torch.testing.assert_close(weights_BHTM.sum(-1), torch.ones(1, 2, 3))
    assert not weights_BHTM[..., 4].any()
    projected = names["states_BHTd"][0, 1, 2] @ score.query.weight[8:].T
    near = torch.exp(-(projected - names["words_BHMd"][0, 1, :4]).square().sum(-1) / 8)
    torch.testing.assert_close(weights_BHTM[0, 1, 2, :4], near / near.sum())

    gaussian = cast(ScoreName, SimpleNamespace(value="gaussian"))  # as if the schema had it
    small = ModelConfig(width=8, heads=2, ffn=8, encoder_layers=1, decoder_layers=1, embedding=6)
    for model, choice in (
        (
            replace(small, kind=ModelKind.lstm),
            AttentionConfig(timing=Timing.current, window=Window.local_p, heads=2),
        ),
        (small, AttentionConfig()),
    ):
        built = build_model(model, replace(choice, score=gaussian), 13, 13)
        cross = built.explain(source, source.ids_BS).cross
        assert cross is not None
        assert cross.shape == (1, 3, 2, 7, 7)
        assert any(isinstance(part, names["Gaussian"]) for part in built.modules())
