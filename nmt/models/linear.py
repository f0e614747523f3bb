"""Attention with a feature map instead of a softmax: sums over keys, no matrix of weights.

exp(q . k) gives way to f(q) . f(k), so that the sums over keys can be taken before any query is
known (Katharopoulos et al. 2020). They grow with the length, so they are kept in full precision.
Shape letters as in seq2seq.py, and C chunks of L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nmt.models.attention import widened
from nmt.models.multihead import CrossAttention, Past, Remembered, SelfAttention
from nmt.models.seq2seq import Trace, take_rows

CHUNK = 64  # positions that are compared with each other; sums stand for the ones before
NO_WEIGHTS = "linear attention sums over keys before it sees a query, so there are no weights"


def feature_map(x: Tensor) -> Tensor:
    """elu(x) + 1 (Katharopoulos et al. 2020, Eq. 7), at least in fp32.

    Written so that large negative numbers give small positive ones: elu rounds them to -1.
    """
    x = widened(x)
    return x.clamp(max=0.0).exp() + x.relu()


def divide(sums_BHTd: Tensor, weights_BHT: Tensor) -> Tensor:
    """Contexts: sums of values by sums of weights, zero where there was nothing to sum."""
    weights_BHT1 = weights_BHT.unsqueeze(-1)
    return sums_BHTd / torch.where(weights_BHT1 > 0.0, weights_BHT1, 1.0)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Keeps autocast from narrowing matrix products."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


@dataclass
class Sums(Remembered):
    """Sums over slots: of f(k) v^T [B, H, d, d], and of f(k) [B, H, d]."""

    values_BHdd: Tensor
    keys_BHd: Tensor

    @classmethod
    def over(cls, keys_BHMd: Tensor, values_BHMd: Tensor, keep_BM: Tensor) -> Sums:
        """The sums over the slots that are kept."""
        with full_precision(keys_BHMd):
            mapped_BHMd = feature_map(keys_BHMd) * keep_BM[:, None, :, None]
            values_BHMd = values_BHMd.to(mapped_BHMd.dtype)
            return cls(mapped_BHMd.transpose(-1, -2) @ values_BHMd, mapped_BHMd.sum(2))

    def read(self, query_BHTd: Tensor) -> Tensor:
        """Contexts [B, H, T, d] (Katharopoulos et al. 2020, Eq. 5)."""
        with full_precision(query_BHTd):
            mapped_BHTd = feature_map(query_BHTd)
            weights_BHT = (mapped_BHTd @ self.keys_BHd.unsqueeze(-1)).squeeze(-1)
            return divide(mapped_BHTd @ self.values_BHdd, weights_BHT).to(query_BHTd.dtype)


class RunningSums(Past):
    """The sums over all positions that one layer has read, None before the first."""

    def __init__(self, sums: Sums | None = None) -> None:
        self.sums = sums

    def select(self, rows: Tensor) -> RunningSums:
        return RunningSums(take_rows(self.sums, rows))

    def append(self, query_NHTd: Tensor, keys_NHTd: Tensor, values_NHTd: Tensor) -> Tensor:
        """Contexts [N, H, T, d] of T new positions, each after all before it and itself.

        Katharopoulos et al. 2020, Eq. 9 to 12, in chunks: pairs of one chunk are compared, and what
        lies before it is read from the sums.
        """
        count = query_NHTd.shape[2]
        with full_precision(query_NHTd):
            query = _chunks(feature_map(query_NHTd))
            keys = _chunks(feature_map(keys_NHTd))
            values = _chunks(values_NHTd.to(keys.dtype))
            before, self.sums = self._advance(keys, values)
            pairs_NHCLL = (query @ keys.transpose(-1, -2)).tril()
            near_NHCL = pairs_NHCLL.sum(-1)
            far_NHCL = (query @ before.keys_BHd.unsqueeze(-1)).squeeze(-1)
            sums_NHCLd = pairs_NHCLL @ values + query @ before.values_BHdd
            context_NHCLd = divide(sums_NHCLd, near_NHCL + far_NHCL)
        return context_NHCLd.flatten(2, 3)[:, :, :count].to(query_NHTd.dtype)

    def _advance(self, keys_NHCLd: Tensor, values_NHCLd: Tensor) -> tuple[Sums, Sums]:
        """The sums before each chunk, [N, H, C, ...], and those after the last one."""
        values_NHCdd = keys_NHCLd.transpose(-1, -2) @ values_NHCLd
        keys_NHCd = keys_NHCLd.sum(3)
        if self.sums is None:
            first = Sums(
                torch.zeros_like(values_NHCdd[:, :, 0]), torch.zeros_like(keys_NHCd[:, :, 0])
            )
        else:
            first = self.sums
        values = torch.cat([first.values_BHdd.unsqueeze(2), values_NHCdd], 2).cumsum(2)
        keys = torch.cat([first.keys_BHd.unsqueeze(2), keys_NHCd], 2).cumsum(2)
        return Sums(values[:, :, :-1], keys[:, :, :-1]), Sums(values[:, :, -1], keys[:, :, -1])


def _chunks(x_NHTd: Tensor) -> Tensor:
    """[N, H, C, L, d], the last chunk filled with zeros, which add nothing to any sum."""
    count = x_NHTd.shape[2]
    chunks = -(-count // CHUNK)
    size = -(-count // chunks)
    filled_NHTd = F.pad(x_NHTd, (0, 0, 0, chunks * size - count))
    chunks_NHCLd: Tensor = filled_NHTd.unflatten(2, (chunks, size))
    return chunks_NHCLd


class LinearSelfAttention(SelfAttention):
    """Sums over the whole sequence, or over all up to each position where causal."""

    no_weights = NO_WEIGHTS

    def begin(self, capacity: int) -> Past:
        return RunningSums()

    def mask(self, keep_NT: Tensor, length: int) -> Tensor | None:
        """[N, T], or None where causal."""
        return None if self.causal else keep_NT

    def mix(
        self, heads: Sequence[Tensor], mask: Tensor | None, past: Past | None, trace: Trace
    ) -> Tensor:
        query_NHTd, keys_NHTd, values_NHTd = heads
        if mask is not None:
            return Sums.over(keys_NHTd, values_NHTd, mask).read(query_NHTd)
        sums = past if isinstance(past, RunningSums) else RunningSums()
        return sums.append(query_NHTd, keys_NHTd, values_NHTd)


class LinearCrossAttention(CrossAttention):
    """Sums over the source, taken once; a target position reads them whatever its length."""

    no_weights = NO_WEIGHTS

    def remember(self, values_BMD: Tensor, keep_BM: Tensor) -> Sums:
        keys_BHMd, values_BHMd = self.split(self.inputs(values_BMD))
        return Sums.over(keys_BHMd, values_BHMd, keep_BM)

    def mix(
        self, query_BHTd: Tensor, remembered: Remembered, keep_BM: Tensor, trace: Trace
    ) -> Tensor:
        assert isinstance(remembered, Sums)
        return remembered.read(query_BHTd)
