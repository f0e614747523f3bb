"""What each attention head does: how spread it looks, how far, and what is lost without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmt.decoding.align import Explained, entropies
from nmt.models.heads import head_names, masked
from nmt.models.seq2seq import Seq2Seq


@dataclass(frozen=True, slots=True)
class HeadStatistic:
    """One head; names as in ``attention.masked_heads``.

    Attributes:
        entropy: mean over its rows, in nats; see `nmt.decoding.align.entropies`.
        offset: mean place it looks at minus the place that asks, in tokens; -1 looks at the token
            before. Of cross-attention: source place minus target place.
        distance: mean of the same without its sign, weight by weight.
    """

    name: str
    entropy: float
    offset: float
    distance: float


@dataclass(frozen=True, slots=True)
class Ablation:
    """A quality of the whole model, and without each head alone."""

    whole: float
    without: dict[str, float]


def head_statistics(explained: Iterable[Explained]) -> list[HeadStatistic]:
    """Entropy and offset of each head over sentences; kinds without weights are left out."""
    examples = list(explained)
    spread = entropies(examples)
    found = []
    for kind, layers in spread.items():
        offsets, distances = _offsets([_weights(one, kind) for one in examples])
        for layer, heads in enumerate(layers):
            for head, entropy in enumerate(heads):
                place = (layer, head)
                name = f"{kind}.{layer}.{head}"
                offset, distance = float(offsets[place]), float(distances[place])
                found.append(HeadStatistic(name, entropy, offset, distance))
    return found


def _weights(one: Explained, kind: str) -> Tensor:
    weights = {"encoder": one.encoder, "decoder": one.decoder, "cross": one.cross}[kind]
    assert weights is not None
    return weights


def _offsets(matrices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean offsets and distances (L, H) of all rows that look at something."""
    offsets = distances = rows = torch.zeros(())
    for weights_LHQK in matrices:
        queries, keys = weights_LHQK.shape[-2:]
        away_QK = torch.arange(keys)[None, :] - torch.arange(queries)[:, None]
        totals_LHQ = weights_LHQK.sum(-1)
        shares_LHQK = weights_LHQK / totals_LHQ.clamp(min=1e-12)[..., None]
        offsets = offsets + (shares_LHQK * away_QK).sum((-2, -1))
        distances = distances + (shares_LHQK * away_QK.abs()).sum((-2, -1))
        rows = rows + (totals_LHQ > 0).sum(-1)
    return offsets / rows.clamp(min=1), distances / rows.clamp(min=1)


def ablate(
    model: Seq2Seq, quality: Callable[[], float], names: Sequence[str] | None = None
) -> Ablation:
    """The quality without each head, one at a time (Michel et al. 2019, Sect. 3.2).

    Args:
        quality: measures the model as it is when called, such as its BLEU or its loss.
        names: which heads; all where None.

    Raises:
        UserError: there is no such head.
    """
    without = {}
    for name in head_names(model) if names is None else names:
        with masked(model, [name]):
            without[name] = quality()
    return Ablation(quality(), without)
