"""A recurrent decoder in NumPy, number by number, from the equations of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor

from nmt.config import AttentionConfig
from nmt.models.recurrent import Recurrent, State
from nmt.models.seq2seq import Source

TOLERANCE = {"rtol": 0.0, "atol": 1e-10}


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
    """One sentence's decoder in NumPy, from the weights of a model and the names of its parts."""

    def __init__(self, model: Recurrent, attention: AttentionConfig) -> None:
        self.w = {name: value.numpy() for name, value in model.state_dict().items()}
        self.score_name, self.timing = attention.score.value, attention.timing
        self.feeding, self.window = attention.feeding, attention.window.value
        self.span, self.coverage = attention.span, attention.coverage
        self.heads = attention.heads or 1
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

    def part(self, name: str, head: int) -> ndarray:
        """A head's rows of one of the attention's weights."""
        return np.split(self.w[f"decoder.attention.{name}"], self.heads)[head]

    def score(self, q: ndarray, k: ndarray, head: int, inner: ndarray | float) -> float:
        """Luong et al. 2015, Eq. 8; Bahdanau et al. 2015, A.1.2; Vaswani et al. 2017, Eq. 1.

        `inner` is what else stands within the tanh.
        """
        if self.score_name == "dot":
            return sum(q[d] * k[d] for d in range(len(q)))
        if self.score_name == "scaled_dot":
            return sum(q[d] * k[d] for d in range(len(q))) / math.sqrt(len(q))
        if self.score_name == "general":
            return float(q @ (self.part("score.key.weight", head) @ k))
        if self.score_name in ("additive", "location"):
            summed = self.part("score.query.weight", head) @ q
            summed = summed + self.part("score.key.weight", head) @ k + inner
            return float(self.part("score.out.weight", head)[0] @ np.tanh(summed))
        cosine = q @ k / math.sqrt(q @ q) / math.sqrt(k @ k)
        sharpness = self.w.get("decoder.attention.score.log_sharpness")
        return float(
            cosine
            * (1.0 if sharpness is None else math.exp(sharpness.flatten()[head % sharpness.size]))
        )

    def convolved(self, j: int, previous: ndarray, head: int) -> ndarray:
        """U f_ij + b with f_i = F * alpha_i-1 (Chorowski et al. 2015, Eq. 8 and 9)."""
        filters = self.part("score.convolution.weight", head)[:, 0]
        reach = filters.shape[1] // 2
        f = np.zeros(len(filters))
        for tap in range(filters.shape[1]):
            if 0 <= j + tap - reach < len(previous):
                f += filters[:, tap] * previous[j + tap - reach]
        return (
            self.part("score.feature.weight", head) @ f
            + self.w["decoder.attention.score.offset"][head, 0]
        )

    def inner(self, j: int, head: int, past: dict[str, ndarray]) -> ndarray | float:
        total: ndarray | float = 0.0
        if self.score_name == "location":
            total = total + self.convolved(j, past["previous"][head], head)
        if self.coverage:  # V_a C_i-1,j (Tu et al. 2016, Sect. 3.2)
            total = total + self.part("coverage.out.weight", head)[:, 0] * past["covered"][head, j]
        return total

    def centre(self, q: ndarray, length: int, place: int, head: int) -> float:
        """Luong et al. 2015, Sect. 3.2: monotone, or Eq. 9."""
        if self.window == "local_m":
            return place
        hidden = np.tanh(self.part("window.hidden.weight", head) @ q)
        return float(length * sigmoid(self.part("window.out.weight", head)[0] @ hidden))

    def weigh(
        self, q: ndarray, ks: ndarray, place: int, head: int, past: dict[str, ndarray]
    ) -> ndarray:
        """One head's weights: a softmax over the window, for local_p times a Gaussian (Eq. 10)."""
        seen = range(len(ks))
        if self.window != "full":
            centre = self.centre(q, len(ks), place, head)
            seen = [s for s in seen if abs(s - centre) <= self.span]
        energies = {
            j: math.exp(self.score(q, ks[j], head, self.inner(j, head, past))) for j in seen
        }
        weights = np.zeros(len(ks))
        for j, energy in energies.items():
            weights[j] = energy / sum(energies.values())
            if self.window == "local_p":
                sigma = self.span / 2
                weights[j] *= math.exp(-((j - centre) ** 2) / (2 * sigma**2))
        return weights

    def attend(
        self, q: ndarray, states: ndarray, place: int, past: dict[str, ndarray]
    ) -> tuple[ndarray, ndarray]:
        """Bahdanau et al. Eq. 5 and 6, Luong et al. Eq. 7, Vaswani et al. Sect. 3.2.2.

        The context and the weights of each head; `past` is brought up to date.
        """
        context, maps = np.zeros_like(q), []
        for head in range(self.heads):
            query, keys, values = q, states, states
            if self.heads > 1:
                query = self.part("heads.query.weight", head) @ q
                of_keys, of_values = np.split(self.w["decoder.attention.heads.inputs.weight"], 2)
                keys = states @ np.split(of_keys, self.heads)[head].T
                values = states @ np.split(of_values, self.heads)[head].T
            weights = self.weigh(query, keys, place, head, past)
            read = sum(a * value for a, value in zip(weights, values, strict=True))
            if self.heads > 1:
                out = np.split(self.w["decoder.attention.heads.out.weight"], self.heads, 1)[head]
                read = out @ read
            context = context + read
            maps.append(weights)
            past["previous"][head] = weights
            if self.coverage:  # C_i = C_i-1 + alpha_i / Phi, Phi = 2 sigmoid(U_f h) (Sect. 3.1.1)
                fertility = 2 * sigmoid(keys @ self.part("coverage.fertile.weight", head)[0])
                past["covered"][head] += weights / fertility
        return context, np.stack(maps)

    def readout(self, *parts: ndarray) -> ndarray:
        out = self.w["decoder.readout.out.weight"] @ np.concatenate(parts)
        return np.tanh(out + self.w.get("decoder.readout.out.bias", 0.0))

    def decode(
        self, tokens: list[int], states: ndarray, last: ndarray, start: State
    ) -> tuple[ndarray, ndarray]:
        """Hidden states [T, D] and weights [H, T, S] of one sentence."""
        cells = [None] * self.layers if start.cell is None else list(start.cell.numpy())
        state = list(zip(start.hidden.numpy(), cells, strict=True))
        fed = np.zeros_like(states[0])
        hiddens, maps = [], []
        past = {name: np.zeros((self.heads, len(states))) for name in ("previous", "covered")}
        for place, token in enumerate(tokens):
            e = self.w["target_embedding.weight"][token]
            if self.timing is None:
                c = self.w["decoder.summary.out.weight"] @ last + self.w["decoder.summary.out.bias"]
                c = np.tanh(c)
                self.step(np.concatenate([e, c]), None, state)
                hiddens.append(self.readout(state[-1][0], e, c))
            elif self.timing == "previous":
                c, weights = self.attend(state[-1][0], states, place, past)
                self.step(e, None if self.feeding is False else c, state)
                hiddens.append(self.readout(state[-1][0], e, c))
                maps.append(weights)
            else:
                self.step(e, fed if self.feeding else None, state)
                c, weights = self.attend(state[-1][0], states, place, past)
                fed = self.readout(c, state[-1][0])
                hiddens.append(fed)
                maps.append(weights)
        return np.stack(hiddens), np.stack(maps, 1) if maps else np.zeros((0, 0, 0))


