"""Recurrent models against PyTorch's own layers and against loops written from the papers."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.models import attention, recurrent
from nmt.models.recurrent import Recurrent, State
from nmt.models.seq2seq import Source

Case = Callable[..., Any]
Build = Callable[..., Any]
MustFail = Callable[[Callable[[], None]], None]
TOLERANCE = {"rtol": 0.0, "atol": 1e-10}

ATTENTIONS: list[tuple[str, str | None, bool | None]] = [("none", None, None)] + [
    (score, timing, feeding)
    for score in ("dot", "scaled_dot", "general", "additive", "cosine", "location")
    for timing, feeding in (
        ("previous", None),
        ("previous", False),
        ("current", True),
        ("current", False),
    )
]


# --- the encoder, sentence by sentence ------------------------------------------------------------


def check_encoder(model: Recurrent, source: Source) -> None:
    """Each sentence alone through one direction at a time, layer by layer."""
    states_BSD, last = model.encoder(model.embed_source(source), source.keep_BS)
    rnn = model.encoder.rnn
    weights = dict(rnn.named_parameters())
    for row, length in enumerate(source.keep_BS.sum(1).tolist()):
        x_1SD = model.embed_source(source)[row : row + 1, :length]
        for layer in range(rnn.num_layers):
            both, ends, cells = [], [], []
            for suffix in ("", "_reverse"):
                single = type(rnn)(x_1SD.shape[-1], rnn.hidden_size, batch_first=True).double()
                single.load_state_dict(
                    {name: weights[f"{name[:-1]}{layer}{suffix}"] for name in single.state_dict()}
                )
                inputs = x_1SD.flip(1) if suffix else x_1SD
                out_1SD, end = single(inputs)
                both.append(out_1SD.flip(1) if suffix else out_1SD)
                ends.append(end[0][0, 0] if isinstance(end, tuple) else end[0, 0])
                cells.append(end[1][0, 0] if isinstance(end, tuple) else None)
            x_1SD = torch.cat(both, -1)
            torch.testing.assert_close(last.hidden[row, layer], torch.cat(ends), **TOLERANCE)
            if last.cell is not None:
                torch.testing.assert_close(last.cell[row, layer], torch.cat(cells), **TOLERANCE)
        torch.testing.assert_close(states_BSD[row, :length], x_1SD[0], **TOLERANCE)
        assert not states_BSD[row, length:].any()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 3])
def test_encoder(
    build: Build, recurrent_case: Case, source: Source, cell: str, layers: int
) -> None:
    check_encoder(build(recurrent_case(ATTENTIONS[0], cell, (layers, 1))), source)


def test_encoder_check_notices_padding(
    build: Build,
    recurrent_case: Case,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    """Mutation: padding is read as if it were words."""
    model = build(recurrent_case(ATTENTIONS[0]))
    pack = recurrent.pack_padded_sequence
    monkeypatch.setattr(
        recurrent,
        "pack_padded_sequence",
        lambda x, lengths, **how: pack(x, torch.full_like(lengths, x.shape[1]), **how),
    )
    must_fail(lambda: check_encoder(model, source))


# --- the decoder, against the papers' equations --------------------------------------------------


@pytest.mark.parametrize("attends", ATTENTIONS)
@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("lstm", 3), ("gru", 2)])
def test_decoder(
    build: Build,
    recurrent_case: Case,
    source: Source,
    tgt_BT: Tensor,
    recurrent_reference: ModuleType,
    attends: tuple[str, str | None, bool | None],
    cell: str,
    layers: int,
) -> None:
    case = recurrent_case(attends, cell, (1, layers))
    recurrent_reference.check_decoder(build(case), case[1], source, tgt_BT)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch, Recurrent], None]] = {
    "mask flipped": lambda patch, _: patch.setattr(
        attention, "weigh", lambda x, keep, weigh=attention.weigh: weigh(x, ~keep)
    ),
    "mask shifted": lambda patch, _: patch.setattr(
        attention, "weigh", lambda x, keep, weigh=attention.weigh: weigh(x, keep.roll(1, -1))
    ),
    "scale dropped": lambda patch, model: patch.setattr(
        model.decoder.attention.score, "scale", 1.0
    ),
    "no feeding": lambda patch, model: patch.setattr(
        model.decoder.stack.fed, "weight", torch.nn.Parameter(model.decoder.stack.fed.weight * 0)
    ),
    "query late": lambda patch, _: patch.setattr(
        State, "split", lambda s, split=State.split: [(h * 0.9, c) for h, c in split(s)]
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("timing", ["previous", "current"])
def test_decoder_check_notices(
    build: Build,
    recurrent_case: Case,
    source: Source,
    tgt_BT: Tensor,
    recurrent_reference: ModuleType,
    mutation: str,
    timing: str,
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    case = recurrent_case(("scaled_dot", timing, True if timing == "current" else None))
    model = build(case)
    recurrent_reference.notices(
        model, case[1], source, tgt_BT, MUTATIONS[mutation], monkeypatch, must_fail
    )


# --- the bridge -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_bridge(build: Build, recurrent_case: Case, source: Source, cell: str) -> None:
    def start(bridge: str) -> tuple[State, State, Recurrent]:
        model = build(recurrent_case(ATTENTIONS[0], cell, (3, 2), bridge))
        _, last = model.encoder(model.embed_source(source), source.keep_BS)
        return model.bridge(last), last, model

    zeros, _, _ = start("zeros")
    assert zeros.hidden.shape == (3, 2, 8)
    assert not zeros.hidden.any()
    copied, last, _ = start("last")
    assert torch.equal(copied.hidden, last.hidden[:, 1:])
    learned, last, model = start("learned")
    out = torch.tanh(last.hidden[:, 2] @ model.bridge.out.weight.T + model.bridge.out.bias)
    torch.testing.assert_close(learned.hidden.flatten(1), out[:, :16], **TOLERANCE)
    if cell == "lstm":
        assert copied.cell is not None
        assert last.cell is not None
        assert learned.cell is not None
        torch.testing.assert_close(learned.cell.flatten(1), out[:, 16:], **TOLERANCE)
    else:
        assert zeros.cell is copied.cell is learned.cell is None
