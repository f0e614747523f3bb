"""Multi-head attention and its cache, each against an oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmt.models import multihead
from nmt.models.attention import SCORES, Additive, Cosine, General, ScaledDot, Score
from nmt.models.multihead import (
    FullCrossAttention,
    FullSelfAttention,
    HeadSize,
    KeysValues,
    SelfAttention,
    attend_heads,
    causal_keep,
)

MustFail = Callable[[Callable[[], None]], None]
TOLERANCE = {"rtol": 0.0, "atol": 1e-10}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def size(heads: int, head_width: int, dropout: float = 0.0) -> HeadSize:
    return HeadSize(width=8, heads=heads, head_width=head_width, dropout=dropout)


def full_self(heads: int = 2, *, causal: bool = False, dropout: float = 0.0) -> FullSelfAttention:
    head_width = 8 // heads
    score = ScaledDot(head_width, heads)
    return FullSelfAttention(size(heads, head_width, dropout), score, causal=causal).double()


@pytest.fixture
def keep_BM() -> Tensor:
    return torch.arange(7) < torch.tensor([7, 4, 1])[:, None]


def test_causal_keep() -> None:
    assert causal_keep(1, 5, torch.device("cpu")) is None
    keep_TM = causal_keep(2, 4, torch.device("cpu"))
    assert keep_TM is not None
    assert keep_TM.tolist() == [[True, True, True, False], [True, True, True, True]]


def check_self_attention(keep_BM: Tensor, *, causal: bool) -> None:
    """Against nn.MultiheadAttention, weights included."""
    torch.manual_seed(6)
    ours = full_self(causal=causal).eval()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        ours.out.bias.normal_()
        theirs.in_proj_weight.copy_(ours.inputs.weight)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x_BMD = randn(3, 7, 8)
    mask = causal_keep(7, 7, x_BMD.device) if causal else None
    keep = keep_BM[:, None, None, :] & ours.mask(keep_BM, 0)
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
    ours = FullCrossAttention(size(4, 2), ScaledDot(2, 4)).double().eval()
    theirs = nn.MultiheadAttention(8, 4, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.inputs.weight]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x_NTD, values_BMD = randn(6, 3, 8, seed=1), randn(3, 7, 8, seed=2)
    out_NTD = ours(x_NTD, ours.remember(values_BMD, keep_BM), keep_BM)
    copied = values_BMD.repeat_interleave(2, 0)
    hide = ~keep_BM.repeat_interleave(2, 0)
    expected, _ = theirs(x_NTD, copied, copied, key_padding_mask=hide, need_weights=False)
    torch.testing.assert_close(out_NTD, expected, **TOLERANCE)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(
    keep_BM: Tensor, causal: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multihead, "prefers_fused", lambda *_: fused)
    check_self_attention(keep_BM, causal=causal)


@pytest.mark.parametrize("fused", [False, True])
def test_cross_attention(keep_BM: Tensor, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multihead, "prefers_fused", lambda *_: fused)
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
    monkeypatch.setattr(multihead, "attend_heads", broken)
    must_fail(lambda: check_self_attention(keep_BM, causal=False))
    must_fail(lambda: check_self_attention(keep_BM, causal=True))
    must_fail(lambda: check_cross_attention(keep_BM))


def test_both_paths_are_one_function(keep_BM: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, also with a row that may see nothing; and SDPA itself."""
    keep_BM[1] = False
    results = []
    for fused in (False, True):
        monkeypatch.setattr(multihead, "prefers_fused", lambda *_, fused=fused: fused)
        parts = [randn(3, 2, 5, 4, seed=1), randn(3, 2, 7, 4, seed=2), randn(3, 2, 7, 4, seed=3)]
        for part in parts:
            part.requires_grad_()
        score = ScaledDot(4, 2)
        keep = keep_BM[:, None, None, :]
        out = attend_heads(*parts, keep, score=score, dropout=0.0, trace=None)
        results.append([out, *torch.autograd.grad(out.square().sum(), parts)])
        sdpa = F.scaled_dot_product_attention(*parts, attn_mask=keep_BM[:, None, None, :])
        torch.testing.assert_close(out[[0, 2]], sdpa[[0, 2]], **TOLERANCE)
        assert not out[1].any()
    for explicit, fused_result in zip(*results, strict=True):
        assert fused_result.isfinite().all()
        torch.testing.assert_close(explicit, fused_result, **TOLERANCE)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_dropout_only_in_training(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multihead, "prefers_fused", lambda *_: fused)
    layer = full_self(dropout=0.5)
    x = randn(2, 5, 8)
    assert not torch.equal(layer(x, None), layer(x, None))
    layer.eval()
    assert torch.equal(layer(x, None), layer(x, None))


