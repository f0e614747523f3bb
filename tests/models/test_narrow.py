"""Linear layers kept in half precision give bit for bit what autocast makes of wide ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.decoding.translate import inference
from nmt.models.build import build_model
from nmt.models.seq2seq import Source

Case = Callable[..., Any]
RECURRENT = {
    "none": (("none", None, None), "lstm", {}),
    "bahdanau": (("additive", "previous", None), "lstm", {}),
    "luong_general-gru": (("general", "current", True), "gru", {}),
    "two heads": (("dot", "current", False), "lstm", {"heads": 2}),
    "location": (("location", "current", True), "lstm", {}),
}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "full": {},
    "sliding": {"encoder": "sliding", "decoder": "sliding", "span": 2},
    "linear": {"encoder": "linear", "decoder": "linear", "cross": "linear"},
    "additive": {"score": "additive"},
    "rotary": {"positions": "rotary"},
}


@pytest.mark.parametrize("name", [*RECURRENT, *TRANSFORMERS])
def test_the_numbers_are_those_of_autocast(
    name: str, recurrent_case: Case, transformer_case: Case
) -> None:
    if name in RECURRENT:
        attention, cell, more = RECURRENT[name]
        case = recurrent_case(attention, cell, width=16, embedding=16, tie="all", **more)
    else:
        case = transformer_case(width=16, heads=2, depth=(1, 1), ffn=32, **TRANSFORMERS[name])
    torch.manual_seed(1)
    model = build_model(*case, 20, 20)
    torch.nn.init.normal_(model.output_bias)  # it begins at zero, where a lost one would not show
    ids_BS, target_BT = torch.randint(4, 20, (3, 7)), torch.randint(4, 20, (3, 5))
    source = Source(ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))

    def logits() -> Tensor:
        memory = model.encode(source)
        cache = model.start(memory, torch.arange(3), 6)
        hidden, _ = model.decode(target_BT, memory, cache)
        projected = model.projection()(hidden)
        assert torch.equal(projected, model.project(hidden))
        return projected

    model.eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = logits()
    with inference(model, torch.bfloat16):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.float32}
        assert torch.equal(logits(), expected)
    after = model.state_dict()
    assert all(after[name].dtype == torch.float32 for name in before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert torch.isfinite(logits()).all()  # and they can be used in their own type
