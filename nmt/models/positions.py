"""How a Transformer knows the order of words: sinusoidal, learned or rotary positions, or none.

Shape letters as in seq2seq.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nmt.errors import UserError
from nmt.models.dropout import Dropout

Rotation = tuple[Tensor, Tensor]  # cosines and sines [T, d / 2], one angle a position and wave


def wave_angles(
    start: int, count: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Angles [T, width / 2] of positions start .. start + count - 1: p / 10000^(2 i / width)."""
    half = (width + 1) // 2
    exponents = torch.arange(half, device=device, dtype=dtype) * (2.0 / width)
    rates = torch.exp(exponents * -math.log(10_000.0))
    return torch.arange(start, start + count, device=device).unsqueeze(1) * rates


def sinusoids(start: int, count: int, width: int, device: torch.device) -> Tensor:
    """Positions start .. start + count - 1 as [T, D] (Vaswani et al. 2017, Sect. 3.5).

    Sines fill the first half and cosines the second; the paper interleaves them, which is the same
    up to a permutation of the width. Computed on demand, so there is no longest sentence.
    """
    angles = wave_angles(start, count, width, device)
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :width]


def rotation(start: int, count: int, width: int, like: Tensor) -> Rotation:
    """The turn at each position, of heads of even width, in full precision on the device of `like`.

    Su et al. 2021, Eq. 15: position p turns the i-th pair of numbers by p / 10000^(2 i / d).
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    angles = wave_angles(start, count, width, like.device, wide)
    return angles.cos(), angles.sin()


def rotate(x_NHTd: Tensor, turn: Rotation) -> Tensor:
    """Queries or keys turned by their positions (Su et al. 2021, Eq. 34): [N, H, T, d].

    A product of two of them depends on the distance of their positions alone. A pair is a number
    of the first half and one of the second, where the paper has neighbours; the projections before
    learn either.
    """
    cosines, sines = turn
    first, second = x_NHTd.to(cosines.dtype).chunk(2, -1)
    turned = [first * cosines - second * sines, first * sines + second * cosines]
    return torch.cat(turned, -1).to(x_NHTd.dtype)


class Positions(nn.Module):
    """Scales embeddings by sqrt(D), adds positions where the kind adds any, drops out.

    `kind` is sinusoidal, learned, rotary or none; rotary positions enter in self-attention, not
    here. `known` is the number of learned positions.
    """

    def __init__(self, *, kind: str, width: int, known: int, dropout: float) -> None:
        super().__init__()
        self.kind = kind
        self.known = known
        self.scale = width**0.5
        self.table = nn.Embedding(known, width) if kind == "learned" else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=width**-0.5)
        self.dropout = Dropout(dropout)

    @property
    def limit(self) -> int | None:
        """The longest sequence; None when there is no limit."""
        return None if self.table is None else self.known

    def forward(self, embedded_NTD: Tensor, start: int) -> Tensor:
        """[N, T, D] from embeddings of the positions from `start` on.

        Raises:
            UserError: a position lies beyond the learned ones.
        """
        count, width = embedded_NTD.shape[1:]
        scaled_NTD = embedded_NTD * self.scale
        if self.kind == "sinusoidal":
            place_TD = sinusoids(start, count, width, embedded_NTD.device)
        elif self.table is None:
            out: Tensor = self.dropout(scaled_NTD)
            return out
        elif start + count > self.known:
            raise UserError(
                f"{start + count} positions, but the model has learned {self.known}: shorten the "
                "sentence, or train with model.positions=sinusoidal or a larger model.max_positions"
            )
        else:
            place_TD = self.table.weight[start : start + count]
        placed: Tensor = self.dropout(scaled_NTD + place_TD.to(embedded_NTD.dtype))
        return placed
