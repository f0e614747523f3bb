"""What is built, what is refused and why; sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from nmt.config import (
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
    Window,
)
from nmt.errors import UserError
from nmt.models.build import build_model, check_pair, count_parameters
from nmt.models.seq2seq import Seq2Seq, Source

Case = Callable[..., Any]


def attentions() -> list[AttentionConfig]:
    return [
        AttentionConfig(score=score, timing=timing, feeding=feeding, window=window)
        for score, timing, feeding, window in product(
            Score, (None, *Timing), (None, True, False), Window
        )
    ]


def recurrent_models() -> list[ModelConfig]:
    return [
        ModelConfig(
            kind=ModelKind.lstm,
            cell=cell,
            bridge=bridge,
            encoder_layers=encoder,
            decoder_layers=decoder,
            width=width,
            embedding=6,
        )
        for cell, bridge, (encoder, decoder), width in product(
            Cell, Bridge, ((1, 1), (2, 1), (1, 2)), (8, 7)
        )
    ]


def transformers() -> list[ModelConfig]:
    return [
        ModelConfig(
            kind=ModelKind.transformer,
            norm=norm,
            positions=positions,
            tie=tie,
            width=8,
            ffn=8,
            heads=heads,
            encoder_layers=1,
            decoder_layers=2,
            max_positions=9,
        )
        for norm, positions, tie, heads in product(Norm, Positions, Tie, (1, 2, 3))
    ]


def run_on_meta(module: Seq2Seq) -> None:
    with torch.device("meta"):
        ids = torch.zeros(2, 3, dtype=torch.long)
        source = Source(ids, torch.ones(2, 3, dtype=torch.bool))
        logits = module.project(module(source, ids[:, :1]))
    assert logits.is_meta
    assert logits.shape == (2, 1, 11)


def counted(models: list[ModelConfig]) -> tuple[int, int]:
    """Builds each pair on the meta device and runs most there, or sees it refused."""
    built = refused = 0
    for model, attention in product(models, attentions()):
        try:
            check_pair(model, attention)
        except UserError:
            refused += 1
            with pytest.raises(UserError, match=r".{40}"):
                build_model(model, attention, 11, 11)
            continue
        built += 1
        with torch.device("meta"):
            module = build_model(model, attention, 11, 11)
        if model.bridge == "learned" and model.encoder_layers == 1:
            run_on_meta(module)
    return built, refused


def test_every_transformer_is_built_or_refused() -> None:
    # One attention of 54; heads 1 and 2 divide the width: 2 norms x 2 positions x 3 ties x 2.
    assert len(attentions()) == 54
    assert counted(transformers()) == (24, 36 * 54 - 24)


def test_every_recurrent_model_is_built_or_refused() -> None:
    # none: feeding unset or off; a score: previous with feeding unset or off, current with any.
    attentions_built = 2 + 5 * (2 + 3)
    # The even width; bridge=last not into a deeper decoder: 2 cells x (3 x 3 - 1).
    built = attentions_built * 2 * 8
    assert counted(recurrent_models()) == (built, 36 * 54 - built)


def config(kind: str = "lstm", **changed: Any) -> ModelConfig:
    return replace(ModelConfig(name=kind, kind=ModelKind(kind), width=8, heads=2), **changed)


FULL = AttentionConfig()
BAHDANAU = AttentionConfig(preset="bahdanau", score=Score.additive, timing=Timing.previous)


@pytest.mark.parametrize(
    ("model", "attention", "reason"),
    [
        (config("lstm"), FULL, r"attention=full.*no self-attention.*none\|bahdanau\|luong_dot"),
        (config("transformer"), BAHDANAU, "attention=bahdanau.*choose attention=full"),
        (config("lstm"), replace(BAHDANAU, feeding=True), "feeding=true has no meaning"),
        (config("lstm"), replace(FULL, score=Score.none, feeding=True), "no attentional vector"),
        (config("transformer"), replace(FULL, timing=Timing.current), "recurrent decoders"),
        (config("transformer", heads=3), FULL, "heads=3 must divide model.width=8"),
        (config("lstm", width=7), BAHDANAU, "width=7 must be even"),
        (
            config("lstm", bridge=Bridge.last, encoder_layers=1, decoder_layers=2),
            BAHDANAU,
            "2 decoder and 1 encoder layers",
        ),
    ],
)
def test_reasons(model: ModelConfig, attention: AttentionConfig, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_pair(model, attention)


def test_tie_all_needs_one_vocabulary() -> None:
    check_pair(config("transformer"), FULL, joint=True)
    with pytest.raises(UserError, match=r"tokenizer\.joint=true"):
        check_pair(config("transformer"), FULL, joint=False)
    with pytest.raises(UserError, match="11 and 12"):
        build_model(config("transformer"), FULL, 11, 12)
    check_pair(config("transformer", tie=Tie.decoder), FULL, joint=False)
    assert build_model(config("transformer", tie=Tie.decoder), FULL, 11, 12).source_vocab == 11


@pytest.mark.parametrize(("tie", "tables"), [(Tie.none, 3), (Tie.decoder, 2), (Tie.all, 1)])
def test_sizes(tie: Tie, tables: int) -> None:
    model = build_model(config("transformer", tie=tie), FULL, 11, 11)
    size = count_parameters(model)
    assert size.embeddings == tables * 11 * 8 + 11
    assert size.total == sum(p.numel() for p in model.parameters()) == size.body + size.embeddings
    small = build_model(config("lstm", tie=tie, embedding=6), BAHDANAU, 11, 11)
    wide = 11 * 8 if tie == Tie.none else 0
    assert count_parameters(small).embeddings == min(tables, 2) * 11 * 6 + wide + 11
