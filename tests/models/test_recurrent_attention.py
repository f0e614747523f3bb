"""What a recurrent decoder's attention may be made of, against the papers' equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.models.attention import SCORES, Location
from nmt.models.recurrent import Recurrent
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

ASKS: list[tuple[str, bool | None]] = [
    ("previous", None),
    ("previous", False),
    ("current", True),
    ("current", False),
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


def extra_cases() -> list[Any]:
    """Every extra with every score and, over the scores, with every way to ask and to feed."""
    cases = []
    for number, (name, extra) in enumerate([*EXTRAS.items(), *COVERED.items()]):
        for score in SCORES:
            if name in COVERED and score not in ("additive", "location"):
                continue
            attends = (score, *ASKS[(number + len(cases)) % len(ASKS)])
            cases.append(pytest.param(attends, extra, id=f"{'-'.join(map(str, attends))}-{name}"))
    for asks, (name, extra) in zip(ASKS, [("one head", {}), *EXTRAS.items()], strict=False):
        bare = {"learn_temperature": False, **extra}
        cases.append(pytest.param(("cosine", *asks), bare, id=f"bare cosine-{asks}-{name}"))
    return cases


@pytest.mark.parametrize(("attends", "extra"), extra_cases())
def test_decoder_with(
    build: Build,
    recurrent_case: Case,
    source: Source,
    tgt_BT: Tensor,
    recurrent_reference: ModuleType,
    attends: tuple[str, str, bool | None],
    extra: dict[str, Any],
) -> None:
    case = recurrent_case(attends, **extra)
    recurrent_reference.check_decoder(build(case), case[1], source, tgt_BT)


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
    recurrent_reference: ModuleType,
    mutation: str,
    asks: tuple[str, bool | None],
    monkeypatch: pytest.MonkeyPatch,
    must_fail: MustFail,
) -> None:
    score, extra, mutate = AXIS_MUTATIONS[mutation]
    case = recurrent_case((score, *asks), **extra)
    recurrent_reference.notices(
        build(case), case[1], source, tgt_BT, mutate, monkeypatch, must_fail
    )


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
