"""Scores, the masked softmax, multi-head attention and its cache, each against an oracle."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmt.config import Score as ScoreName
from nmt.models import attention
from nmt.models.attention import (
    SCORES,
    Attention,
    CrossAttention,
    Past,
    SelfAttention,
    attend_heads,
    causal_keep,
    weigh,
)

MustFail = Callable[[Callable[[], None]], None]
TOLERANCE = {"rtol": 0.0, "atol": 1e-10}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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


def test_causal_keep() -> None:
    assert causal_keep(1, 5, torch.device("cpu")) is None
    keep_TM = causal_keep(2, 4, torch.device("cpu"))
    assert keep_TM is not None
    assert keep_TM.tolist() == [[True, True, True, False], [True, True, True, True]]


# --- scores ---------------------------------------------------------------------------------------


def loop(name: str, w: dict[str, Tensor], q: Tensor, h: Tensor) -> float:
    """Luong et al. 2015, Eq. 8; Bahdanau et al. 2015, A.1.2; Vaswani et al. 2017, Eq. 1."""
    width = range(len(q))
    if name in ("dot", "scaled_dot"):
        root = math.sqrt(len(q)) if name == "scaled_dot" else 1.0
        return sum(float(q[d] * h[d]) for d in width) / root
    if name == "general":
        return sum(float(q[i] * w["key.weight"][i, j] * h[j]) for i in width for j in width)
    if name == "additive":
        inner = [
            math.tanh(
                sum(
                    float(w["query.weight"][a, d] * q[d] + w["key.weight"][a, d] * h[d])
                    for d in width
                )
            )
            for a in width
        ]
        return sum(float(w["out.weight"][0, a]) * inner[a] for a in width)
    cosine = sum(float(q[d] * h[d]) for d in width) / float(q.norm() * h.norm())
    return cosine * math.exp(float(w["log_sharpness"]))


def check_score(name: str, keep_BM: Tensor) -> None:
    torch.manual_seed(5)
    score = SCORES[name](6).double()
    query_NTD, values_BMD = randn(6, 2, 6, seed=1), randn(3, 7, 6, seed=2)
    asks = Attention(score=score, dropout=0.0)
    context, weights = asks(query_NTD, score.keys(values_BMD), values_BMD, keep_BM)
    w = score.state_dict()
    for n in range(6):
        kept = values_BMD[n // 2, keep_BM[n // 2]]
        for t in range(2):
            energies = [math.exp(loop(name, w, query_NTD[n, t], h)) for h in kept]
            expected = torch.tensor(energies, dtype=torch.float64) / sum(energies)
            torch.testing.assert_close(weights[n, t, : len(kept)], expected, **TOLERANCE)
            assert not weights[n, t, len(kept) :].any()
            torch.testing.assert_close(context[n, t], expected @ kept, **TOLERANCE)


@pytest.mark.parametrize("name", SCORES)
def test_score(name: str, keep_BM: Tensor) -> None:
    check_score(name, keep_BM)


@pytest.mark.parametrize("name", SCORES)
def test_score_check_notices_a_flipped_mask(
    name: str, keep_BM: Tensor, monkeypatch: pytest.MonkeyPatch, must_fail: MustFail
) -> None:
    monkeypatch.setattr(attention, "weigh", lambda scores, keep: weigh(scores, ~keep))
    must_fail(lambda: check_score(name, keep_BM))


def test_score_check_notices_a_dropped_scale(
    keep_BM: Tensor, monkeypatch: pytest.MonkeyPatch, must_fail: MustFail
) -> None:
    monkeypatch.setattr(attention.ScaledDot, "forward", attention.Dot.forward)
    must_fail(lambda: check_score("scaled_dot", keep_BM))


def test_the_names_are_those_of_the_schema() -> None:
    assert set(SCORES) | {"none"} == {name.value for name in ScoreName}


def test_key_projections_have_no_bias() -> None:
    for kind in SCORES.values():
        assert not [name for name, _ in kind(4).named_parameters() if "bias" in name]
    for heads in (SelfAttention, CrossAttention):
        assert heads(width=4, heads=2, dropout=0.0).inputs.bias is None


# --- multi-head attention -------------------------------------------------------------------------


def check_self_attention(keep_BM: Tensor, *, causal: bool) -> None:
    """Against nn.MultiheadAttention, weights included."""
    torch.manual_seed(6)
    ours = SelfAttention(width=8, heads=2, dropout=0.0).double().eval()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        ours.out.bias.normal_()
        theirs.in_proj_weight.copy_(ours.inputs.weight)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x_BMD = randn(3, 7, 8)
    mask = causal_keep(7, 7, x_BMD.device) if causal else None
    keep = keep_BM[:, None, None, :] & (True if mask is None else mask)
    trace: list[Tensor] = []
    out_BMD = ours(x_BMD, keep, trace=trace)
    expected, weights = theirs(
        x_BMD,
        x_BMD,
        x_BMD,
        key_padding_mask=~keep_BM,
        attn_mask=None if mask is None else ~mask,
        average_attn_weights=False,
    )
    torch.testing.assert_close(out_BMD, expected, **TOLERANCE)
    torch.testing.assert_close(trace[0], weights, **TOLERANCE)
    torch.testing.assert_close(ours(x_BMD, keep), expected, **TOLERANCE)


def check_cross_attention(keep_BM: Tensor) -> None:
    torch.manual_seed(7)
    ours = CrossAttention(width=8, heads=4, dropout=0.0).double().eval()
    theirs = nn.MultiheadAttention(8, 4, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.inputs.weight]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x_NTD, values_BMD = randn(6, 3, 8, seed=1), randn(3, 7, 8, seed=2)
    out_NTD = ours(x_NTD, *ours.keys_values(values_BMD), keep_BM)
    copied = values_BMD.repeat_interleave(2, 0)
    hide = ~keep_BM.repeat_interleave(2, 0)
    expected, _ = theirs(x_NTD, copied, copied, key_padding_mask=hide, need_weights=False)
    torch.testing.assert_close(out_NTD, expected, **TOLERANCE)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(
    keep_BM: Tensor, causal: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "prefers_fused", lambda device: fused)
    check_self_attention(keep_BM, causal=causal)


@pytest.mark.parametrize("fused", [False, True])
def test_cross_attention(keep_BM: Tensor, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "prefers_fused", lambda device: fused)
    check_cross_attention(keep_BM)


def _broken_scale(query: Tensor, *rest: Tensor | None, **how: object) -> Tensor:
    return attend_heads(query * query.shape[-1] ** 0.5, *rest, **how)  # type: ignore[arg-type]


def _broken_mask(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, **how: object) -> Tensor:
        return attend_heads(q, k, v, change(keep), **how)  # type: ignore[arg-type]

    return attend


@pytest.mark.parametrize(
    "broken",
    [_broken_scale, _broken_mask(torch.logical_not), _broken_mask(lambda keep: keep.roll(1, -1))],
    ids=["scale dropped", "mask flipped", "mask shifted"],
)
def test_head_checks_notice(
    keep_BM: Tensor,
    broken: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    monkeypatch.setattr(attention, "attend_heads", broken)
    must_fail(lambda: check_self_attention(keep_BM, causal=False))
    must_fail(lambda: check_self_attention(keep_BM, causal=True))
    must_fail(lambda: check_cross_attention(keep_BM))


def test_both_paths_are_one_function(keep_BM: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, also with a row that may see nothing; and SDPA itself."""
    keep_BM[1] = False
    results = []
    for fused in (False, True):
        monkeypatch.setattr(attention, "prefers_fused", lambda device, fused=fused: fused)
        parts = [randn(3, 2, 5, 4, seed=1), randn(3, 2, 7, 4, seed=2), randn(3, 2, 7, 4, seed=3)]
        for part in parts:
            part.requires_grad_()
        out = attend_heads(*parts, keep_BM[:, None, None, :], dropout=0.0, trace=None)
        results.append([out, *torch.autograd.grad(out.square().sum(), parts)])
        sdpa = F.scaled_dot_product_attention(*parts, attn_mask=keep_BM[:, None, None, :])
        torch.testing.assert_close(out[[0, 2]], sdpa[[0, 2]], **TOLERANCE)
        assert not out[1].any()
    for explicit, fused_result in zip(*results, strict=True):
        assert fused_result.isfinite().all()
        torch.testing.assert_close(explicit, fused_result, **TOLERANCE)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_dropout_only_in_training(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "prefers_fused", lambda device: fused)
    layer = SelfAttention(width=8, heads=2, dropout=0.5).double()
    x = randn(2, 5, 8)
    assert not torch.equal(layer(x, None), layer(x, None))
    layer.eval()
    assert torch.equal(layer(x, None), layer(x, None))