def test_the_choice_of_path_is_by_device_precision_and_length() -> None:
    """The numbers behind it are in the docstring of prefers_fused."""

    def prefers(dtype: torch.dtype, grad: bool, keys: int, dropout: float = 0.0) -> bool:
        query = torch.zeros(1, 1, 1, 4, dtype=dtype, requires_grad=grad)
        return multihead.prefers_fused(query, keys, dropout)

    assert prefers(torch.bfloat16, False, 8)
    assert prefers(torch.float32, True, 8)
    assert not prefers(torch.bfloat16, True, 128)
    assert prefers(torch.bfloat16, True, 512)
    assert not prefers(torch.float32, True, 512, dropout=0.1)
    assert multihead.prefers_fused(torch.zeros(1, 1, 1, 4, device="meta"), 8, 0.1)


# --- every score, in heads of any width -----------------------------------------------------------


def loop_score(score: Score, head: int, query: Tensor, key: Tensor) -> Tensor:
    """One number from one query and one key [d] of a head, by the papers' equations.

    Luong et al. 2015, Eq. 8 (dot, general, concat); Bahdanau et al. 2015, A.1.2 (additive);
    Vaswani et al. 2017, Eq. 1 (scaled dot); the cosine has no equation of its own.
    """
    width = len(query)
    rows = slice(head * width, (head + 1) * width)
    if isinstance(score, General):
        return query @ (score.key.weight[rows] @ key)
    if isinstance(score, Additive):
        sums = score.query.weight[rows] @ query + score.key.weight[rows] @ key
        return score.out.weight[head] @ torch.tanh(sums)
    if isinstance(score, Cosine):
        assert score.log_sharpness is not None
        sharpness = score.log_sharpness.reshape(-1)[head].exp()
        return sharpness * (query @ key) / (query.norm() * key.norm())
    return query @ key / (width**0.5 if isinstance(score, ScaledDot) else 1.0)


def loop_heads(layer: FullSelfAttention, x_BMD: Tensor, keep_BM: Tensor) -> Tensor:
    """Heads of Vaswani et al. 2017, Sect. 3.2.2, one query and one key at a time."""
    heads, width = layer.size.heads, layer.size.head_width
    query_w, key_w, value_w = layer.inputs.weight.reshape(3, heads, width, -1)
    out = []
    for x_MD, keep_M in zip(x_BMD, keep_BM, strict=True):
        for x_D in x_MD:
            contexts = []
            for h in range(heads):
                scores = [loop_score(layer.score, h, query_w[h] @ x_D, key_w[h] @ y) for y in x_MD]
                weights = torch.stack(scores)[keep_M].softmax(0)
                contexts.append(weights @ (x_MD[keep_M] @ value_w[h].T))
            out.append(layer.out(torch.cat(contexts)))
    return torch.stack(out).reshape(x_BMD.shape)


@pytest.mark.parametrize(("heads", "head_width"), [(1, 8), (2, 4), (3, 5)])
@pytest.mark.parametrize("name", ["dot", "scaled_dot", "general", "additive", "cosine"])
def test_every_score_in_heads(name: str, heads: int, head_width: int, keep_BM: Tensor) -> None:
    torch.manual_seed(8)
    score = SCORES[name](head_width, heads)
    layer = FullSelfAttention(size(heads, head_width), score, causal=False).double().eval()
    x_BMD = randn(3, 7, 8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.7)
        expected_BMD = loop_heads(layer, x_BMD, keep_BM)
        out_BMD = layer(x_BMD, layer.mask(keep_BM, 0))
        torch.testing.assert_close(out_BMD, expected_BMD, **TOLERANCE)
        traced_BMD = layer(x_BMD, layer.mask(keep_BM, 0), trace=[])
        torch.testing.assert_close(traced_BMD, expected_BMD, **TOLERANCE)


