"""Attention as independent choices: a score, a window, a number of heads.

A score says how well a query fits a key; the window says which keys a query may see; `weigh` turns
both into weights, in one place for every kind. Shape letters as in seq2seq.py, and A width of a
projected key.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOWS = ("full", "causal")


def weigh(scores: Tensor, keep: Tensor | None) -> Tensor:
    """Masked softmax over the last axis, at least in fp32; the only one in the program.

    `keep` broadcasts against `scores`. Weights are exactly zero where it is False, and a row that
    may see nothing gets zeros: softmax(-inf) would be NaN, a large negative fill alone would spread
    the row evenly over its padding.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if keep is None:
        return scores.softmax(-1)
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~keep, lowest).softmax(-1).masked_fill(~keep, 0.0)


def causal_keep(queries: int, keys: int, device: torch.device) -> Tensor | None:
    """Keep mask [T, M] of the last `queries` of `keys` positions; None when all may be seen.

    A position sees itself and everything before it.
    """
    if queries == 1:
        return None
    keep_TM = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return keep_TM.tril(keys - queries)


class Score(nn.Module, ABC):
    """How well queries [B, T, D] fit the slots of a memory [B, M, D].

    Keys are projected once per source and travel in the memory. Their projections carry no bias:
    it would add the same number to all scores of a row, which the softmax takes away again.
    """

    def keys(self, values_BMD: Tensor) -> Tensor:
        """What the score needs of each slot, computed once: [B, M, A]."""
        return values_BMD

    @abstractmethod
    def forward(self, query_BTD: Tensor, keys_BMA: Tensor) -> Tensor:
        """Scores [B, T, M]."""


class Dot(Score):
    """q . k (Luong et al. 2015, Eq. 8, dot)."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, query_BTD: Tensor, keys_BMA: Tensor) -> Tensor:
        return query_BTD @ keys_BMA.transpose(1, 2)


class ScaledDot(Score):
    """q . k / sqrt(D) (Vaswani et al. 2017, Eq. 1, without projections)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(width)

    def forward(self, query_BTD: Tensor, keys_BMA: Tensor) -> Tensor:
        return (query_BTD * self.scale) @ keys_BMA.transpose(1, 2)


class General(Score):
    """q . W k (Luong et al. 2015, Eq. 8, general)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width, bias=False)

    def keys(self, values_BMD: Tensor) -> Tensor:
        projected: Tensor = self.key(values_BMD)
        return projected

    def forward(self, query_BTD: Tensor, keys_BMA: Tensor) -> Tensor:
        return query_BTD @ keys_BMA.transpose(1, 2)


class Additive(Score):
    """v . tanh(W q + U k) (Bahdanau et al. 2015, A.1.2; Luong et al. 2015, Eq. 8, concat)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, 1, bias=False)

    def keys(self, values_BMD: Tensor) -> Tensor:
        projected: Tensor = self.key(values_BMD)
        return projected

    def forward(self, query_BTD: Tensor, keys_BMA: Tensor) -> Tensor:
        sum_BTMA = self.query(query_BTD).unsqueeze(2) + keys_BMA.unsqueeze(1)
        scores_BTM: Tensor = self.out(sum_BTMA.tanh()).squeeze(-1)
        return scores_BTM


class Cosine(Score):
    """g cos(q, k) with a learnt sharpness g: bare cosines are too flat for a softmax to point."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(10.0)))

    def keys(self, values_BMD: Tensor) -> Tensor:
        return F.normalize(values_BMD, dim=-1)

    def forward(self, query_BTD: Tensor, keys_BMA: Tensor) -> Tensor:
        cosines_BTM = F.normalize(query_BTD, dim=-1) @ keys_BMA.transpose(1, 2)
        return cosines_BTM * self.log_sharpness.exp()


SCORES: dict[str, type[Dot | ScaledDot | General | Additive | Cosine]] = {
    "dot": Dot,
    "scaled_dot": ScaledDot,
    "general": General,
    "additive": Additive,
    "cosine": Cosine,
}


class Attention(nn.Module):
    """Weights and contexts of queries over a memory, by any score."""

    def __init__(self, *, score: Score, dropout: float) -> None:
        super().__init__()
        self.score = score
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query_NTD: Tensor, keys_BMA: Tensor, values_BMD: Tensor, keep_BM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Contexts [N, T, D] and weights [N, T, M]; N / B neighbouring rows share a memory row."""
        folded = query_NTD.reshape(len(keep_BM), -1, query_NTD.shape[-1])
        weights = weigh(self.score(folded, keys_BMA), keep_BM.unsqueeze(1))
        context = self.dropout(weights).to(values_BMD.dtype) @ values_BMD
        return context.reshape(query_NTD.shape), weights.reshape(*query_NTD.shape[:2], -1)