# --- keys and values of the past ------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 2, 9])
@pytest.mark.parametrize("grad", [False, True])
def test_past_is_concatenation(capacity: int, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        past, rows = Past(capacity), torch.tensor([2, 0, 0])
        chunks = [randn(3, 2, t, 4, seed=t) for t in (2, 1, 3, 1)]
        whole = torch.empty(3, 2, 0, 4, dtype=torch.float64)
        for number, chunk in enumerate(chunks):
            whole = torch.cat([whole, chunk], 2)
            keys, values = past.append(chunk.clone(), -chunk)
            assert torch.equal(keys, whole)
            assert torch.equal(values, -whole)
            if number == 1:
                past, whole = past.select(rows), whole[rows]
        for rows in (torch.tensor([1]), torch.tensor([0, 0, 0, 0])):
            past, whole = past.select(rows), whole[rows]
            chunk = randn(len(rows), 2, 1, 4)
            whole = torch.cat([whole, chunk], 2)
            assert torch.equal(past.append(chunk, chunk)[0], whole)


def test_past_is_written_in_place() -> None:
    with torch.no_grad():
        past = Past(5)
        first, _ = past.append(randn(2, 2, 1, 4), randn(2, 2, 1, 4))
        past = past.select(torch.tensor([1, 0]))
        later, _ = past.append(randn(2, 2, 1, 4), randn(2, 2, 1, 4))
    assert first.data_ptr() == later.data_ptr()
