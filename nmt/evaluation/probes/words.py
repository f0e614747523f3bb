"""Attention of an encoder or a decoder by source word, from that by token."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nmt.data.words import membership
from nmt.decoding.align import Explained


def looked_at(explained: Explained, words: Sequence[str], *, weighted: bool) -> list[float] | None:
    """The share of cross-attention that each source word gets: the mean over layers and rows.

    Heads count alike, or by how much they add where ``weighted``. What goes to the end token is
    missing from the sum. None where there is no cross-attention.
    """
    if explained.cross is None:
        return None
    shares = explained.weighted("cross") if weighted else explained.cross / explained.cross.shape[1]
    return by_source_word(shares, explained, words).sum(1).mean((0, 1)).tolist()


def by_source_word(weights_LHTS: Tensor, explained: Explained, words: Sequence[str]) -> Tensor:
    """Columns of source tokens summed to words (L, H, T, W); the end token's is dropped."""
    pieces_PW = membership(explained.source[:-1], words)
    return weights_LHTS[..., :-1] @ pieces_PW


def from_source_word(weights_LHSS: Tensor, explained: Explained, words: Sequence[str]) -> Tensor:
    """Self-attention between source words (L, H, W, W): columns summed, rows averaged."""
    pieces_PW = membership(explained.source[:-1], words)
    rows_WP = (pieces_PW / pieces_PW.sum(0).clamp(min=1e-12)).T
    return rows_WP @ weights_LHSS[..., :-1, :-1] @ pieces_PW
