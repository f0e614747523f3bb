"""Recurrent models against PyTorch's own layers and against loops written from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor

from nmt.models import attention, recurrent
from nmt.models.recurrent import Recurrent, State
from nmt.models.seq2seq import Source

Case = Callable[..., Any]
Build = Callable[..., Any]
MustFail = Callable[[Callable[[], None]], None]
TOLERANCE = {"rtol": 0.0, "atol": 1e-10}

ATTENTIONS = [("none", None, None)] + [
    (score, timing, feeding)
    for score in ("dot", "scaled_dot", "general", "additive", "cosine")
    for timing, feeding in (("previous", None), ("current", True), ("current", False))
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


# --- the decoder, from the papers' equations, one sentence at a time ---------------------------


def sigmoid(x: ndarray) -> ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def lstm_cell(inputs: ndarray, recurrent: ndarray, cell: ndarray) -> tuple[ndarray, ndarray]:
    """Gates i, f, g, o (Hochreiter & Schmidhuber 1997; Gers et al. 2000), biases included."""
    i, f, g, o = np.split(inputs + recurrent, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def gru_cell(inputs: ndarray, recurrent: ndarray, hidden: ndarray) -> ndarray:
    """Gates r, z, n (Cho et al. 2014, with the reset after the product as in cuDNN)."""
    (rx, zx, nx), (rh, zh, nh) = np.split(inputs, 3), np.split(recurrent, 3)
    z = sigmoid(zx + zh)
    return (1 - z) * np.tanh(nx + sigmoid(rx + rh) * nh) + z * hidden


class Reference:
    """One sentence's decoder in NumPy, from the weights of a model."""

    def __init__(self, model: Recurrent, score: str, timing: str | None, feeding: bool) -> None:
        self.w = {name: value.numpy() for name, value in model.state_dict().items()}
        self.score_name, self.timing, self.feeding = score, timing, feeding
        self.layers = model.bridge.layers
        self.lstm = model.bridge.parts == 2

    def layer(self, number: int, x: ndarray, fed: ndarray | None, state: list) -> None:
        """One step of one layer, in place."""
        w, name = self.w, "decoder.stack"
        hidden, cell = state[number]
        if f"{name}.rnn.weight_ih_l0" in w:
            inputs = w[f"{name}.rnn.weight_ih_l{number}"] @ x + w[f"{name}.rnn.bias_ih_l{number}"]
            again = w[f"{name}.rnn.weight_hh_l{number}"] @ hidden
            again = again + w[f"{name}.rnn.bias_hh_l{number}"]
        else:
            part = f"{name}.bottom" if number == 0 else f"{name}.upper.{number - 1}"
            inputs = w[f"{part}.inputs.weight"] @ x + w[f"{part}.inputs.bias"]
            if fed is not None and number == 0:
                inputs = inputs + w[f"{name}.fed.weight"] @ fed
            again = w[f"{part}.hidden.weight"] @ hidden + w[f"{part}.hidden.bias"]
        if self.lstm:
            state[number] = lstm_cell(inputs, again, cell)
        else:
            state[number] = (gru_cell(inputs, again, hidden), None)

    def step(self, x: ndarray, fed: ndarray | None, state: list) -> None:
        for number in range(self.layers):
            self.layer(number, x, fed, state)
            x = state[number][0]

    def score(self, q: ndarray, h: ndarray) -> float:
        w, part = self.w, "decoder.attention.score"
        if self.score_name == "dot":
            return sum(q[d] * h[d] for d in range(len(q)))
        if self.score_name == "scaled_dot":
            return sum(q[d] * h[d] for d in range(len(q))) / math.sqrt(len(q))
        if self.score_name == "general":
            return float(q @ (w[f"{part}.key.weight"] @ h))
        if self.score_name == "additive":
            inner = np.tanh(w[f"{part}.query.weight"] @ q + w[f"{part}.key.weight"] @ h)
            return float(w[f"{part}.out.weight"][0] @ inner)
        cosine = q @ h / math.sqrt(q @ q) / math.sqrt(h @ h)
        return float(cosine * math.exp(w[f"{part}.log_sharpness"]))

    def attend(self, q: ndarray, states: ndarray) -> tuple[ndarray, ndarray]:
        """Bahdanau et al. Eq. 5 and 6, Luong et al. Eq. 7: context and weights."""
        energies = [math.exp(self.score(q, h)) for h in states]
        weights = np.array([energy / sum(energies) for energy in energies])
        return sum(a * h for a, h in zip(weights, states, strict=True)), weights

    def readout(self, *parts: ndarray) -> ndarray:
        out = self.w["decoder.readout.out.weight"] @ np.concatenate(parts)
        return np.tanh(out + self.w.get("decoder.readout.out.bias", 0.0))

    def decode(
        self, tokens: list[int], states: ndarray, last: ndarray, start: State
    ) -> tuple[ndarray, ndarray]:
        """Hidden states [T, D] and weights [T, S] of one sentence."""
        cells = [None] * self.layers if start.cell is None else list(start.cell.numpy())
        state = list(zip(start.hidden.numpy(), cells, strict=True))
        fed = np.zeros_like(states[0])
        hiddens, maps = [], []
        for token in tokens:
            e = self.w["target_embedding.weight"][token]
            if self.timing is None:
                c = self.w["decoder.summary.out.weight"] @ last + self.w["decoder.summary.out.bias"]
                c = np.tanh(c)
                self.step(np.concatenate([e, c]), None, state)
                hiddens.append(self.readout(state[-1][0], e, c))
            elif self.timing == "previous":
                c, weights = self.attend(state[-1][0], states)
                self.step(e, c, state)
                hiddens.append(self.readout(state[-1][0], e, c))
                maps.append(weights)
            else:
                self.step(e, fed if self.feeding else None, state)
                c, weights = self.attend(state[-1][0], states)
                fed = self.readout(c, state[-1][0])
                hiddens.append(fed)
                maps.append(weights)
        return np.stack(hiddens), np.stack(maps) if maps else np.zeros((0, 0))