def test_loops_notice_another_score(keep_BM: Tensor, must_fail: MustFail) -> None:
    layer, x_BMD = full_self().eval(), randn(3, 7, 8)
    for name in ("dot", "cosine", "additive", "general"):
        other = full_self().eval()
        other.load_state_dict(layer.state_dict())
        other.score = SCORES[name](4, 2).double()
        wrong_BMD = loop_heads(other, x_BMD, keep_BM)
        right_BMD = layer(x_BMD, layer.mask(keep_BM, 0))
        must_fail(lambda r=right_BMD, w=wrong_BMD: torch.testing.assert_close(r, w))


@pytest.mark.parametrize("masked", [(1,), (0, 2), (0, 1, 2)])
def test_masked_heads_say_nothing(masked: tuple[int, ...], keep_BM: Tensor) -> None:
    """Michel et al. 2019, Eq. 2: as if the output matrix had zeros there; weights stay."""
    layers: list[SelfAttention] = []
    for heads in ((), masked):
        layer = FullSelfAttention(size(3, 5), ScaledDot(5, 3), causal=False, masked=heads)
        layers.append(layer.double().eval())
    whole, without = layers
    without.load_state_dict(whole.state_dict())
    assert whole.state_dict().keys() == without.state_dict().keys()
    x_BMD, mask = randn(3, 7, 8), whole.mask(keep_BM, 0)
    traces: list[list[Tensor]] = [[], []]
    before_BMD = whole(x_BMD, mask, trace=traces[0])
    out_BMD = without(x_BMD, mask, trace=traces[1])
    assert not torch.allclose(before_BMD, out_BMD)
    torch.testing.assert_close(traces[0][0], traces[1][0])
    with torch.no_grad():
        for head in masked:
            whole.out.weight[:, head * 5 : (head + 1) * 5] = 0.0
    torch.testing.assert_close(whole(x_BMD, mask), out_BMD, **TOLERANCE)


# --- keys and values of the past ------------------------------------------------------------------


MOVES = {1: [2, 0, 0], 2: [0, 2, 1], 3: [0, 1, 2]}  # all rows, some that change places, none


@pytest.mark.parametrize("capacity", [0, 2, 9])
@pytest.mark.parametrize("grad", [False, True])
def test_past_is_concatenation(capacity: int, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        past = KeysValues(capacity)
        chunks = [randn(3, 2, t, 4, seed=t) for t in (2, 1, 3, 1)]
        whole = torch.empty(3, 2, 0, 4, dtype=torch.float64)
        for number, chunk in enumerate(chunks):
            whole = torch.cat([whole, chunk], 2)
            keys, values = past.append(chunk.clone(), -chunk)
            assert torch.equal(keys, whole)
            assert torch.equal(values, -whole)
            if number in MOVES:
                rows = torch.tensor(MOVES[number])
                past, whole = past.select(rows), whole[rows]
        for rows in (torch.tensor([1]), torch.tensor([0, 0, 0, 0])):
            past, whole = past.select(rows), whole[rows]
            chunk = randn(len(rows), 2, 1, 4)
            whole = torch.cat([whole, chunk], 2)
            assert torch.equal(past.append(chunk, chunk)[0], whole)


def test_past_is_written_in_place() -> None:
    with torch.no_grad():
        past = KeysValues(5)
        first, _ = past.append(randn(2, 2, 1, 4), randn(2, 2, 1, 4))
        past = past.select(torch.tensor([1, 0]))
        later, _ = past.append(randn(2, 2, 1, 4), randn(2, 2, 1, 4))
    assert first.data_ptr() == later.data_ptr()
