"""The Transformer against PyTorch's own layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.models import multihead, positions
from nmt.models.attention import weigh
from nmt.models.positions import sinusoids
from nmt.models.seq2seq import Source
from nmt.models.transformer import Transformer

Case = Callable[..., Any]
Build = Callable[..., Transformer]
MustFail = Callable[[Callable[[], None]], None]
WIDTH, HEADS, FFN = 8, 2, 12


def copy_attention(theirs: nn.MultiheadAttention, weight: Tensor, out: nn.Linear) -> None:
    theirs.in_proj_weight.copy_(weight)
    theirs.in_proj_bias.zero_()
    theirs.out_proj.load_state_dict(out.state_dict())


def reference(model: Transformer, source: Source, tgt_BT: Tensor, norm: str) -> Tensor:
    """Hidden states by nn.TransformerEncoderLayer and nn.TransformerDecoderLayer."""
    how: dict[str, Any] = {
        "dropout": 0.0,
        "activation": "relu",
        "batch_first": True,
        "norm_first": norm == "pre",
        "dtype": torch.float64,
    }

    def embed(table: nn.Embedding, ids: Tensor) -> Tensor:
        x = table(ids) * math.sqrt(WIDTH)
        for place in range(ids.shape[1]):
            for i in range(WIDTH // 2):
                angle = place / 10_000 ** (2 * i / WIDTH)
                x[:, place, i] += math.sin(angle)
                x[:, place, WIDTH // 2 + i] += math.cos(angle)
        return x

    assert model.source_embedding is not None
    memory = embed(model.source_embedding, source.ids_BS)
    for ours in model.encoder:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FFN, **how).eval()
        copy_attention(layer.self_attn, ours.self_attention.inputs.weight, ours.self_attention.out)
        layer.linear1.load_state_dict(ours.feed_forward.up.state_dict())
        layer.linear2.load_state_dict(ours.feed_forward.down.state_dict())
        layer.norm1.load_state_dict(ours.self_residual.norm.state_dict())
        layer.norm2.load_state_dict(ours.feed_residual.norm.state_dict())
        memory = layer(memory, src_key_padding_mask=~source.keep_BS)
    memory = model.encoder_norm(memory)
    x = embed(model.target_embedding, tgt_BT)
    hide = torch.ones(tgt_BT.shape[1], tgt_BT.shape[1], dtype=torch.bool).triu(1)
    for ours in model.decoder:
        layer = nn.TransformerDecoderLayer(WIDTH, HEADS, FFN, **how).eval()
        copy_attention(layer.self_attn, ours.self_attention.inputs.weight, ours.self_attention.out)
        cross = ours.cross_attention
        joined = torch.cat([cross.query.weight, cross.inputs.weight])
        copy_attention(layer.multihead_attn, joined, cross.out)
        layer.linear1.load_state_dict(ours.feed_forward.up.state_dict())
        layer.linear2.load_state_dict(ours.feed_forward.down.state_dict())
        layer.norm1.load_state_dict(ours.self_residual.norm.state_dict())
        layer.norm2.load_state_dict(ours.cross_residual.norm.state_dict())
        layer.norm3.load_state_dict(ours.feed_residual.norm.state_dict())
        x = layer(x, memory, tgt_mask=hide, memory_key_padding_mask=~source.keep_BS)
    return model.decoder_norm(x)


@torch.no_grad()
def check(model: Transformer, source: Source, tgt_BT: Tensor, norm: str) -> None:
    hidden_BTD = model(source, tgt_BT)
    # Positions are computed in fp32, whatever the model's precision.
    expected_BTD = reference(model, source, tgt_BT, norm)
    torch.testing.assert_close(hidden_BTD, expected_BTD, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_parity(
    build: Build,
    transformer_case: Case,
    source: Source,
    tgt_BT: Tensor,
    norm: str,
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multihead, "prefers_fused", lambda *_: fused)
    model = build(transformer_case(norm, tie="none", depth=(2, 3)))
    check(model, source, tgt_BT, norm)


def shift(keep: Tensor | None) -> Tensor | None:
    return None if keep is None else keep.roll(1, -1)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "mask flipped": lambda patch: patch.setattr(
        multihead, "weigh", lambda x, keep: weigh(x, None if keep is None else ~keep)
    ),
    "mask shifted": lambda patch: patch.setattr(
        multihead, "weigh", lambda x, keep: weigh(x, shift(keep))
    ),
    "future seen": lambda patch: patch.setattr(
        multihead, "causal_keep", lambda queries, keys, device: None
    ),
    "scale dropped": lambda patch: patch.setattr(
        multihead, "weigh", lambda x, keep: weigh(x * (WIDTH // HEADS) ** 0.5, keep)
    ),
    "positions off by one": lambda patch: patch.setattr(
        positions, "sinusoids", lambda start, *rest: sinusoids(start + 1, *rest)
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_parity_notices(
    build: Build,
    transformer_case: Case,
    source: Source,
    tgt_BT: Tensor,
    norm: str,
    mutation: str,
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    model = build(transformer_case(norm, tie="none"))
    check(model, source, tgt_BT, norm)
    monkeypatch.setattr(multihead, "prefers_fused", lambda *_: False)
    MUTATIONS[mutation](monkeypatch)
    must_fail(lambda: check(model, source, tgt_BT, norm))


def test_norms_matter_to_parity(
    build: Build, transformer_case: Case, source: Source, tgt_BT: Tensor, must_fail: MustFail
) -> None:
    model = build(transformer_case("pre", tie="none"))
    must_fail(lambda: check(model, source, tgt_BT, "post"))


@torch.no_grad()
def test_masked_heads_are_those_named(
    build: Build, transformer_case: Case, source: Source, tgt_BT: Tensor
) -> None:
    """Place, layer and head: as if the output matrix had zeros there (Michel et al. 2019)."""
    names = ["encoder.0.1", "decoder.2.0", "cross.1.0", "cross.1.1", "cross.2.1"]
    case = {"depth": (2, 3), "head_width": 3}
    masked = build(transformer_case(**case, masked_heads=names))
    model = build(transformer_case(**case))
    assert model.state_dict().keys() == masked.state_dict().keys()
    outputs = {
        "encoder": [layer.self_attention.out.weight for layer in model.encoder],
        "decoder": [layer.self_attention.out.weight for layer in model.decoder],
        "cross": [layer.cross_attention.out.weight for layer in model.decoder],
    }
    for name in names:
        place, layer, head = name.split(".")
        before_BTD = model(source, tgt_BT)
        outputs[place][int(layer)][:, 3 * int(head) : 3 * int(head) + 3] = 0.0
        assert not torch.allclose(before_BTD, model(source, tgt_BT))
    torch.testing.assert_close(masked(source, tgt_BT), model(source, tgt_BT))


def test_a_fresh_model_is_unsure(build: Build, transformer_case: Case) -> None:
    """Logits of a new model are near zero-mean and of order one, tied or not."""
    from nmt.models.build import build_model

    for tie in ("none", "all"):
        torch.manual_seed(0)
        model = build_model(*transformer_case(tie=tie, width=64, heads=4), 200, 200).eval()
        ids = torch.randint(4, 200, (4, 10))
        logits = model.project(model(Source(ids, torch.ones_like(ids, dtype=torch.bool)), ids))
        assert 0.3 < logits.std().item() < 2.5
