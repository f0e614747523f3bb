"""Attention as independent choices: a score, a window, a number of heads.

A score says how well a query fits a key; the window says which keys a query may see; `weigh` turns
both into weights, in one place for every kind. recurrent_attention.py puts them together for
recurrent decoders, multihead.py for Transformers. Shape letters as in seq2seq.py.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmt.models.projection import linear


def weigh(scores: Tensor, keep: Tensor | None) -> Tensor:
    """Masked softmax over the last axis, at least in fp32; the only one in the program.

    `keep` broadcasts against `scores`. Weights are exactly zero where it is False, and a row that
    may see nothing gets zeros: softmax(-inf) would be NaN, a large negative fill alone would spread
    the row evenly over its padding.
    """
    scores = widened(scores)
    if keep is None:
        return scores.softmax(-1)
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~keep, lowest).softmax(-1).masked_fill(~keep, 0.0)


def weigh_near(scores: Tensor, keep: Tensor, bell: Tensor | None) -> Tensor:
    """Weights that fall off with the distance from a centre, where there is a `bell`."""
    weights = weigh(scores, keep)
    return weights if bell is None else weights * bell


def widened(x: Tensor) -> Tensor:
    """In fp32, or in fp64 if it was."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Score(nn.Module, ABC):
    """How well the queries of each head fit the slots of a memory: [B, H, T, M].

    Queries are [B, H, T, d] and slots [B, H, M, d]; `heads` heads of `width` d each have weights of
    their own. Keys are made once per source and travel in the memory. Their projections carry no
    bias: it would add the same number to all scores of a row, which the softmax takes away again.
    """

    is_product = True  # compare() is a plain matrix product, so a fused kernel may take its place

    def keys(self, slots_BHMd: Tensor) -> Tensor:
        """What the score needs of each slot, computed once: [B, H, M, d]."""
        return slots_BHMd

    def queries(self, query_BHTd: Tensor) -> Tensor:
        """What the score needs of each query: [B, H, T, d]."""
        return query_BHTd

    def compare(self, queries_BHTd: Tensor, keys_BHMd: Tensor) -> Tensor:
        """Scores [B, H, T, M] of what `queries` and `keys` made."""
        return queries_BHTd @ keys_BHMd.transpose(-1, -2)

    def forward(self, query_BHTd: Tensor, keys_BHMd: Tensor) -> Tensor:
        """Scores [B, H, T, M] of queries with keys."""
        return self.compare(self.queries(query_BHTd), keys_BHMd)


class PerHead(nn.Module):
    """A linear map without bias for each head; with one head it is `nn.Linear`."""

    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(heads * outputs, inputs))
        nn.init.uniform_(self.weight, -(inputs**-0.5), inputs**-0.5)

    def forward(self, x_BHNI: Tensor) -> Tensor:
        """[B, H, N, O] from [B, H, N, I]."""
        if self.heads == 1:
            return linear(x_BHNI, self.weight, None)
        weight_HOI: Tensor = self.weight.unflatten(0, (self.heads, -1))
        return x_BHNI @ weight_HOI.transpose(1, 2)


class Dot(Score):
    """q . k (Luong et al. 2015, Eq. 8, dot)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()


class ScaledDot(Score):
    """q . k / sqrt(d) (Vaswani et al. 2017, Eq. 1, without projections)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(width)

    def queries(self, query_BHTd: Tensor) -> Tensor:
        return query_BHTd * self.scale


class General(Score):
    """q . W k (Luong et al. 2015, Eq. 8, general)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.key = PerHead(width, width, heads)

    def keys(self, slots_BHMd: Tensor) -> Tensor:
        projected: Tensor = self.key(slots_BHMd)
        return projected


class Additive(Score):
    """v . tanh(W q + U k) (Bahdanau et al. 2015, A.1.2; Luong et al. 2015, Eq. 8, concat)."""

    is_product = False

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = PerHead(width, width, heads)
        self.key = PerHead(width, width, heads)
        self.out = PerHead(width, 1, heads)

    def keys(self, slots_BHMd: Tensor) -> Tensor:
        projected: Tensor = self.key(slots_BHMd)
        return projected

    def queries(self, query_BHTd: Tensor) -> Tensor:
        projected: Tensor = self.query(query_BHTd)
        return projected

    def compare(
        self, queries_BHTd: Tensor, keys_BHMd: Tensor, inner_BHTMd: Tensor | None = None
    ) -> Tensor:
        """Scores [B, H, T, M]; `inner` is one more term within the tanh."""
        sum_BHTMd = queries_BHTd.unsqueeze(3) + keys_BHMd.unsqueeze(2)
        if inner_BHTMd is not None:
            sum_BHTMd = sum_BHTMd + inner_BHTMd
        scores: Tensor = self.out(sum_BHTMd.tanh().flatten(2, 3))
        return scores.reshape(sum_BHTMd.shape[:-1])


class Location(Additive):
    """v . tanh(W q + U k + P f + b), f the weights of the step before, convolved with F.

    Chorowski et al. 2015, Eq. 8 (f) and 9. Of the paper's 201 taps over frames of speech, 15 words
    are left. Before the first step nothing has been looked at: zeros.
    """

    filters, reach = 10, 7

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.convolution = nn.Conv1d(
            heads,
            heads * self.filters,
            2 * self.reach + 1,
            padding=self.reach,
            groups=heads,
            bias=False,
        )
        self.feature = PerHead(self.filters, width, heads)
        self.offset = nn.Parameter(torch.zeros(heads, 1, width))

    def inner(self, previous_NHM: Tensor) -> Tensor:
        """P f + b, [N, H, M, d], from the weights of the step before."""
        found_NHFM = self.convolution(previous_NHM).unflatten(1, (previous_NHM.shape[1], -1))
        projected: Tensor = self.feature(found_NHFM.transpose(2, 3))
        return projected + self.offset


class Cosine(Score):
    """g cos(q, k) with a learnt sharpness g: bare cosines are too flat for a softmax to point.

    Without `learn_temperature` it is the bare cosine, g = 1.
    """

    def __init__(self, width: int, heads: int, *, learn_temperature: bool = True) -> None:
        super().__init__()
        shape = (heads, 1, 1) if heads > 1 else ()
        self.log_sharpness = (
            nn.Parameter(torch.full(shape, math.log(10.0))) if learn_temperature else None
        )

    def keys(self, slots_BHMd: Tensor) -> Tensor:
        return F.normalize(slots_BHMd, dim=-1)

    def queries(self, query_BHTd: Tensor) -> Tensor:
        unit_BHTd = F.normalize(query_BHTd, dim=-1)
        return unit_BHTd if self.log_sharpness is None else unit_BHTd * self.log_sharpness.exp()


SCORES: dict[str, Callable[[int, int], Score]] = {
    "dot": Dot,
    "scaled_dot": ScaledDot,
    "general": General,
    "additive": Additive,
    "cosine": Cosine,
    "location": Location,
}
