"""Sliding attention is full attention under a band mask, whatever the length and the blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nmt.models import multihead, sliding
from nmt.models.attention import SCORES
from nmt.models.multihead import FullSelfAttention, HeadSize
from nmt.models.sliding import Blocks, Recent, SlidingSelfAttention

MustFail = Callable[[Callable[[], None]], None]
EXACT: dict[str, float] = {"rtol": 0.0, "atol": 1e-10}
SIZE = HeadSize(width=8, heads=2, head_width=4, dropout=0.0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(score: str, span: int, *, causal: bool) -> tuple[FullSelfAttention, SlidingSelfAttention]:
    """Full and sliding attention with the same weights."""
    torch.manual_seed(1)
    full = FullSelfAttention(SIZE, SCORES[score](4, 2), causal=causal).double()
    slides = SlidingSelfAttention(SIZE, SCORES[score](4, 2), causal=causal, span=span).double()
    slides.load_state_dict(full.state_dict())
    return full, slides


def band(length: int, span: int, *, causal: bool) -> Tensor:
    """Query t sees key m where |t - m| <= span, and nothing ahead where causal; as a loop."""
    rows = [
        [abs(t - m) <= span and not (causal and m > t) for m in range(length)]
        for t in range(length)
    ]
    return torch.tensor(rows)


def check(score: str, span: int, length: int, *, causal: bool) -> None:
    """Values, gradients and shown weights, with padding."""
    full, slides = pair(score, span, causal=causal)
    lengths = torch.tensor([length, max(1, length - 3), 1])
    keep_BM = torch.arange(length) < lengths[:, None]
    if causal:
        keep_BM = torch.ones_like(keep_BM)
    mask = band(length, span, causal=causal) & keep_BM[:, None, None, :]
    results = []
    for layer, seen in ((full, mask), (slides, slides.mask(keep_BM, 0))):
        x_BMD = randn(3, length, 8).requires_grad_()
        shown: list[Tensor] = []
        traced = layer(x_BMD, seen, trace=shown)
        out = layer(x_BMD, seen)
        torch.testing.assert_close(out, traced, **EXACT)
        inputs = [x_BMD, *layer.parameters()]
        gradients = torch.autograd.grad((out * randn(*out.shape, seed=5)).sum(), inputs)
        results.append([out, shown[0], *gradients])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.fixture(params=[1, 3, 32])
def smallest_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sliding, "SMALLEST_BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("span", [1, 2, 5])
def test_sliding_is_full_attention_in_a_band(
    span: int, causal: bool, fused: bool, smallest_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multihead, "prefers_fused", lambda *_: fused)
    for length in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 33):
        check("scaled_dot", span, length, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("score", ["dot", "general", "additive", "cosine"])
def test_every_score_slides(score: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding, "SMALLEST_BLOCK", 2)
    for length in (5, 8, 11):
        check(score, 2, length, causal=causal)


def test_the_default_block_is_cut_too() -> None:
    for causal in (False, True):
        check("scaled_dot", 10, 75, causal=causal)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("sizes", [[1] * 17, [5, 1, 11], [2, 2, 13], [16, 1], [1, 16], [17]])
def test_any_chunks(sizes: list[int], grad: bool, smallest_block: int) -> None:
    _, layer = pair("scaled_dot", 3, causal=True)
    x_NTD = randn(2, 17, 8)
    keep_NT = torch.ones(2, 17, dtype=torch.bool)
    with torch.set_grad_enabled(grad):
        expected_NTD = layer(x_NTD, layer.mask(keep_NT, 0))
        past, done, out = layer.begin(17), 0, []
        for chunk in x_NTD.split(sizes, 1):
            mask = layer.mask(keep_NT[:, : chunk.shape[1]], done)
            out.append(layer(chunk, mask, past=past))
            done += chunk.shape[1]
        torch.testing.assert_close(torch.cat(out, 1), expected_NTD, **EXACT)


def test_only_what_the_window_sees_is_kept() -> None:
    """However long the prefix, the storage of the cache is that of `span` positions."""
    past = Recent(3)
    for count in (1, 1, 40, 1, 1, 1):
        past.append(randn(2, 2, count, 4), randn(2, 2, count, 4))
    for kept in (past.keys, past.values):
        assert kept is not None
        assert kept.shape == (2, 2, 3, 4)
        assert kept.untyped_storage().nbytes() == 2 * 2 * 3 * 4 * 8
    chosen = past.select(torch.tensor([1, 1, 0])).keys
    assert chosen is not None
    assert past.keys is not None
    assert torch.equal(chosen, past.keys[[1, 1, 0]])


def _moved(change: int) -> Callable[[Blocks, torch.device], Tensor]:
    near = Blocks.near
    return lambda cut, device: near(cut, device).roll(change, -1)


@pytest.mark.parametrize(
    ("target", "name", "broken"),
    [
        (Blocks, "near", _moved(1)),
        (Blocks, "near", lambda cut, device: torch.ones(cut.size, cut.width, dtype=torch.bool)),
        (Blocks, "lead", property(lambda cut: cut.behind - 1)),
        (Blocks, "width", property(lambda cut: cut.behind + cut.size)),
    ],
    ids=["band moved", "band dropped", "windows moved", "windows too short"],
)
def test_checks_notice(
    target: type,
    name: str,
    broken: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sliding, "SMALLEST_BLOCK", 2)
    check("scaled_dot", 2, 11, causal=False)
    monkeypatch.setattr(target, name, broken)
    with pytest.raises((AssertionError, RuntimeError)):
        check("scaled_dot", 2, 11, causal=False)