def check_decoder(
    model: Recurrent, attends: tuple[str, str | None, bool | None], source: Source, tgt_BT: Tensor
) -> None:
    score, timing, feeding = attends
    with torch.no_grad():
        hidden_BTD = model(source, tgt_BT)
        cross = model.explain(source, tgt_BT).cross
        states_BSD, last = model.encoder(model.embed_source(source), source.keep_BS)
        start = model.bridge(last)
    reference = Reference(model, score, timing, bool(feeding))
    for row, length in enumerate(source.keep_BS.sum(1).tolist()):
        hidden_TD, weights_TS = reference.decode(
            tgt_BT[row].tolist(),
            states_BSD[row, :length].numpy(),
            last.hidden[row, -1].numpy(),
            State(start.hidden[row], None if start.cell is None else start.cell[row]),
        )
        torch.testing.assert_close(hidden_BTD[row], torch.tensor(hidden_TD), **TOLERANCE)
        if cross is not None:
            expected = torch.tensor(weights_TS)
            torch.testing.assert_close(cross[0, row, 0, :, :length], expected, **TOLERANCE)


@pytest.mark.parametrize("attends", ATTENTIONS)
@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("lstm", 3), ("gru", 2)])
def test_decoder(
    build: Build,
    recurrent_case: Case,
    source: Source,
    tgt_BT: Tensor,
    attends: tuple[str, str | None, bool | None],
    cell: str,
    layers: int,
) -> None:
    model = build(recurrent_case(attends, cell, (1, layers)))
    check_decoder(model, attends, source, tgt_BT)


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
    mutation: str,
    timing: str,
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    attends = ("scaled_dot", timing, True if timing == "current" else None)
    model = build(recurrent_case(attends))
    check_decoder(model, attends, source, tgt_BT)
    reference = {name: value.clone() for name, value in model.state_dict().items()}
    MUTATIONS[mutation](monkeypatch, model)
    monkeypatch.setattr(model, "state_dict", lambda: reference)
    must_fail(lambda: check_decoder(model, attends, source, tgt_BT))


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
