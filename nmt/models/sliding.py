"""Self-attention in a window that slides along, at a cost that grows with the length.

The sequence is cut into blocks of queries, each of which sees the keys of its own block and those
within reach on either side (the pattern of Beltagy et al. 2020, Sect. 3.1). Shape letters as in
seq2seq.py, and C blocks, L queries of a block, W keys that a block sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nmt.models.attention import Score
from nmt.models.multihead import HeadSize, Past, SelfAttention, attend_heads
from nmt.models.seq2seq import Trace

SMALLEST_BLOCK = 32  # in smaller ones the edges of the windows cost more than the blocks


class SlidingSelfAttention(SelfAttention):
    """A position sees `span` positions to each side and itself, a causal one none ahead.

    The same numbers as full attention under a band mask, in time and memory linear in the length.
    """

    def __init__(
        self,
        size: HeadSize,
        score: Score,
        *,
        causal: bool,
        span: int,
        masked: Sequence[int] = (),
    ) -> None:
        super().__init__(size, causal=causal, masked=masked)
        self.score = score
        self.span = span

    def begin(self, capacity: int) -> Past:
        return Recent(self.span)

    def cut(self, count: int, keys: int) -> Blocks:
        """How `count` queries and the keys that end where they end are cut; one block if short."""
        blocks = -(-count // max(self.span, SMALLEST_BLOCK))
        ahead = 0 if self.causal else self.span
        return Blocks(count, keys, -(-count // blocks), self.span, ahead)

    def mask(self, keep_NT: Tensor, length: int) -> Tensor | None:
        """[N * C, 1, L, W]."""
        count = keep_NT.shape[1]
        if self.causal and count == 1:
            return None  # what is still remembered is within reach
        keep_NM = F.pad(keep_NT, (min(length, self.span), 0), value=True)
        cut = self.cut(count, keep_NM.shape[1])
        keep_11W = cut.windows(keep_NM[:, None, :, None]).transpose(-1, -2)
        return keep_11W & cut.near(keep_NT.device)

    def mix(
        self, heads: Sequence[Tensor], mask: Tensor | None, past: Past | None, trace: Trace
    ) -> Tensor:
        query_NHTd, keys_NHMd, values_NHMd = heads
        keys_NHMd = self.score.keys(keys_NHMd)
        if isinstance(past, Recent):
            keys_NHMd, values_NHMd = past.append(keys_NHMd, values_NHMd)
        cut = self.cut(query_NHTd.shape[2], keys_NHMd.shape[2])
        weights: Trace = None if trace is None else []
        context = attend_heads(
            cut.queries(query_NHTd),
            cut.windows(keys_NHMd),
            cut.windows(values_NHMd),
            mask,
            score=self.score,
            dropout=self.dropout_now,
            trace=weights,
        )
        if trace is not None and weights is not None:
            trace.append(cut.spread(weights[0]))
        return cut.join(context)


@dataclass(frozen=True)
class Blocks:
    """How `count` queries are cut into blocks of `size`, and the keys they see into windows.

    Query t stands at key keys - count + t and sees `behind` keys before that one and `ahead` after
    it. Missing queries and keys at the edges are zeros, which the mask hides. A single block sees
    all keys and nothing is cut or copied.
    """

    count: int
    keys: int
    size: int
    behind: int
    ahead: int

    @property
    def number(self) -> int:
        """C, the number of blocks."""
        return -(-self.count // self.size)

    @property
    def lead(self) -> int:
        """Missing keys before the first one: query 0 has `behind` keys before its own."""
        return 0 if self.number == 1 else self.behind - (self.keys - self.count)

    @property
    def width(self) -> int:
        """W, the keys that a block sees."""
        return self.keys if self.number == 1 else self.behind + self.size + self.ahead

    def near(self, device: torch.device) -> Tensor:
        """What is within reach in any block: [L, W]."""
        first = self.keys - self.count if self.number == 1 else self.behind
        places_L1 = torch.arange(self.size, device=device).unsqueeze(1) + first
        distance_LW = torch.arange(self.width, device=device) - places_L1
        return (distance_LW >= -self.behind) & (distance_LW <= self.ahead)

    def queries(self, x_NHTd: Tensor) -> Tensor:
        """[N * C, H, L, d] from [N, H, T, d]."""
        if self.number == 1:
            return x_NHTd
        missing = self.number * self.size - self.count
        x_NHTd = F.pad(x_NHTd, (0, 0, 0, missing))
        x_NHCLd: Tensor = x_NHTd.unflatten(2, (self.number, self.size))
        return x_NHCLd.transpose(1, 2).flatten(0, 1)

    def windows(self, x_NHMd: Tensor) -> Tensor:
        """[N * C, H, W, d] from [N, H, M, d]; windows overlap, so this copies."""
        if self.number == 1:
            return x_NHMd
        after = self.number * self.size - self.count + self.ahead
        x_NHMd = F.pad(x_NHMd, (0, 0, self.lead, after))
        x_NHCdW = x_NHMd.unfold(2, self.width, self.size)
        return x_NHCdW.permute(0, 2, 1, 4, 3).flatten(0, 1)

    def join(self, x_BHLd: Tensor) -> Tensor:
        """[N, H, T, d] from [N * C, H, L, d]."""
        if self.number == 1:
            return x_BHLd
        x_NCHLd: Tensor = x_BHLd.unflatten(0, (-1, self.number))
        return x_NCHLd.transpose(1, 2).flatten(2, 3)[:, :, : self.count]

    def spread(self, weights_BHLW: Tensor) -> Tensor:
        """Weights [N, H, T, M], zero out of reach, from those of blocks; for showing them."""
        if self.number == 1:
            return weights_BHLW
        weights_NCHLW: Tensor = weights_BHLW.unflatten(0, (-1, self.number))
        weights_NHCLW = weights_NCHLW.transpose(1, 2)
        all_keys = self.number * self.size + self.behind + self.ahead
        spread = weights_NHCLW.new_zeros(*weights_NHCLW.shape[:-1], all_keys)
        device = weights_NHCLW.device
        starts_C11 = torch.arange(self.number, device=device)[:, None, None] * self.size
        places = (starts_C11 + torch.arange(self.width, device=device)).expand_as(weights_NHCLW)
        spread_NHTM = spread.scatter(-1, places, weights_NHCLW).flatten(2, 3)
        return spread_NHTM[:, :, : self.count, self.lead : self.lead + self.keys]


class Recent(Past):
    """Keys and values [N, H, at most span, d] of the last positions that one layer has read."""

    def __init__(self, span: int) -> None:
        self.span = span
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys_NHTd: Tensor, values_NHTd: Tensor) -> tuple[Tensor, Tensor]:
        """Adds T positions; returns keys and values of all that the new ones can see."""
        if self.keys is not None and self.values is not None:
            keys_NHTd = torch.cat([self.keys, keys_NHTd], 2)
            values_NHTd = torch.cat([self.values, values_NHTd], 2)
        # Contiguous, so that what is forgotten is freed.
        self.keys = keys_NHTd[:, :, -self.span :].contiguous()
        self.values = values_NHTd[:, :, -self.span :].contiguous()
        return keys_NHTd, values_NHTd

    def select(self, rows: Tensor) -> Recent:
        chosen = Recent(self.span)
        if self.keys is not None and self.values is not None:
            chosen.keys = self.keys.index_select(0, rows)
            chosen.values = self.values.index_select(0, rows)
        return chosen
