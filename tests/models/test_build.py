"""What is built, what is refused and why; sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, product
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
    Pattern,
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


def recurrent_attentions() -> Iterator[AttentionConfig]:
    """Every key of a recurrent decoder's attention with every other, and a Transformer's too."""
    for keys in product(
        Score, (None, *Timing), (None, True, False), Window, (None, 1, 2, 3), (True, False)
    ):
        score, timing, feeding, window, heads, coverage = keys
        for temperature, places in product((None, True, False), product(Pattern, repeat=3)):
            encoder, decoder, cross = places
            yield AttentionConfig(
                score=score,
                timing=timing,
                feeding=feeding,
                window=window,
                heads=heads,
                coverage=coverage,
                learn_temperature=temperature,
                encoder=encoder,
                decoder=decoder,
                cross=cross,
            )


def recurrent_models() -> list[ModelConfig]:
    return [
        ModelConfig(
            kind=ModelKind.lstm,
            cell=cell,
            bridge=bridge,
            encoder_layers=encoder,
            decoder_layers=decoder,
            width=width,
            head_width=head_width,
            embedding=6,
        )
        for cell, bridge, (encoder, decoder), width, head_width in product(
            Cell, Bridge, ((1, 1), (2, 1), (1, 2)), (8, 7), (None, 5)
        )
    ]


def transformers() -> Iterator[tuple[ModelConfig, AttentionConfig]]:
    """Score, temperature, patterns, positions and shape of heads, each with each.

    Norm and tying, which go with everything, take turns.
    """
    turns = cycle(product(Norm, Tie))
    for score, temperature, places, positions, (heads, head_width) in product(
        Score,
        (None, False),
        product(Pattern, repeat=3),
        Positions,
        ((2, None), (3, None), (3, 5)),
    ):
        encoder, decoder, cross = places
        norm, tie = next(turns)
        yield (
            config(
                "transformer",
                positions=positions,
                heads=heads,
                head_width=head_width,
                norm=norm,
                tie=tie,
                ffn=8,
                encoder_layers=1,
                decoder_layers=1,
                max_positions=9,
            ),
            AttentionConfig(
                score=score,
                learn_temperature=temperature,
                encoder=encoder,
                decoder=decoder,
                cross=cross,
            ),
        )


def run_on_meta(module: Seq2Seq) -> None:
    with torch.device("meta"):
        ids = torch.zeros(2, 3, dtype=torch.long)
        source = Source(ids, torch.ones(2, 3, dtype=torch.bool))
        logits = module.project(module(source, ids[:, :2]))
    assert logits.is_meta
    assert logits.shape == (2, 2, 11)


@pytest.fixture(autouse=True)
def _uninitialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers cost most of a build on the meta device, where there are none."""
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, lambda me, *_, **__: me)


def is_built(model: ModelConfig, attention: AttentionConfig, *, run: bool = True) -> bool:
    """Builds the pair on the meta device and runs it there, or sees it refused."""
    try:
        check_pair(model, attention)
    except UserError:
        return False
    with torch.device("meta"):
        module = build_model(model, attention, 11, 11)
    if run:
        run_on_meta(module)
    return True


def test_every_transformer_is_built_or_refused() -> None:
    """Eight wide: two heads divide the width, three do not; heads of five cannot be rotated.

    A score, of which the cosine comes in two, goes with every pattern but linear in all three
    places, where only the default may stand; cross-attention does not slide. Rotary positions are
    for products whose keys are not projected, and not for linear self-attention.
    """
    found = [
        is_built(model, attention, run=number % 97 == 0)
        for number, (model, attention) in enumerate(transformers())
    ]
    scores, places = 4 + 2, 3 * 3 * 2
    absolute = 3 * 2 * ((places - 1) * scores + 1)  # positions, shapes of heads
    rotary = (2 * 2 * 2) * (2 + 2)  # patterns, scores; only heads of four are even
    assert len(found) == 7 * 2 * 27 * 4 * 3
    assert sum(found) == absolute + rotary


def test_keys_of_recurrent_decoders_are_refused_in_a_transformer() -> None:
    found = [
        is_built(
            config("transformer"),
            AttentionConfig(
                timing=timing, feeding=feeding, window=window, heads=heads, coverage=coverage
            ),
        )
        for timing, feeding, window, heads, coverage in product(
            (None, *Timing), (None, True, False), Window, (None, 2), (False, True)
        )
    ]
    assert len(found) == 3 * 3 * 3 * 2 * 2
    assert sum(found) == 1


@pytest.mark.parametrize(
    ("head_width", "head_counts", "without"), [(None, (None, 1, 2), 2), (5, (2, 3), 0)]
)
def test_every_recurrent_attention_is_built_or_refused(
    head_width: int | None, head_counts: tuple[int | None, ...], without: int
) -> None:
    """Eight wide: two heads divide the width, three do not; a head width asks for several heads.

    Without a score only feeding may be named, as off. A score is asked by the previous state, with
    feeding unset or off, or by the current one, with any; in three windows. Coverage is on or off
    in two scores, and the cosine's temperature unset, on or off. PyTorch's LSTM is slow on the meta
    device, so only some run there.
    """
    model = ModelConfig(
        kind=ModelKind.lstm,
        encoder_layers=1,
        decoder_layers=1,
        width=8,
        head_width=head_width,
        embedding=6,
    )
    found = [
        is_built(model, attention, run=number % 1_701 == 0)
        for number, attention in enumerate(recurrent_attentions())
    ]
    asks, windows = 2 + 3, 3
    scores = 3 + 2 * 2 + 3  # dot, scaled_dot, general; additive, location; cosine
    assert len(found) == 7 * 3 * 3 * 3 * 4 * 2 * 3 * 27
    assert sum(found) == without + scores * asks * windows * len(head_counts)


