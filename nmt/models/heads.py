"""The attention heads of a model: their names, and a model with some of them silenced.

Names are those of ``attention.masked_heads``: ``cross.0.3`` is head 3 of the first layer's
cross-attention.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager

import torch

from nmt.errors import UserError
from nmt.models.multihead import MultiHead
from nmt.models.recurrent import AttentiveDecoder, Recurrent
from nmt.models.recurrent_attention import Attention
from nmt.models.seq2seq import Seq2Seq
from nmt.models.transformer import Transformer


def head_names(model: Seq2Seq) -> list[str]:
    """The name of each head; none where there is no attention."""
    return [
        f"{place}.{head}"
        for place, attention in _attentions(model).items()
        for head in range(_heads(attention))
    ]


@contextmanager
def masked(model: Seq2Seq, names: Collection[str]) -> Iterator[None]:
    """The contexts of these heads, and of those masked before, are zero while it lasts.

    Michel et al. 2019, Eq. 2.

    Raises:
        UserError: there is no such head.
    """
    known = head_names(model)
    for name in names:
        if name not in known:
            there = f"{known[0]} to {known[-1]}" if known else "none, for it has no attention"
            raise UserError(f"there is no head {name!r}; this model has {there}")
    with ExitStack() as stack:
        for place, attention in _attentions(model).items():
            heads = {int(name.rpartition(".")[2]) for name in names if name.startswith(f"{place}.")}
            if heads:
                stack.callback(_silence(attention, heads))
        yield


def _attentions(model: Seq2Seq) -> dict[str, MultiHead | Attention]:
    """Each attention by kind and layer."""
    if isinstance(model, Transformer):
        return {
            f"{kind}.{layer}": attention
            for kind, attentions in model.attentions().items()
            for layer, attention in enumerate(attentions)
        }
    if isinstance(model, Recurrent) and isinstance(model.decoder, AttentiveDecoder):
        return {"cross.0": model.decoder.attention}
    return {}


def _heads(attention: MultiHead | Attention) -> int:
    if isinstance(attention, MultiHead):
        return attention.size.heads
    return 1 if attention.heads is None else attention.heads.heads


def _silence(attention: MultiHead | Attention, heads: set[int]) -> Callable[[], None]:
    """Masks heads; returns what undoes it."""
    if isinstance(attention, Attention):
        before = attention.masked
        attention.masked = tuple(sorted(heads.union(before)))
        return lambda: setattr(attention, "masked", before)
    heard = attention.heard_H11
    weight = attention.out.weight
    mask = torch.ones(attention.size.heads, 1, 1, device=weight.device) if heard is None else heard
    attention.heard_H11 = mask.index_fill(0, torch.tensor(sorted(heads), device=mask.device), 0.0)
    return lambda: setattr(attention, "heard_H11", heard)
