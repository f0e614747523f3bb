"""Which layer, head and row of a model's attention aligns words best, by gold alignments.

Choose on development data and report on other sentences: the best of many views is lucky.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from nmt.decoding.align import (
    AlignmentScore,
    Explained,
    Gold,
    Link,
    Row,
    Rule,
    View,
    by_word,
    linked_by,
    no_cross,
    owners,
    seen,
    trimmed,
)
from nmt.errors import UserError

Words = tuple[Sequence[str], Sequence[str]]
"""Source words and target words of a pair, as its gold alignment counts them."""
Choice = int | Literal["mean"] | None
"""A layer or head that was named, the mean of all, or None: whichever is best."""
ROWS: tuple[Row, Row] = ("predicts", "reads")


def candidates(
    layers: int,
    heads: int,
    *,
    layer: Choice = None,
    head: Choice = None,
    row: Row | None = None,
) -> list[View]:
    """Every view of so many layers and heads, means first, that agrees with what was named.

    Unless it is named, there is no mean of one, and none of one head over several layers: heads of
    the same number have nothing in common.
    """
    views = [
        View(one_layer, one_head, one_row)
        for one_layer in _options(layers, layer)
        for one_head in _options(heads, head)
        for one_row in (ROWS if row is None else (row,))
    ]
    if layer is None and heads > 1:
        views = [view for view in views if view.layer is not None or view.head is None]
    return views


def _options(size: int, choice: Choice) -> list[int | None]:
    if choice == "mean":
        return [None]
    if choice is not None:
        return [choice]
    return [*([None] if size > 1 else []), *range(size)]


class ViewScores:
    """Alignment error rate of several views at once, a sentence at a time."""

    def __init__(self, views: Sequence[View], rule: Rule = "target") -> None:
        self.views = list(views)
        self.rule = rule
        self.sentences = 0
        self._sure = 0
        self._counts_V3 = torch.zeros(len(self.views), 3, dtype=torch.long)

    def add(self, explained: Explained, words: Words, gold: Gold) -> None:
        """Count what each view finds in one pair.

        Raises:
            UserError: no cross-attention, or no such layer or head.
        """
        pieces = owners(explained, *words)
        sure, possible = (_mask(found, words) for found in (gold.sure, gold.possible))
        for row in ROWS:
            places = [v for v, view in enumerate(self.views) if view.row == row]
            if not places:
                continue
            weights_VTS = seen(explained, [self.views[v] for v in places])
            by_word_VWW = by_word(trimmed(weights_VTS, row, end=False), *pieces)
            found = linked_by(by_word_VWW, self.rule)
            self._counts_V3[places] += torch.stack(
                [mask.sum((-2, -1)) for mask in (found, found & sure, found & possible)], -1
            )
        self._sure += len(gold.sure)
        self.sentences += 1

    def scores(self) -> list[tuple[View, AlignmentScore]]:
        """The rates of each view over all sentences so far."""
        return [
            (
                view,
                AlignmentScore.of_counts(
                    found=found, sure=self._sure, hit_sure=hit_sure, hit_possible=hit_possible
                ),
            )
            for view, (found, hit_sure, hit_possible) in zip(
                self.views, self._counts_V3.tolist(), strict=True
            )
        ]

    def best(self) -> tuple[View, AlignmentScore]:
        """The view with the lowest error rate; of equals the first."""
        return min(self.scores(), key=lambda item: item[1].error_rate)


def _mask(found: Iterable[Link], words: Words) -> Tensor:
    """Links as a mask (target words, source words)."""
    mask = torch.zeros(len(words[1]), len(words[0]), dtype=torch.bool)
    for i, j in found:
        mask[j, i] = True
    return mask


def best_view(
    explained: Iterable[Explained],
    words: Iterable[Words],
    gold: Iterable[Gold],
    *,
    layer: Choice = None,
    head: Choice = None,
    row: Row | None = None,
    rule: Rule = "target",
) -> tuple[View, AlignmentScore]:
    """The layer, head (or their mean) and row with the lowest error rate, and that rate.

    Raises:
        UserError: nothing to choose from, or a model without cross-attention.
    """
    scores = None
    for item, pair, one in zip(explained, words, gold, strict=True):
        if scores is None:
            if item.cross is None:
                raise no_cross(item)
            views = candidates(*item.cross.shape[:2], layer=layer, head=head, row=row)
            scores = ViewScores(views, rule)
        scores.add(item, pair, one)
    if scores is None:
        raise UserError("there are no aligned sentences to choose a layer and head on")
    return scores.best()
