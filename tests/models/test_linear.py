"""Linear attention against its quadratic form, written from the paper's equations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmt.models import linear
from nmt.models.linear import (
    LinearCrossAttention,
    LinearSelfAttention,
    RunningSums,
    Sums,
    feature_map,
)
from nmt.models.multihead import HeadSize, SelfAttention

MustFail = Callable[[Callable[[], None]], None]
EXACT: dict[str, float] = {"rtol": 0.0, "atol": 1e-10}
SIZE = HeadSize(width=8, heads=2, head_width=3, dropout=0.0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def keep_BM() -> Tensor:
    return torch.arange(7) < torch.tensor([7, 4, 1])[:, None]


def loop_context(query_d: Tensor, keys_Md: Tensor, values_Md: Tensor) -> Tensor:
    """Katharopoulos et al. 2020, Eq. 4 with the feature map of Eq. 7: one query, key by key."""
    sums, total = torch.zeros_like(values_Md[0]), torch.zeros((), dtype=query_d.dtype)
    for key_d, value_d in zip(keys_Md, values_Md, strict=True):
        weight = (F.elu(query_d) + 1) @ (F.elu(key_d) + 1)
        sums, total = sums + weight * value_d, total + weight
    return sums / total


def quadratic(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """All weights f(q) f(k), masked and made to sum to one."""
    weights = ((F.elu(query) + 1) @ (F.elu(keys) + 1).transpose(-1, -2)) * mask
    return weights / weights.sum(-1, keepdim=True) @ values


def test_feature_map() -> None:
    x = torch.linspace(-5, 5, 21, dtype=torch.float64)
    torch.testing.assert_close(feature_map(x), F.elu(x) + 1, **EXACT)
    assert feature_map(torch.tensor([-60.0])).item() > 0.0
    assert feature_map(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32


# --- over a whole sequence ------------------------------------------------------------------------


def check_sums(keep_BM: Tensor) -> None:
    query, keys, values = (randn(3, 2, 7, 4, seed=s) for s in (1, 2, 3))
    context = Sums.over(keys, values, keep_BM).read(query)
    for b in range(3):
        for h in range(2):
            for t in range(7):
                kept_keys, kept_values = keys[b, h, keep_BM[b]], values[b, h, keep_BM[b]]
                expected = loop_context(query[b, h, t], kept_keys, kept_values)
                torch.testing.assert_close(context[b, h, t], expected, **EXACT)


def test_sums(keep_BM: Tensor) -> None:
    check_sums(keep_BM)


def test_nothing_to_sum_gives_zeros(keep_BM: Tensor) -> None:
    keep_BM[1] = False
    query, keys, values = (randn(3, 2, 7, 4, seed=s).requires_grad_() for s in (1, 2, 3))
    context = Sums.over(keys, values, keep_BM).read(query)
    assert not context[1].any()
    for gradient in torch.autograd.grad(context.square().sum(), (query, keys, values)):
        assert gradient.isfinite().all()
        assert not gradient[1].any()


def test_layer_is_heads_of_sums(keep_BM: Tensor) -> None:
    """The encoder's layer, its projections and heads of a width of their own."""
    torch.manual_seed(1)
    layer = LinearSelfAttention(SIZE, causal=False).double().eval()
    x_BMD = randn(3, 7, 8)
    query_w, key_w, value_w = layer.inputs.weight.reshape(3, 2, 3, 8)
    contexts = [
        quadratic(x_BMD @ query_w[h].T, x_BMD @ key_w[h].T, x_BMD @ value_w[h].T, keep_BM[:, None])
        for h in range(2)
    ]
    expected_BMD = layer.out(torch.cat(contexts, -1))
    trace: list[Tensor] = []
    out_BMD = layer(x_BMD, layer.mask(keep_BM, 0), trace=trace)
    torch.testing.assert_close(out_BMD, expected_BMD, **EXACT)
    assert trace == []
    assert layer.no_weights


# --- causal ---------------------------------------------------------------------------------------


