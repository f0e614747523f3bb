"""Recurrent models against PyTorch's own layers and against loops written from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor

from nmt.config import AttentionConfig
from nmt.models import attention, recurrent
from nmt.models.attention import Location
from nmt.models.recurrent import Recurrent, State
from nmt.models.recurrent_attention import (
    Attention,
    Coverage,
    Heads,
    History,
    Local,
    LocalM,
    LocalP,
)
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
# What may go with an attention, and what only with one that has a term within a tanh.
EXTRAS: dict[str, dict[str, Any]] = {
    "two heads": {"heads": 2},
    "three wide heads": {"heads": 3, "head_width": 5},
    "local_m": {"window": "local_m", "span": 1},
    "local_p": {"window": "local_p", "span": 2},
    "local_m, heads": {"window": "local_m", "heads": 2},
    "local_p, heads": {"window": "local_p", "heads": 2},
}
COVERED: dict[str, dict[str, Any]] = {
    "coverage": {"coverage": True},
    "coverage, heads": {"coverage": True, "heads": 2},
    "coverage, local_p, heads": {
        "coverage": True,
        "window": "local_p",
        "heads": 3,
        "head_width": 4,
    },
    "coverage, local_m": {"coverage": True, "window": "local_m"},
}


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
    case = recurrent_case(attends, cell, (1, layers))
    check_decoder(build(case), case[1], source, tgt_BT)


def extra_cases() -> list[Any]:
    """Every extra with every score and, over the scores, with every way to ask and to feed."""
    cases = []
    for number, (name, extra) in enumerate([*EXTRAS.items(), *COVERED.items()]):
        for score in ("dot", "scaled_dot", "general", "additive", "cosine", "location"):
            if name in COVERED and score not in ("additive", "location"):
                continue
            asks = [attends for attends in ATTENTIONS if attends[0] == score]
            attends = asks[(number + len(cases)) % len(asks)]
            cases.append(pytest.param(attends, extra, id=f"{'-'.join(map(str, attends))}-{name}"))
    cases += [
        pytest.param(attends, {"learn_temperature": False, **extra}, id=f"bare {attends}-{name}")
        for attends, (name, extra) in zip(
            [attends for attends in ATTENTIONS if attends[0] == "cosine"],
            [("one head", {}), *EXTRAS.items()],
            strict=False,
        )
    ]
    return cases


@pytest.mark.parametrize(("attends", "extra"), extra_cases())
def test_decoder_with(
    build: Build,
    recurrent_case: Case,
    source: Source,
    tgt_BT: Tensor,
    attends: tuple[str, str, bool | None],
    extra: dict[str, Any],
) -> None:
    case = recurrent_case(attends, **extra)
    check_decoder(build(case), case[1], source, tgt_BT)


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
    case = recurrent_case(("scaled_dot", timing, True if timing == "current" else None))
    model = build(case)
    notices(model, case[1], source, tgt_BT, MUTATIONS[mutation], monkeypatch, must_fail)


def notices(
    model: Recurrent,
    attention: AttentionConfig,
    source: Source,
    tgt_BT: Tensor,
    mutate: Callable[[pytest.MonkeyPatch, Recurrent], None],
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    """The reference agrees with the model, but not with the mutated one."""
    check_decoder(model, attention, source, tgt_BT)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    mutate(monkeypatch, model)
    monkeypatch.setattr(model, "state_dict", lambda: weights)
    must_fail(lambda: check_decoder(model, attention, source, tgt_BT))


def patch(owner: Any, name: str, changed: Callable[..., Any]) -> Callable[..., None]:
    """A mutation: calls `changed` with the original in front."""

    def mutate(monkeypatch: pytest.MonkeyPatch, _: Recurrent) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: changed(original, *given))

    return mutate


# what is broken: (score, what goes with it, the mutation)
AXIS_MUTATIONS: dict[str, tuple[str, dict[str, Any], Callable[..., None]]] = {
    "Gaussian dropped": ("dot", {"window": "local_p"}, patch(LocalP, "bell", lambda f, *x: None)),
    "Gaussian wider": (
        "dot",
        {"window": "local_p"},
        patch(LocalP, "bell", lambda f, *x: f(*x) ** 0.5),
    ),
    "window dropped": (
        "dot",
        {"window": "local_m", "span": 1},
        patch(Local, "forward", lambda f, me, q, p, m: (m.keep_BM[:, None, None], None)),
    ),
    "window one off": (
        "dot",
        {"window": "local_m", "span": 1},
        patch(LocalM, "centre", lambda f, *x: f(*x) + 1),
    ),
    "padding counted as length": (
        "dot",
        {"window": "local_p"},
        patch(LocalP, "centre", lambda f, me, q, p, n: f(me, q, p, n * 0 + 7)),
    ),
    "heads swapped": (
        "dot",
        {"heads": 2},
        patch(Heads, "queries", lambda f, *x: f(*x).flip(1)),
    ),
    "history forgotten": (
        "location",
        {},
        patch(Attention, "_after", lambda f, me, w, p, history: history),
    ),
    "convolution flipped": (
        "location",
        {},
        patch(Location, "inner", lambda f, me, a: f(me, a.flip(-1)).flip(-2)),
    ),
    "offset dropped": (
        "location",
        {},
        patch(Location, "inner", lambda f, me, a: f(me, a) - me.offset),
    ),
    "fertility dropped": (
        "additive",
        {"coverage": True},
        patch(Coverage, "fertility", lambda f, *x: f(*x) * 0 + 1),
    ),
    "coverage replaced instead of added": (
        "additive",
        {"coverage": True, "heads": 2},
        patch(
            Attention,
            "_after",
            lambda f, me, w, p, h: f(me, w, p, replace(h, covered_NHM=h.covered_NHM * 0)),
        ),
    ),
    "learnt temperature dropped": (
        "cosine",
        {},
        lambda monkeypatch, model: monkeypatch.setattr(
            model.decoder.attention.score, "log_sharpness", None
        ),
    ),
}


@pytest.mark.parametrize("mutation", AXIS_MUTATIONS)
@pytest.mark.parametrize("asks", [("previous", None), ("current", False)])
def test_decoder_check_notices_on_the_other_axes(
    build: Build,
    recurrent_case: Case,
    source: Source,
    tgt_BT: Tensor,
    mutation: str,
    asks: tuple[str, bool | None],
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    score, extra, mutate = AXIS_MUTATIONS[mutation]
    case = recurrent_case((score, *asks), **extra)
    notices(build(case), case[1], source, tgt_BT, mutate, monkeypatch, must_fail)


# --- what an attention remembers ------------------------------------------------------------------

REMEMBERING: dict[str, tuple[str, dict[str, Any]]] = {
    "previous": ("location", {}),
    "covered": ("additive", {"coverage": True}),
    "position": ("dot", {"window": "local_m", "span": 1}),
}


def check_memory(model: Recurrent, source: Source, tgt_BT: Tensor) -> None:
    """Two steps, another order of the hypotheses, the rest; against one call."""
    order = torch.tensor([1, 2, 0])
    expected_BTD = model(source, tgt_BT)[order]
    memory = model.encode(source)
    _, cache = model.decode(tgt_BT[:, :2], memory, model.start(memory, torch.arange(3), 0))
    hidden_NTD, _ = model.decode(tgt_BT[order, 2:], memory, cache.select(order))
    torch.testing.assert_close(hidden_NTD, expected_BTD[:, 2:], **TOLERANCE)


@pytest.mark.parametrize("kind", REMEMBERING)
@pytest.mark.parametrize("asks", [("previous", None), ("previous", False), ("current", False)])
def test_history_is_passed_on(
    build: Build,
    recurrent_case: Case,
    source: Source,
    tgt_BT: Tensor,
    kind: str,
    asks: tuple[str, bool | None],
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    """Mutations: hypotheses keep another's history, or begin afresh after a call."""
    score, extra = REMEMBERING[kind]
    model = build(recurrent_case((score, *asks), **extra))
    check_memory(model, source, tgt_BT)
    if kind != "position":
        monkeypatch.setattr(History, "select", lambda history, rows: history)
        must_fail(lambda: check_memory(model, source, tgt_BT))
        monkeypatch.undo()
    name = "position" if kind == "position" else f"{kind}_NHM"

    def forget(history: History, rows: Tensor) -> History:
        return replace(history, **{name: getattr(history, name) * 0})

    monkeypatch.setattr(History, "select", forget)
    must_fail(lambda: check_memory(model, source, tgt_BT))