def check_decoder(
    model: Recurrent, attention: AttentionConfig, source: Source, tgt_BT: Tensor
) -> None:
    with torch.no_grad():
        hidden_BTD = model(source, tgt_BT)
        cross = model.explain(source, tgt_BT).cross
        states_BSD, last = model.encoder(model.embed_source(source), source.keep_BS)
        start = model.bridge(last)
    reference = Reference(model, attention)
    for row, length in enumerate(source.keep_BS.sum(1).tolist()):
        hidden_TD, weights_HTS = reference.decode(
            tgt_BT[row].tolist(),
            states_BSD[row, :length].numpy(),
            last.hidden[row, -1].numpy(),
            State(start.hidden[row], None if start.cell is None else start.cell[row]),
        )
        torch.testing.assert_close(hidden_BTD[row], torch.tensor(hidden_TD), **TOLERANCE)
        if cross is not None:
            expected = torch.tensor(weights_HTS)
            torch.testing.assert_close(cross[0, row, :, :, :length], expected, **TOLERANCE)
            assert not cross[0, row, :, :, length:].any()


def notices(
    model: Recurrent,
    attention: AttentionConfig,
    source: Source,
    tgt_BT: Tensor,
    mutate: Callable[[pytest.MonkeyPatch, Recurrent], None],
    monkeypatch: pytest.MonkeyPatch,
    must_fail: Callable[[Callable[[], None]], None],
) -> None:
    """The reference agrees with the model, but not with the mutated one."""
    check_decoder(model, attention, source, tgt_BT)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    mutate(monkeypatch, model)
    monkeypatch.setattr(model, "state_dict", lambda: weights)
    must_fail(lambda: check_decoder(model, attention, source, tgt_BT))
