"""The best candidates of a beam, and the rows they take in the decoder's cache.

Shapes as in search.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top(scores_NV: Tensor, k: int, block: int = 64) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in order, with their places.

    The same as ``torch.topk``, which on a CPU takes three times as long for 200 rows of 8,000: the
    k largest lie in the k blocks with the largest maxima.
    """
    n, v = scores_NV.shape
    whole = v - v % block
    if scores_NV.device.type != "cpu" or whole < 2 * k * block:
        values, places = scores_NV.topk(k)
        return values, places
    blocks_NGW = scores_NV[:, :whole].view(n, -1, block)
    chosen_NK = blocks_NGW.amax(-1).topk(k, sorted=False).indices
    within_NKW = blocks_NGW.gather(1, chosen_NK[..., None].expand(-1, -1, block))
    values, places = torch.cat([within_NKW.flatten(1), scores_NV[:, whole:]], 1).topk(k)
    in_block = chosen_NK.gather(1, (places // block).clamp(max=k - 1)) * block + places % block
    return values, torch.where(places < k * block, in_block, places - k * block + whole)


def going_on(widths: list[int]) -> list[int]:
    """The sentences with hypotheses left. The last ones take the places of those that are over,
    and the others stay where they are, so that few rows of the cache move.
    """
    alive = [row for row, width in enumerate(widths) if width]
    late = [row for row in alive if row >= len(alive)]
    return [row if widths[row] else late.pop() for row in range(len(alive))]


def in_place(parent_BK: Tensor) -> Tensor:
    """The order that puts one child of each parent into the parent's place."""
    earlier_BKK = (parent_BK[:, :, None] == parent_BK[:, None]).tril(-1)
    first_BK = ~earlier_BKK.any(-1)
    childless_BK = torch.ones_like(first_BK).scatter(1, parent_BK, value=False)
    free_BK = childless_BK.byte().argsort(dim=1, descending=True, stable=True)
    rank_BK = (~first_BK).cumsum(1) - 1
    place_BK = torch.where(first_BK, parent_BK, free_BK.gather(1, rank_BK.clamp(min=0)))
    return place_BK.argsort(1)