def check_causal(length: int) -> None:
    """Values and gradients."""
    results = []
    for chunked in (False, True):
        parts = [randn(2, 3, length, 4, seed=s).requires_grad_() for s in (1, 2, 3)]
        if chunked:
            out = RunningSums().append(*parts)
        else:
            out = quadratic(*parts, torch.arange(length)[:, None] >= torch.arange(length))
        loss = (out * randn(*out.shape, seed=4)).sum()
        results.append([out, *torch.autograd.grad(loss, parts)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_causal_is_its_quadratic_form(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CHUNK", chunk)
    for length in (1, 2, 3, 4, 5, 7, 10, 11, 13, 70):
        check_causal(length)


@pytest.mark.parametrize("sizes", [[1] * 13, [5, 1, 7], [12, 1], [13]])
def test_any_chunks(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CHUNK", 4)
    layer = LinearSelfAttention(SIZE, causal=True).double().eval()
    x_NTD, rows = randn(3, 13, 8), torch.tensor([2, 0, 0])
    expected_NTD = layer(x_NTD, None)
    past, out = layer.begin(13), []
    for chunk in x_NTD.split(sizes, 1):
        out.append(layer(chunk, None, past=past))
    torch.testing.assert_close(torch.cat(out, 1), expected_NTD, **EXACT)
    past = past.select(rows)
    after_NTD = layer(x_NTD[rows, :2], None, past=past)
    longer_NTD = layer(torch.cat([x_NTD[rows], x_NTD[rows, :2]], 1), None)
    torch.testing.assert_close(after_NTD, longer_NTD[:, 13:], **EXACT)


def test_sums_stay_in_full_precision() -> None:
    """Under bf16 autocast a sum over a thousand words does not stop growing at 256."""
    layer: SelfAttention = LinearSelfAttention(SIZE, causal=True).eval()
    x_NTD = randn(1, 1_000, 8).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        past = layer.begin(0)
        layer(x_NTD, None, past=past)
        assert isinstance(past, RunningSums)
        assert past.sums is not None
        assert past.sums.keys_BHd.dtype == past.sums.values_BHdd.dtype == torch.float32
        found = past.sums.keys_BHd
    _, keys_NHTd, _ = layer.split(layer.inputs(x_NTD))
    torch.testing.assert_close(found, feature_map(keys_NHTd).sum(2), rtol=1e-2, atol=0.0)


# --- from target to source ------------------------------------------------------------------------


def test_cross_sums_are_taken_once_per_source(
    keep_BM: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hypotheses of a sentence read one row of sums; decoding maps queries only."""
    torch.manual_seed(2)
    layer = LinearCrossAttention(SIZE).double().eval()
    values_BMD, x_NTD = randn(3, 7, 8, seed=1), randn(6, 5, 8, seed=2)
    query_w = layer.query.weight.reshape(2, 3, 8)
    key_w, value_w = layer.inputs.weight.reshape(2, 2, 3, 8)
    copied, keep = values_BMD.repeat_interleave(2, 0), keep_BM.repeat_interleave(2, 0)[:, None]
    contexts = [
        quadratic(x_NTD @ query_w[h].T, copied @ key_w[h].T, copied @ value_w[h].T, keep)
        for h in range(2)
    ]
    sums = layer.remember(values_BMD, keep_BM)
    assert sums.values_BHdd.shape == (3, 2, 3, 3)
    monkeypatch.setattr(Sums, "over", None)
    monkeypatch.setattr(layer, "inputs", None)
    out_NTD = layer(x_NTD, sums, keep_BM)
    torch.testing.assert_close(out_NTD, layer.out(torch.cat(contexts, -1)), **EXACT)


# --- the checks notice ----------------------------------------------------------------------------


MUTATIONS: dict[str, tuple[object, str, object]] = {
    "not divided": (linear, "divide", lambda sums, weights: sums),
    "another feature map": (linear, "feature_map", lambda x: x.exp()),
    "mean divided twice": (linear, "divide", lambda s, w: s / w.unsqueeze(-1) ** 2),
}


@pytest.mark.parametrize("mutation", [*MUTATIONS, "mask dropped", "present hidden", "future seen"])
def test_checks_notice(
    mutation: str, keep_BM: Tensor, monkeypatch: pytest.MonkeyPatch, must_fail: MustFail
) -> None:
    monkeypatch.setattr(linear, "CHUNK", 2)
    if mutation in MUTATIONS:
        monkeypatch.setattr(*MUTATIONS[mutation])
        must_fail(lambda: check_sums(keep_BM))
        must_fail(lambda: check_causal(5))
    elif mutation == "mask dropped":
        over = Sums.over
        monkeypatch.setattr(Sums, "over", lambda k, v, keep: over(k, v, torch.ones_like(keep)))
        must_fail(lambda: check_sums(keep_BM))
    else:
        tril, change = torch.Tensor.tril, {"present hidden": -1, "future seen": 1}[mutation]
        monkeypatch.setattr(torch.Tensor, "tril", lambda pairs: tril(pairs, change))
        must_fail(lambda: check_causal(5))
