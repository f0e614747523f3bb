"""Positions: the papers' waves and rotations, what is learned, and what none means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.errors import UserError
from nmt.models import positions
from nmt.models.positions import rotate, rotation, sinusoids
from nmt.models.seq2seq import Source
from nmt.models.transformer import Transformer

Case = Callable[..., Any]
Build = Callable[..., Transformer]
MustFail = Callable[[Callable[[], None]], None]
EXACT: dict[str, float] = {"rtol": 0.0, "atol": 1e-10}


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids(width: int) -> None:
    """Vaswani et al. 2017, Sect. 3.5, sines before cosines; any start, any length."""
    place_TD = sinusoids(1_000, 3, width, torch.device("cpu"))
    assert place_TD.shape == (3, width)
    half = (width + 1) // 2
    for t in range(3):
        for d in range(width):
            angle = (1_000 + t) / 10_000 ** (2 * (d % half) / width)
            wave = math.sin(angle) if d < half else math.cos(angle)
            assert place_TD[t, d].item() == pytest.approx(wave, abs=2e-4)


def test_learned_positions_end(build: Build, transformer_case: Case, source: Source) -> None:
    model = build(transformer_case(positions="learned"))
    assert model.max_source_length == model.max_target_length == 16
    model(source, torch.full((3, 16), 5))
    with pytest.raises(UserError, match="17 positions, but the model has learned 16"):
        model(source, torch.full((3, 17), 5))
    unlimited = build(transformer_case())
    assert unlimited.max_source_length is unlimited.max_target_length is None
    unlimited(source, torch.full((3, 40), 5))


# --- rotary ---------------------------------------------------------------------------------------


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check_rotation(start: int) -> None:
    """Su et al. 2021, Eq. 12 and 34: a complex number for each pair, turned by p theta_i."""
    x_NHTd = randn(2, 3, 4, 6)
    turned_NHTd = rotate(x_NHTd, rotation(start, 4, 6, x_NHTd))
    for t in range(4):
        for i in range(3):
            turn = torch.polar(
                torch.ones((), dtype=torch.float64),
                torch.tensor((start + t) / 10_000 ** (2 * i / 6), dtype=torch.float64),
            )
            expected = torch.complex(x_NHTd[:, :, t, i], x_NHTd[:, :, t, i + 3]) * turn
            torch.testing.assert_close(turned_NHTd[:, :, t, i], expected.real, **EXACT)
            torch.testing.assert_close(turned_NHTd[:, :, t, i + 3], expected.imag, **EXACT)


@pytest.mark.parametrize("start", [0, 1, 700])
def test_rotation(start: int) -> None:
    check_rotation(start)


def test_scores_depend_on_the_distance_alone() -> None:
    """One query and one key, at positions of any distance, anywhere."""
    query_d, key_d = randn(8, seed=1), randn(8, seed=2)

    def score(place: int, other: int) -> Tensor:
        query = rotate(query_d.expand(1, 1, 1, 8), rotation(place, 1, 8, query_d))
        key = rotate(key_d.expand(1, 1, 1, 8), rotation(other, 1, 8, query_d))
        return (query * key).sum()

    found = []
    for distance in (-5, 0, 1, 7, 200):
        scores = torch.stack([score(p, p + distance) for p in (5, 6, 100, 5_000)])
        torch.testing.assert_close(scores, scores[:1].expand(4), rtol=0.0, atol=1e-8)
        found.append(scores[0].item())
    assert len({round(number, 6) for number in found}) == 5


def test_rotation_keeps_its_precision() -> None:
    """bf16 queries a thousand words in are turned as exactly as the first ones."""
    x_NHTd = randn(1, 1, 1_000, 8).bfloat16()
    turned = rotate(x_NHTd, rotation(0, 1_000, 8, x_NHTd))
    assert turned.dtype == torch.bfloat16
    expected = rotate(x_NHTd.double(), rotation(0, 1_000, 8, x_NHTd.double()))
    torch.testing.assert_close(turned.double(), expected, rtol=0.01, atol=1e-3)


def test_rotary_self_attention_is_turned_and_nothing_else(
    build: Build, transformer_case: Case, source: Source, tgt_BT: Tensor
) -> None:
    """Moving a target along leaves its self-attention's weights as they are, but not elsewhere."""
    model = build(transformer_case(positions="rotary", depth=(1, 1)))
    keep_BT = torch.ones_like(tgt_BT, dtype=torch.bool)
    layer = model.decoder[0].self_attention
    x_NTD = randn(3, 6, 8)
    weights: list[Tensor] = []
    for start in (0, 1, 50):
        turn = rotation(start, 6, layer.size.head_width, x_NTD)
        layer(x_NTD, layer.mask(keep_BT, 0), turn=turn, trace=weights)
    torch.testing.assert_close(weights[0], weights[1], **EXACT)
    torch.testing.assert_close(weights[0], weights[2], **EXACT)
    layer(x_NTD, layer.mask(keep_BT, 0), trace=weights)
    assert not torch.allclose(weights[0], weights[3])
    embedded = model.target_positions(x_NTD, 0)
    torch.testing.assert_close(embedded, x_NTD * 8**0.5)


@pytest.mark.parametrize("broken", ["halves swapped", "one turn for all", "off by one"])
def test_rotation_checks_notice(
    broken: str, monkeypatch: pytest.MonkeyPatch, must_fail: MustFail
) -> None:
    angles = positions.wave_angles
    changes: dict[str, Callable[..., Tensor]] = {
        "halves swapped": lambda *args: -angles(*args),
        "one turn for all": lambda *args: angles(*args)[:1].expand(args[1], -1),
        "off by one": lambda start, *args: angles(start + 1, *args),
    }
    monkeypatch.setattr(positions, "wave_angles", changes[broken])
    must_fail(lambda: check_rotation(3))


# --- none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "sinusoidal", "learned", "rotary"])
def test_without_positions_an_encoder_sees_a_bag(
    kind: str, build: Build, transformer_case: Case, source: Source, tgt_BT: Tensor
) -> None:
    """Any order of the source gives the same target, so that copying it cannot be learned."""
    model = build(transformer_case(positions=kind))
    ids_BS = source.ids_BS.clone()
    ids_BS[:, :4] = ids_BS[:, [2, 0, 3, 1]]
    keep_BS = source.keep_BS.clone()
    keep_BS[:, :4] = keep_BS[:, [2, 0, 3, 1]]
    before_BTD = model(source, tgt_BT)
    after_BTD = model(Source(ids_BS, keep_BS), tgt_BT)
    assert torch.allclose(before_BTD, after_BTD, **EXACT) == (kind == "none")


def test_without_positions_a_decoder_still_knows_the_past(
    build: Build, transformer_case: Case, source: Source
) -> None:
    """What it may see grows by one with each position, so that order is not lost."""
    model = build(transformer_case(positions="none"))
    tgt_BT = torch.tensor([[4, 5, 6, 7, 8], [5, 4, 6, 7, 8], [4, 5, 6, 7, 8]])
    hidden_BTD = model(Source(source.ids_BS[[0, 0, 0]], source.keep_BS[[0, 0, 0]]), tgt_BT)
    assert not torch.allclose(hidden_BTD[0, -1], hidden_BTD[1, -1])
    torch.testing.assert_close(hidden_BTD[0], hidden_BTD[2], **EXACT)
