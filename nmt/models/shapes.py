"""Models nothing is drawn for: their weights are read later, or have names and shapes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWS = {
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    torch.Tensor.uniform_,  # inside nn.init.xavier_uniform_
}


class _NothingDrawn(TorchFunctionMode):
    """Random numbers stay undrawn; tensors keep what their memory holds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def undrawn() -> Iterator[None]:
    """Models built inside have weights of no meaning, all of which are to be read from somewhere.

    Drawing them took a third of the time of opening a run.
    """
    with _NothingDrawn():
        yield


@contextmanager
def shapes_only() -> Iterator[None]:
    """Models built inside have names, shapes and types, and take no memory.

    For a tensor without memory PyTorch would import its compiler to draw normal numbers, which
    takes longer than all the rest of a small command.
    """
    with torch.device("meta"), _NothingDrawn():
        yield
