from __future__ import annotations

import pytest
import torch

from nmt.compose import compose
from nmt.models.build import build_model
from nmt.models.shapes import shapes_only, undrawn

PAIRS = [
    ["model=transformer_tiny"],
    ["model=transformer_tiny", "model.positions=learned", "model.tie=none"],
    ["model=lstm_small", "attention=none"],
    ["model=lstm_small", "attention=luong_concat"],
    ["model=lstm_small", "attention=local_p"],
]


@pytest.mark.parametrize("words", PAIRS, ids=" ".join)
def test_nothing_is_drawn_for_weights_that_are_read(words: list[str]) -> None:
    """The generator has not moved; names, shapes and what is no weight are as ever."""
    config = compose([*words, "model.width=8"])
    before = torch.get_rng_state()
    with undrawn():
        model = build_model(config.model, config.attention, 11, 11)
    with shapes_only():
        shapes = build_model(config.model, config.attention, 11, 11)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = build_model(config.model, config.attention, 11, 11)
    assert not torch.equal(torch.get_rng_state(), before)
    for name, weight in drawn.state_dict().items():
        assert model.state_dict()[name].shape == weight.shape
        assert shapes.state_dict()[name].is_meta
    for name, buffer in drawn.named_buffers():
        torch.testing.assert_close(dict(model.named_buffers())[name], buffer, msg=name)
