"""Models without memory: for their size, or to compare names and shapes before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _NothingDrawn(TorchFunctionMode):
    """Normal numbers are not drawn: for a tensor without memory, PyTorch would import its compiler
    to do so, which takes longer than all the rest of a small command.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Models built inside have names, shapes and types, and take no memory."""
    with torch.device("meta"), _NothingDrawn():
        yield
