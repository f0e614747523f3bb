"""Silenced heads are those a model is built without; norms are what a weight of one adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nmt.config import AttentionConfig, ModelConfig
from nmt.errors import UserError
from nmt.models.heads import head_names, masked
from nmt.models.recurrent import AttentiveDecoder, Recurrent, RecurrentMemory
from nmt.models.seq2seq import Seq2Seq, Source
from nmt.models.transformer import EncoderLayer, Transformer, TransformerMemory

Case = tuple[ModelConfig, AttentionConfig]
Build = Callable[[Case], Seq2Seq]


def test_names(
    build: Build, transformer_case: Callable[..., Case], recurrent_case: Callable[..., Case]
) -> None:
    names = head_names(build(transformer_case(depth=(1, 2), heads=2)))
    assert names[:4] == ["encoder.0.0", "encoder.0.1", "decoder.0.0", "decoder.0.1"]
    assert (len(names), names[-1]) == (2 + 4 + 4, "cross.1.1")
    assert head_names(build(recurrent_case(("dot", "current", True)))) == ["cross.0.0"]
    three = recurrent_case(("dot", "current", True), heads=2)
    assert head_names(build(three)) == ["cross.0.0", "cross.0.1"]
    none = build(recurrent_case(("none", None, None)))
    assert head_names(none) == []
    with pytest.raises(UserError, match=r"no head 'cross.0.0'; this model has none"):
        masked(none, ["cross.0.0"]).__enter__()


@pytest.mark.parametrize("names", [["encoder.1.0"], ["cross.0.1", "decoder.1.1"], ["cross.1.0"]])
def test_silenced_as_if_built_so(
    build: Build,
    transformer_case: Callable[..., Case],
    source: Source,
    tgt_BT: torch.Tensor,
    names: list[str],
) -> None:
    whole, without = build(transformer_case()), build(transformer_case(masked_heads=names))
    before = whole(source, tgt_BT)
    with masked(whole, names):
        assert torch.equal(whole(source, tgt_BT), without(source, tgt_BT))
    assert torch.equal(whole(source, tgt_BT), before)
    assert not torch.equal(without(source, tgt_BT), before)
    with pytest.raises(UserError, match=r"this model has encoder\.0\.0 to cross\.1\.1"):
        masked(whole, ["cross.2.0"]).__enter__()


def test_a_recurrent_head_silenced(
    build: Build, recurrent_case: Callable[..., Case], source: Source, tgt_BT: torch.Tensor
) -> None:
    kind: dict[str, Any] = {"heads": 2}
    whole = build(recurrent_case(("dot", "current", True), **kind))
    without = build(recurrent_case(("dot", "current", True), masked_heads=["cross.0.1"], **kind))
    with masked(whole, ["cross.0.1"]):
        assert torch.equal(whole(source, tgt_BT), without(source, tgt_BT))
        assert whole.explain(source, tgt_BT).norms["cross"][:, :, 1].max() == 0.0
    assert not torch.equal(whole(source, tgt_BT), without(source, tgt_BT))


@torch.no_grad()
def test_norms_of_a_transformer(
    build: Build, transformer_case: Callable[..., Case], source: Source, tgt_BT: torch.Tensor
) -> None:
    """Where one slot alone is seen and one head alone is heard, what is added is f(x)."""
    model = build(transformer_case(positions="rotary"))
    assert isinstance(model, Transformer)
    found = model.explain(source, tgt_BT).norms
    layer = model.encoder[0]
    assert isinstance(layer, EncoderLayer)
    x_BSD = layer.self_residual.norm(model.source_positions(model.embed_source(source), 0))
    attention = layer.self_attention
    for head, slot in ((0, 0), (1, 3)):
        keep_BS = torch.zeros_like(source.keep_BS)
        keep_BS[:, slot] = True
        with masked(model, [f"encoder.0.{1 - head}"]):
            added_BSD = attention(x_BSD, attention.mask(keep_BS, 0)) - attention.out.bias
        torch.testing.assert_close(found["encoder"][0, :, head, slot], added_BSD[:, 0].norm(dim=-1))
    assert found["encoder"].shape == (2, 3, 2, 7)
    assert found["decoder"].shape == (2, 3, 2, 6)
    memory = model.encode(source)
    assert isinstance(memory, TransformerMemory)
    for number, name in ((0, "cross.0"), (1, "cross.1")):
        cross = model.attentions()["cross"][number]
        with masked(model, [f"{name}.0"]):
            keep_BS = torch.arange(7).expand(3, 7) == 2
            added = cross(x_BSD[:, :1], memory.layers[number], keep_BS) - cross.out.bias
        torch.testing.assert_close(found["cross"][number, :, 1, 2], added[:, 0].norm(dim=-1))


@torch.no_grad()
def test_norms_of_recurrent_memories(
    build: Build, recurrent_case: Callable[..., Case], source: Source, tgt_BT: torch.Tensor
) -> None:
    """One head reads states as they are; several project them."""
    for heads in (None, 2):
        model = build(recurrent_case(("additive", "previous", None), heads=heads))
        assert isinstance(model, Recurrent)
        assert isinstance(model.decoder, AttentiveDecoder)
        norms = model.explain(source, tgt_BT).norms["cross"]
        states_BSD, _ = model.encoder(model.embed_source(source), source.keep_BS)
        if heads is None:
            torch.testing.assert_close(norms[0, :, 0], states_BSD.norm(dim=-1))
            continue
        memory = model.encode(source)
        assert isinstance(memory, RecurrentMemory)
        attention = model.decoder.attention
        memory.keep_BM = torch.arange(7).expand(3, 7) == 1
        with masked(model, ["cross.0.0"]):
            assert memory.projected is not None
            context, _ = attention(states_BSD[:, :1], memory.projected, memory, None)
        torch.testing.assert_close(norms[0, :, 1, 1], context[:, 0].norm(dim=-1))


def test_no_norms_without_weights(
    build: Build, transformer_case: Callable[..., Case], source: Source, tgt_BT: torch.Tensor
) -> None:
    model = build(transformer_case(encoder="linear"))
    assert sorted(model.explain(source, tgt_BT).norms) == ["cross", "decoder"]
