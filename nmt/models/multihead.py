"""Multi-head attention of sequences to themselves and to a memory, and its cache.

Here every position sees all it may; sliding.py and linear.py hold the kinds whose cost grows with
the length, not with its square. Shape letters as in seq2seq.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmt.models.attention import Score, weigh
from nmt.models.dropout import drop
from nmt.models.positions import Rotation, rotate
from nmt.models.projection import Linear
from nmt.models.seq2seq import Trace

FUSED_FROM = 192  # keys from which a CPU's fused kernel trains faster in half precision


class Past(ABC):
    """What one layer's self-attention remembers of the positions it has read."""

    @abstractmethod
    def select(self, rows: Tensor) -> Past:
        """The same positions for these rows; the old one must not be used again."""


@dataclass
class Remembered:
    """What one layer's cross-attention reads of each source, computed once; rows first."""


def causal_keep(queries: int, keys: int, device: torch.device) -> Tensor | None:
    """Keep mask [T, M] of the last `queries` of `keys` positions; None when all may be seen.

    A position sees itself and everything before it.
    """
    if queries == 1:
        return None
    keep_TM = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return keep_TM.tril(keys - queries)


def prefers_fused(query_BHTd: Tensor, keys: int, dropout: float) -> bool:
    """Whether PyTorch's fused attention is the faster path here, as it nearly always is.

    A CPU's kernel has no dropout, and its backward in half precision is slow at the lengths of
    sentences. Explicit time by fused time, with the backward pass (train), without (read) and for
    one query (step), padded, 4 heads of 64, 4,096 tokens (one core with AVX-512-BF16, torch 2.13):

        length        30     64    128    192    256    512   2048
        fp32 train  1.06   1.32   1.52   1.95   1.91   3.07   3.29
        bf16 train  0.23   0.25   0.64   1.18   1.48   2.98   3.64
        fp32 read   0.87          1.63                 4.19   4.52
        bf16 read   0.95          2.83                 9.08  12.39
        fp32 step   2.16          5.93                 8.20   7.27
        bf16 step   3.02          3.81                 4.49   5.05
    """
    if not query_BHTd.is_cpu:
        return True
    slow = query_BHTd.requires_grad and query_BHTd.dtype.itemsize < 4 and keys < FUSED_FROM
    return not slow and dropout == 0.0


def attend_heads(
    query_BHTd: Tensor,
    keys_BHMd: Tensor,
    values_BHMd: Tensor,
    keep: Tensor | None,
    *,
    score: Score,
    dropout: float,
    trace: Trace,
) -> Tensor:
    """Contexts [B, H, T, d] of queries over keys that `score.keys` has made.

    softmax(score(q, k)) v in each head (Vaswani et al. 2017, Eq. 1, for the scaled dot product).
    `keep` broadcasts to [B, H, T, M]. With a `trace` the weights [B, H, T, M] are appended to it,
    which takes the explicit path; without one the faster path is chosen where the score is a
    product, and both give the same numbers.
    """
    query_BHTd = score.queries(query_BHTd)
    if (
        trace is None
        and score.is_product
        and prefers_fused(query_BHTd, keys_BHMd.shape[2], dropout)
    ):
        return _attend_fused(query_BHTd, keys_BHMd, values_BHMd, keep, dropout)
    weights_BHTM = weigh(score.compare(query_BHTd, keys_BHMd), keep)
    if trace is not None:
        trace.append(weights_BHTM)
    if dropout > 0.0:
        weights_BHTM = drop(weights_BHTM, dropout)
    return weights_BHTM.to(values_BHMd.dtype) @ values_BHMd


def _attend_fused(
    query_BHTd: Tensor,
    keys_BHMd: Tensor,
    values_BHMd: Tensor,
    keep: Tensor | None,
    dropout: float,
) -> Tensor:
    if keep is None:
        return F.scaled_dot_product_attention(
            query_BHTd, keys_BHMd, values_BHMd, dropout_p=dropout, scale=1.0
        )
    # Kernels disagree on rows that may see nothing, so they see everything and are zeroed after.
    sees = keep.any(-1, keepdim=True)
    context_BHTd = F.scaled_dot_product_attention(
        query_BHTd, keys_BHMd, values_BHMd, attn_mask=keep | ~sees, dropout_p=dropout, scale=1.0
    )
    return context_BHTd.masked_fill(~sees, 0.0)


@dataclass(frozen=True, kw_only=True)
class HeadSize:
    """The numbers that every multi-head attention of a model shares."""

    width: int
    heads: int
    head_width: int
    dropout: float


