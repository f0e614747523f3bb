from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

GOLDEN = Path(__file__).with_name("golden")


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_fifty_steps_give_the_committed_losses(toy: ModuleType, tmp_path: Path, kind: str) -> None:
    """Model, loss, plan, accumulation, clipping, optimiser and schedule, all at once.

    golden/make.py records the losses anew when a change is meant to change them.
    """
    losses = toy.golden_losses(tmp_path, GOLDEN, kind)
    committed = json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))
    assert len(committed) == 50
    assert losses == pytest.approx(committed, rel=1e-5)


def test_golden_weights_are_what_the_models_are_made_of(toy: ModuleType) -> None:
    """A new parameter or another shape would otherwise surface as a strange loss."""
    import safetensors.torch

    for kind in ("transformer", "lstm"):
        committed = safetensors.torch.load_file(GOLDEN / f"{kind}.safetensors")
        model = toy.toy_model(kind, dropout=0.0).state_dict()
        assert {k: v.shape for k, v in model.items()} == {k: v.shape for k, v in committed.items()}
        assert all(tensor.dtype == torch.float32 for tensor in committed.values())
