"""Record the golden losses anew: ``PYTHONPATH=. python tests/training/golden/make.py``.

Only for a change that is meant to change the numbers; say in its commit why they changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import toy  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    for kind in ("transformer", "lstm"):
        weights = toy.toy_model(kind, dropout=0.0).state_dict()
        safetensors.torch.save_file(weights, HERE / f"{kind}.safetensors")
        with tempfile.TemporaryDirectory() as folder:
            losses = toy.golden_losses(Path(folder), HERE, kind)
        text = json.dumps(losses, indent=0) + "\n"
        (HERE / f"{kind}.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