class MultiHead(nn.Module):
    """Projections into heads, and from their contexts back to the width.

    Those into heads carry no bias: that of the keys has no gradient, and that of the values is the
    output's, since weights sum to one. Contexts of `masked` heads are multiplied by zero (Michel et
    al. 2019, Eq. 2).
    """

    no_weights: str | None = None  # why there are no attention weights to show
    inputs: nn.Linear
    out: nn.Linear

    def __init__(self, size: HeadSize, masked: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.heard_H11: Tensor | None
        heard = [[[float(head not in masked)]] for head in range(size.heads)]
        self.register_buffer("heard_H11", torch.tensor(heard) if masked else None, persistent=False)

    @property
    def dropout_now(self) -> float:
        """The dropout of weights, which is for training only."""
        return self.size.dropout if self.training else 0.0

    def project(self, parts: int) -> nn.Linear:
        """One matrix for `parts` projections into heads."""
        inner = self.size.heads * self.size.head_width
        linear = Linear(self.size.width, parts * inner, bias=False)
        for block_ID in linear.weight.chunk(parts):
            nn.init.xavier_uniform_(block_ID)
        return linear

    def output(self) -> nn.Linear:
        """The matrix from all contexts back to the width."""
        linear = Linear(self.size.heads * self.size.head_width, self.size.width)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear

    def split(self, projected_NTI: Tensor) -> tuple[Tensor, ...]:
        """The heads [N, H, T, d] of each projection in [N, T, parts * H * d]."""
        heads = projected_NTI.unflatten(-1, (-1, self.size.heads, self.size.head_width))
        return tuple(heads.permute(2, 0, 3, 1, 4).unbind(0))

    def value_norms(self, projected_NMI: Tensor) -> Tensor:
        """||f(x)|| [N, H, M] of each slot in each head, from what `inputs` made of it.

        f(x) = W_O W_V x is what a weight of one adds to the output, so that a weight times its norm
        says how much was added (Kobayashi et al. 2020, Sect. 3; here for each head).
        """
        values_NHMd = self.split(projected_NMI)[-1]
        out_HdD = self.out.weight.T.unflatten(0, (self.size.heads, -1))
        norms_NHM: Tensor = (values_NHMd @ out_HdD).norm(dim=-1)
        return norms_NHM if self.heard_H11 is None else norms_NHM * self.heard_H11.squeeze(-1)

    def record_norms(self, norms: list[Tensor]) -> Callable[[], None]:
        """Appends `value_norms` of whatever is read from now on; returns what ends that."""

        def record(_: nn.Module, __: object, projected_NMI: Tensor) -> None:
            norms.append(self.value_norms(projected_NMI))

        return self.inputs.register_forward_hook(record).remove

    def join(self, context_BHTd: Tensor, rows: int) -> Tensor:
        """[N, T, D] from the contexts of the heads, those of N / B rows side by side."""
        if self.heard_H11 is not None:
            context_BHTd = context_BHTd * self.heard_H11
        context_BTHd = context_BHTd.transpose(1, 2)
        out: Tensor = self.out(context_BTHd.reshape(rows, -1, self.out.in_features))
        return out


class SelfAttention(MultiHead, ABC):
    """Attention of a sequence to itself, one matrix for queries, keys and values."""

    def __init__(self, size: HeadSize, *, causal: bool, masked: Sequence[int] = ()) -> None:
        super().__init__(size, masked)
        self.causal = causal
        self.inputs = self.project(3)
        self.out = self.output()

    @abstractmethod
    def begin(self, capacity: int) -> Past:
        """What is remembered before the first position; `capacity` positions may come."""

    @abstractmethod
    def mask(self, keep_NT: Tensor, length: int) -> Tensor | None:
        """What T new positions may see after `length` others, made once for all layers.

        `keep_NT` says which of the new positions are there. Causal attention does not look at it:
        what is missing comes last, and nobody after it.
        """

    @abstractmethod
    def mix(
        self, heads: Sequence[Tensor], mask: Tensor | None, past: Past | None, trace: Trace
    ) -> Tensor:
        """Contexts [N, H, T, d] from queries, keys and values, each [N, H, T, d]."""

    def forward(
        self,
        x_NTD: Tensor,
        mask: Tensor | None,
        *,
        past: Past | None = None,
        turn: Rotation | None = None,
        trace: Trace = None,
    ) -> Tensor:
        """[N, T, D] from [N, T, D]; a `past` is extended by the T new positions and attended too.

        `mask` is what the method of that name made; `turn` are rotary positions; a trace gets the
        weights [N, H, T, M], M counting what is remembered and new, of a kind that has weights.
        """
        query_NHTd, keys_NHTd, values_NHTd = self.split(self.inputs(x_NTD))
        if turn is not None:
            query_NHTd, keys_NHTd = rotate(query_NHTd, turn), rotate(keys_NHTd, turn)
        context_NHTd = self.mix((query_NHTd, keys_NHTd, values_NHTd), mask, past, trace)
        return self.join(context_NHTd, len(x_NTD))


class FullSelfAttention(SelfAttention):
    """Every position sees every other, or every earlier one and itself; by any score."""

    def __init__(
        self, size: HeadSize, score: Score, *, causal: bool, masked: Sequence[int] = ()
    ) -> None:
        super().__init__(size, causal=causal, masked=masked)
        self.score = score

    def begin(self, capacity: int) -> Past:
        return KeysValues(capacity)

    def mask(self, keep_NT: Tensor, length: int) -> Tensor | None:
        if not self.causal:
            return keep_NT[:, None, None, :]
        count = keep_NT.shape[1]
        return causal_keep(count, length + count, keep_NT.device)

    def mix(
        self, heads: Sequence[Tensor], mask: Tensor | None, past: Past | None, trace: Trace
    ) -> Tensor:
        query_NHTd, keys_NHTd, values_NHTd = heads
        keys_NHTd = self.score.keys(keys_NHTd)
        if isinstance(past, KeysValues):
            keys_NHTd, values_NHTd = past.append(keys_NHTd, values_NHTd)
        return attend_heads(
            query_NHTd,
            keys_NHTd,
            values_NHTd,
            mask,
            score=self.score,
            dropout=self.dropout_now,
            trace=trace,
        )


@dataclass
class Projected(Remembered):
    """Keys and values [B, H, M, d] of a memory, computed once per source."""

    keys_BHMd: Tensor
    values_BHMd: Tensor


class CrossAttention(MultiHead, ABC):
    """Attention to a memory whose keys and values were projected beforehand."""

    def __init__(self, size: HeadSize, *, masked: Sequence[int] = ()) -> None:
        super().__init__(size, masked)
        self.query = self.project(1)
        self.inputs = self.project(2)
        self.out = self.output()

    @abstractmethod
    def remember(self, values_BMD: Tensor, keep_BM: Tensor) -> Remembered:
        """What is read of each source, computed once."""

    @abstractmethod
    def mix(
        self, query_BHTd: Tensor, remembered: Remembered, keep_BM: Tensor, trace: Trace
    ) -> Tensor:
        """Contexts [B, H, T, d]."""

    def forward(
        self, x_NTD: Tensor, remembered: Remembered, keep_BM: Tensor, *, trace: Trace = None
    ) -> Tensor:
        """[N, T, D] from [N, T, D]; each memory row serves N / B neighbouring rows, uncopied."""
        folded = self.query(x_NTD).reshape(keep_BM.shape[0], -1, self.query.out_features)
        (query_BHTd,) = self.split(folded)
        seen: Trace = None if trace is None else []
        context_BHTd = self.mix(query_BHTd, remembered, keep_BM, seen)
        if trace is not None and seen:  # each row of weights goes to the hypothesis that asked
            split = (len(x_NTD) // len(keep_BM), x_NTD.shape[1])
            trace += [w.unflatten(2, split).transpose(1, 2).flatten(0, 1) for w in seen]
        return self.join(context_BHTd, len(x_NTD))


class FullCrossAttention(CrossAttention):
    """Every target position sees every source position; by any score."""

    def __init__(self, size: HeadSize, score: Score, *, masked: Sequence[int] = ()) -> None:
        super().__init__(size, masked=masked)
        self.score = score

    def remember(self, values_BMD: Tensor, keep_BM: Tensor) -> Projected:
        keys_BHMd, values_BHMd = self.split(self.inputs(values_BMD))
        return Projected(self.score.keys(keys_BHMd).contiguous(), values_BHMd.contiguous())

    def mix(
        self, query_BHTd: Tensor, remembered: Remembered, keep_BM: Tensor, trace: Trace
    ) -> Tensor:
        assert isinstance(remembered, Projected)
        return attend_heads(
            query_BHTd,
            remembered.keys_BHMd,
            remembered.values_BHMd,
            keep_BM[:, None, None, :],
            score=self.score,
            dropout=self.dropout_now,
            trace=trace,
        )


class KeysValues(Past):
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

    def select(self, rows: Tensor) -> KeysValues:
        """The same positions for these rows; reuses the buffer where the number of rows allows."""
        chosen = KeysValues(self.capacity)
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
    filled = buffer[:, :, :length]
    if torch.is_grad_enabled():
        return filled.index_select(0, rows)
    if len(rows) > len(buffer):
        return _reserve(filled.index_select(0, rows), buffer.shape[2])
    places = torch.arange(len(rows), device=rows.device)
    if rows.is_cpu:  # search leaves most rows where they are; a GPU would have to be asked which
        places = places[rows != places]
    filled[: len(rows)].index_copy_(0, places, filled.index_select(0, rows[places]))
    return buffer[: len(rows)]