@pytest.mark.parametrize("score", ["dot", "scaled_dot", "general", "additive", "cosine"])
def test_nothing_is_remembered_without_need(
    build: Build, recurrent_case: Case, source: Source, score: str
) -> None:
    memory = build(recurrent_case((score, "current", True))).encode(source)
    model = build(recurrent_case((score, "current", True), window="local_p", heads=2))
    assert model.start(model.encode(source), torch.arange(3), 0).history is None
    assert memory.projected.fertility_BHM is None


# --- ablation -------------------------------------------------------------------------------------


def check_masked(masked: Recurrent, whole: Recurrent, source: Source, tgt_BT: Tensor) -> None:
    torch.testing.assert_close(masked(source, tgt_BT), whole(source, tgt_BT), **TOLERANCE)
    shown, expected = masked.explain(source, tgt_BT).cross, whole.explain(source, tgt_BT).cross
    torch.testing.assert_close(shown, expected, **TOLERANCE)
    torch.testing.assert_close(shown.sum(-1), torch.ones_like(shown[..., 0]), **TOLERANCE)


@pytest.mark.parametrize("heads", [2, 4])
def test_masked_heads(
    build: Build,
    recurrent_case: Case,
    source: Source,
    tgt_BT: Tensor,
    heads: int,
    must_fail: MustFail,
) -> None:
    """Michel et al. 2019, Eq. 2: as if the masked head had no rows in the output projection."""
    attends = ("general", "current", True)
    names = [f"cross.0.{heads - 1}"]
    masked = build(recurrent_case(attends, heads=heads, masked_heads=names))
    whole = build(recurrent_case(attends, heads=heads))
    assert masked.state_dict().keys() == whole.state_dict().keys()
    must_fail(lambda: check_masked(masked, whole, source, tgt_BT))
    with torch.no_grad():
        whole.decoder.attention.heads.out.weight.chunk(heads, 1)[-1].zero_()
    check_masked(masked, whole, source, tgt_BT)
    masked.decoder.attention.masked = (0,)
    must_fail(lambda: check_masked(masked, whole, source, tgt_BT))


def test_a_masked_only_head_leaves_no_context(
    build: Build, recurrent_case: Case, source: Source, tgt_BT: Tensor
) -> None:
    model = build(recurrent_case(("dot", "current", False), masked_heads=["cross.0.0"]))
    with torch.no_grad():
        top_BTD, _ = model.decoder.stack(model.target_embedding(tgt_BT), model.encode(source).state)
        expected_BTD = (top_BTD @ model.decoder.readout.out.weight[:, 8:].T).tanh()
    torch.testing.assert_close(model(source, tgt_BT), expected_BTD, **TOLERANCE)


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
