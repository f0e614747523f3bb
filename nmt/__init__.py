"""Encoder-decoder neural machine translation: readable, fast, never silently wrong.

>>> from nmt import Translator
>>> Translator.load("runs/x").translate(["A dog."])[0].text
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmt.translator import Translator as Translator

__version__ = "0.1.0"
__all__ = ["Translator", "__version__"]


def __getattr__(name: str) -> object:
    # Late, so that `import nmt` and `nmt --help` do not import torch.
    if name == "Translator":
        from nmt.translator import Translator

        return Translator
    raise AttributeError(f"module 'nmt' has no attribute {name!r}")