def prefers_fused(device: torch.device) -> bool:
    """Whether PyTorch's fused attention is the faster path here.

    On CPU its backward is slower than the explicit form at sentence lengths.
    """
    return device.type == "cuda"


def attend_heads(
    query_BHTd: Tensor,
    keys_BHMd: Tensor,
    values_BHMd: Tensor,
    keep: Tensor | None,
    *,
    dropout: float,
    trace: list[Tensor] | None,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, Eq. 1), contexts [B, H, T, d].

    `keep` broadcasts to [B, H, T, M]. With a `trace` the weights [B, H, T, M] are appended to it,
    which takes the explicit path; without one the device decides, and both give the same numbers.
    """
    if trace is None and prefers_fused(query_BHTd.device):
        return _attend_fused(query_BHTd, keys_BHMd, values_BHMd, keep, dropout)
    scale = query_BHTd.shape[-1] ** -0.5
    weights_BHTM = weigh((query_BHTd * scale) @ keys_BHMd.transpose(-1, -2), keep)
    if trace is not None:
        trace.append(weights_BHTM)
    if dropout > 0.0:
        weights_BHTM = F.dropout(weights_BHTM, dropout)
    return weights_BHTM.to(values_BHMd.dtype) @ values_BHMd


def _attend_fused(
    query_BHTd: Tensor,
    keys_BHMd: Tensor,
    values_BHMd: Tensor,
    keep: Tensor | None,
    dropout: float,
) -> Tensor:
    if keep is None:
        return F.scaled_dot_product_attention(query_BHTd, keys_BHMd, values_BHMd, dropout_p=dropout)
    # Kernels disagree on rows that may see nothing, so they see everything and are zeroed after.
    sees = keep.any(-1, keepdim=True)
    context_BHTd = F.scaled_dot_product_attention(
        query_BHTd, keys_BHMd, values_BHMd, attn_mask=keep | ~sees, dropout_p=dropout
    )
    return context_BHTd.masked_fill(~sees, 0.0)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, one matrix for queries, keys and values.

    The projections carry no bias: that of the keys has no gradient, and that of the values is the
    output's, since weights sum to one.
    """

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        for block_DD in self.inputs.weight.chunk(3):
            nn.init.xavier_uniform_(block_DD)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x_NTD: Tensor,
        keep: Tensor | None,
        *,
        past: Past | None = None,
        trace: list[Tensor] | None = None,
    ) -> Tensor:
        """[N, T, D] from [N, T, D]; a `past` is extended by the T new positions and attended too.

        `keep` broadcasts to [N, H, T, M], M counting past and new positions.
        """
        query_NHTd, keys_NHTd, values_NHTd = split_heads(self.inputs(x_NTD), 3, self.heads)
        if past is not None:
            keys_NHTd, values_NHTd = past.append(keys_NHTd, values_NHTd)
        context_NHTd = attend_heads(
            query_NHTd,
            keys_NHTd,
            values_NHTd,
            keep,
            dropout=self.dropout if self.training else 0.0,
            trace=trace,
        )
        out_NTD: Tensor = self.out(context_NHTd.transpose(1, 2).flatten(2))
        return out_NTD


