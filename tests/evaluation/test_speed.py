"""Speeds over a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from nmt.config import AttentionConfig, ModelConfig, ModelKind
from nmt.evaluation import speed
from nmt.models.build import build_model


def test_translating_counts_target_tokens_of_the_fastest_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    seconds = iter([50.0, 4.0, 2.0])  # the first call is not counted

    def translate(lines: Sequence[str]) -> list[Any]:
        now[0] += next(seconds)
        best, other = SimpleNamespace(tokens=3), SimpleNamespace(tokens=100)
        return [SimpleNamespace(n_best=[best, other]) for _ in lines]

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    assert speed.decoding_speed(translate, ["a", "b", "c", "d"]) == 4 * 3 / 2.0


def test_training_counts_both_sides_and_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = ModelConfig(
        kind=ModelKind.transformer, width=8, ffn=8, heads=2, encoder_layers=1, decoder_layers=1
    )
    model = build_model(size, AttentionConfig(), source_vocab=20, target_vocab=20).eval()
    ticks = iter([0.0, 9.0, 0.0, 2.0, 0.0, 0.5, 0.0, 3.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks))
    [found] = speed.training_speed(model, [8], tokens=100)
    assert found == speed.Speed(8, 2 * 6 * 8 / 0.5)  # six sentences of eight on each side
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
