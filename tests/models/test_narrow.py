"""Linear layers kept in half precision give bit for bit what autocast makes of wide ones."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from nmt.decoding.translate import inference
from nmt.models.build import build_model
from nmt.models.seq2seq import Source
from nmt.runs import narrow_products

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
    narrow = deepcopy(model)
    narrow_products(narrow, torch.bfloat16)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16, torch.float32}
    ids_BS, target_BT = torch.randint(4, 20, (3, 7)), torch.randint(4, 20, (3, 5))
    source = Source(ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))
    found = []
    for one in (model, narrow):
        with inference(one, torch.bfloat16):
            memory = one.encode(source)
            cache = one.start(memory, torch.arange(3), 6)
            whole, _ = one.decode(target_BT, memory, cache)
            found.append(one.project(whole))
    assert torch.equal(found[0], found[1])