class CrossAttention(nn.Module):
    """Multi-head attention to a memory whose keys and values were projected beforehand."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=False)
        self.inputs = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        for block_DD in (self.query.weight, *self.inputs.weight.chunk(2), self.out.weight):
            nn.init.xavier_uniform_(block_DD)
        nn.init.zeros_(self.out.bias)

    def keys_values(self, values_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, M, d] of a memory, computed once per source."""
        keys_BHMd, values_BHMd = split_heads(self.inputs(values_BMD), 2, self.heads)
        return keys_BHMd.contiguous(), values_BHMd.contiguous()

    def forward(
        self,
        x_NTD: Tensor,
        keys_BHMd: Tensor,
        values_BHMd: Tensor,
        keep_BM: Tensor,
        *,
        trace: list[Tensor] | None = None,
    ) -> Tensor:
        """[N, T, D] from [N, T, D]; each memory row serves N / B neighbouring rows, uncopied."""
        rows = keep_BM.shape[0]
        folded = self.query(x_NTD).reshape(rows, -1, x_NTD.shape[-1])
        (query_BHTd,) = split_heads(folded, 1, self.heads)
        context_BHTd = attend_heads(
            query_BHTd,
            keys_BHMd,
            values_BHMd,
            keep_BM[:, None, None, :],
            dropout=self.dropout if self.training else 0.0,
            trace=trace,
        )
        out_NTD: Tensor = self.out(context_BHTd.transpose(1, 2).reshape(x_NTD.shape))
        return out_NTD


def split_heads(x_NTD: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """`parts` tensors [N, H, T, d] from their fused projection [N, T, parts * H * d]."""
    split: Tensor = x_NTD.unflatten(-1, (parts, heads, -1))
    return tuple(split.permute(2, 0, 3, 1, 4).unbind(0))


class Past:
    """Keys and values [N, H, length, d] of the positions that one layer has read so far.

    Without gradients they lie in a buffer with room for `capacity` positions and are written in
    place; autograd forbids that, so with gradients they are concatenated.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys_NHTd: Tensor, values_NHTd: Tensor) -> tuple[Tensor, Tensor]:
        """Adds T positions; returns the keys and values of all of them."""
        start, self.length = self.length, self.length + keys_NHTd.shape[2]
        if self.keys is None or self.values is None:
            self.keys = _reserve(keys_NHTd, self.capacity)
            self.values = _reserve(values_NHTd, self.capacity)
        elif torch.is_grad_enabled():
            self.keys = torch.cat([self.keys[:, :, :start], keys_NHTd], 2)
            self.values = torch.cat([self.values[:, :, :start], values_NHTd], 2)
        else:
            if self.length > self.keys.shape[2]:
                self.keys = _reserve(self.keys[:, :, :start], 2 * self.length)
                self.values = _reserve(self.values[:, :, :start], 2 * self.length)
            self.keys[:, :, start : self.length] = keys_NHTd
            self.values[:, :, start : self.length] = values_NHTd
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def select(self, rows: Tensor) -> Past:
        """The same positions for these rows; reuses the buffer where the number of rows allows."""
        chosen = Past(self.capacity)
        chosen.length = self.length
        if self.keys is not None and self.values is not None:
            chosen.keys = _take(self.keys, rows, self.length)
            chosen.values = _take(self.values, rows, self.length)
        return chosen


def _reserve(x_NHTd: Tensor, capacity: int) -> Tensor:
    """A buffer that begins with `x` and has room for `capacity` positions."""
    rows, heads, length, width = x_NHTd.shape
    if torch.is_grad_enabled() or capacity <= length:
        return x_NHTd
    buffer = x_NHTd.new_empty(rows, heads, capacity, width)
    buffer[:, :, :length] = x_NHTd
    return buffer


def _take(buffer: Tensor, rows: Tensor, length: int) -> Tensor:
    """Rows of the filled part, in the same buffer where gradients and their number allow."""
    chosen = buffer[:, :, :length].index_select(0, rows)
    if torch.is_grad_enabled() or len(rows) > len(buffer):
        return chosen if torch.is_grad_enabled() else _reserve(chosen, buffer.shape[2])
    buffer = buffer[: len(rows)]
    buffer[:, :, :length] = chosen
    return buffer