def test_every_recurrent_model_is_built_or_refused() -> None:
    fed = AttentionConfig(score=Score.location, timing=Timing.current, coverage=True)
    attentions = {
        "none": AttentionConfig(score=Score.none),
        "bahdanau": AttentionConfig(score=Score.additive, timing=Timing.previous),
        "divides": replace(fed, heads=4, window=Window.local_p),
        "does not": replace(fed, heads=3, window=Window.local_m),
    }
    found = {
        name: sum(is_built(model, attention, run=False) for model in recurrent_models())
        for name, attention in attentions.items()
    }
    # The even width; bridge=last not into a deeper decoder: 2 cells x (3 x 3 - 1).
    assert len(recurrent_models()) == 2 * 3 * 3 * 2 * 2
    assert found == {"none": 16, "bahdanau": 16, "divides": 32, "does not": 16}


def config(kind: str = "lstm", **changed: Any) -> ModelConfig:
    return replace(ModelConfig(name=kind, kind=ModelKind(kind), width=8, heads=2), **changed)


FULL = AttentionConfig()
LINEAR = AttentionConfig(encoder=Pattern.linear, decoder=Pattern.linear, cross=Pattern.linear)
BAHDANAU = AttentionConfig(preset="bahdanau", score=Score.additive, timing=Timing.previous)


@pytest.mark.parametrize(
    ("model", "attention", "reason"),
    [
        (config("lstm"), FULL, r"attention=full.*no self-attention.*none\|bahdanau\|luong_dot"),
        (config("transformer"), BAHDANAU, "attention=bahdanau.*choose attention=full"),
        (config("transformer"), replace(FULL, heads=2), "heads belongs .* choose model.heads"),
        (config("transformer"), replace(FULL, score=Score.none), "model=lstm for a fixed context"),
        (config("transformer"), replace(FULL, score=Score.location), "weights of the step before"),
        (config("transformer"), replace(FULL, cross=Pattern.sliding), "no place in the source"),
        (config("transformer"), replace(LINEAR, score=Score.dot), "score=dot has no meaning"),
        (config("transformer", attention_dropout=0.1), LINEAR, "attention_dropout=0.1 has no mean"),
        (
            config("transformer", positions=Positions.rotary),
            replace(FULL, encoder=Pattern.linear),
            "rotary.*feature map",
        ),
        (
            config("transformer", positions=Positions.rotary),
            replace(FULL, score=Score.general),
            "score=general is not that product",
        ),
        (
            config("transformer", positions=Positions.rotary, head_width=3),
            FULL,
            "heads are 3 wide: choose an even model.head_width",
        ),
        (
            config("transformer"),
            replace(FULL, masked_heads=["encoder.4.0"]),
            r"no head encoder\.4\.0.*encoder\.0\.0 to encoder\.3\.1",
        ),
        (config("transformer"), replace(FULL, masked_heads=["cross.0.2"]), r"to cross\.3\.1"),
        (config("lstm"), replace(BAHDANAU, feeding=True), "feeding=true has no meaning"),
        (config("lstm"), replace(FULL, score=Score.none, feeding=True), "no attentional vector"),
        (
            config("lstm", head_width=4),
            replace(FULL, score=Score.none, heads=2, window=Window.local_m),
            "attention.window, attention.heads, model.head_width has no meaning.*luong_general",
        ),
        (config("lstm"), LINEAR, "encoder=linear is for a Transformer's.*attention=none.*local_p"),
        (
            config("lstm"),
            replace(BAHDANAU, cross=Pattern.sliding),
            "attention=bahdanau: attention.cross=sliding.*model=transformer_tiny",
        ),
        (
            config("lstm"),
            replace(BAHDANAU, score=Score.dot, coverage=True),
            "score=dot: coverage is a term within the tanh.*score=additive or location",
        ),
        (
            config("lstm"),
            replace(BAHDANAU, learn_temperature=False),
            "learn_temperature is the cosine score's.*score=additive.*score=cosine",
        ),
        (config("lstm"), replace(BAHDANAU, heads=3), "heads=3 must divide .*set model.head_width"),
        (config("lstm", head_width=4), BAHDANAU, "head_width=4 with one head.*heads above 1"),
        (
            config("lstm"),
            replace(BAHDANAU, heads=2, masked_heads=["cross.0.1", "cross.0.2"]),
            r"no head cross\.0\.2.*cross\.0\.0 to cross\.0\.1",
        ),
        (config("lstm"), replace(BAHDANAU, masked_heads=["cross.1.0"]), r"to cross\.0\.0"),
        (config("lstm"), replace(BAHDANAU, masked_heads=["encoder.0.0"]), "kind are none"),
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
