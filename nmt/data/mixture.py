"""Several training corpora as one: what each brings in, and which of its pairs an epoch sees.

A corpus of n pairs and weight w gives an epoch w n pairs. It is walked through in a shuffled order
of its own, over and over, and each epoch goes on where the last one stopped: with weight 2 every
pair is seen twice an epoch, with 0.25 another quarter each epoch, and all of it in four. So no pair
is ever seen more than once more often than another of its corpus, and where an epoch is in the walk
is arithmetic: it needs no epoch before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

_WALK = 0x77616C6B  # keeps the seeds of walks apart from those of plans


def epoch_pairs(corpora: Sequence[tuple[int, float]], *, seed: int, epoch: int) -> np.ndarray:
    """The numbers of the pairs that an epoch sees, ascending, a pair as often as it is seen.

    Args:
        corpora: pairs and weight of each corpus; its pairs are numbered on from the one before.
        epoch: counted from 0. Epoch e takes the places floor(w n e) to floor(w n (e + 1)) of the
            endless walk, w being exactly the decimal number that was typed.
    """
    seen, first = [np.empty(0, np.int64)], 0
    for number, (pairs, weight) in enumerate(corpora):
        share = Fraction(str(weight)) * pairs
        places = np.arange(int(share * epoch), int(share * (epoch + 1))) % max(pairs, 1)
        order = np.random.default_rng([seed, number, _WALK]).permutation(pairs)
        seen.append(first + np.sort(order[places]))
        first += pairs
    return np.concatenate(seen)


def with_tag(source: str, tag: str) -> str:
    """A source with the tag in front."""
    return f"{tag} {source}" if tag else source


def split_tag(source: str, tags: Sequence[str]) -> tuple[str, str]:
    """The tag in front of a source, empty where there is none of `tags`, and the rest."""
    rest = source.lstrip()
    for tag in tags:
        if rest.startswith(tag):
            return tag, rest.removeprefix(tag).lstrip()
    return "", source


@dataclass(frozen=True, slots=True)
class Portion:
    """One training corpus: pairs read, pairs kept after cleaning and splitting, and its weight."""

    name: str
    tag: str
    weight: float
    read: int
    kept: int

    @property
    def seen(self) -> float:
        """Pairs that an epoch sees, on average."""
        return self.weight * self.kept


def with_shares(mixture: Sequence[Portion]) -> list[dict[str, Any]]:
    """Each corpus for a manifest: pairs read, kept and seen an epoch, and its shares of these."""
    read, kept, seen = _totals(mixture)
    return [
        {
            "name": one.name,
            "tag": one.tag,
            "read": one.read,
            "kept": one.kept,
            "weight": one.weight,
            "seen": round(one.seen, 2),
            "share_read": round(one.read / read, 4),
            "share_kept": round(one.kept / kept, 4),
            "share_seen": round(one.seen / seen, 4),
        }
        for one in mixture
    ]


def table(mixture: Sequence[Portion]) -> list[str]:
    """The shares as lines of text, before cleaning, after it, and with the weights."""
    rows = [("corpus", "read", "", "kept", "", "weight", "an epoch", "", "tag")]
    read, kept, seen = _totals(mixture)
    for one in mixture:
        rows.append(
            (
                one.name,
                *(f"{one.read:,}", f"{one.read / read:.1%}"),
                *(f"{one.kept:,}", f"{one.kept / kept:.1%}"),
                *(f"x {one.weight:g}", f"{one.seen:,.0f}", f"{one.seen / seen:.1%}"),
                one.tag,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if place in (0, 8) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _totals(mixture: Sequence[Portion]) -> tuple[int, int, float]:
    """Pairs read, kept and seen of all corpora; at least 1, to divide by."""
    read, kept = sum(one.read for one in mixture), sum(one.kept for one in mixture)
    return max(read, 1), max(kept, 1), sum(one.seen for one in mixture) or 1.0
