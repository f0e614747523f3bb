"""Is what a model looks at what its translation depends on?

Each source word in turn is replaced by a mask, and the translation that the model gave before is
scored again. How far its log-probability falls is how much it depended on the word, whatever the
attention says (Jain & Wallace 2019 ask the same of classifiers).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nmt.errors import UserError
from nmt.evaluation.probes import Explain, Score
from nmt.evaluation.probes.words import looked_at
from nmt.evaluation.statistics import Interval, kendall_tau, mean_interval

MASKS = ("it", "the", "and")
"""Masks for English: words of every corpus, several, so that what one of them says averages out."""

FEWEST = 3
"""Words that a sentence must have for an order of them to say something."""

_PARTS = re.compile(r"(\W*)(.*?)(\W*)")


@dataclass(frozen=True, slots=True)
class Masking:
    """Kendall's tau-b between attention and dependence over the words of each sentence.

    Attributes:
        raw: mean over sentences for raw attention, `weighted` for norm-weighted, `difference` of
            the two, each with its t interval; None where there is no attention.
        raw_taus, weighted_taus: of each sentence that counts.
        skipped: sentences of fewer than three words, or all of whose words matter alike.
        missing: why there is no attention; "" where there is.
    """

    raw: Interval | None
    weighted: Interval | None
    difference: Interval | None
    raw_taus: tuple[float, ...]
    weighted_taus: tuple[float, ...]
    skipped: int
    missing: str


def masking(
    sources: Sequence[str],
    translations: Sequence[str],
    score: Score,
    explain: Explain,
    *,
    masks: Sequence[str] = MASKS,
) -> Masking:
    """How attention agrees with what the model's own translations depend on.

    Raises:
        UserError: not one translation per source.
    """
    if len(sources) != len(translations):
        raise UserError(f"{len(sources)} sources, but {len(translations)} translations")
    looks: list[tuple[list[float], list[float]]] = []
    for one, source in zip(explain(sources, translations), sources, strict=True):
        raw = looked_at(one, source.split(), weighted=False)
        weighted = looked_at(one, source.split(), weighted=True) if raw is not None else None
        if raw is None or weighted is None:
            reason = one.missing.get("cross", "no cross-attention")
            return Masking(None, None, None, (), (), 0, reason)
        looks.append((raw, weighted))
    falls = dependence(sources, translations, score, masks)
    pairs = [
        (kendall_tau(raw, fall), kendall_tau(weighted, fall))
        for (raw, weighted), fall in zip(looks, falls, strict=True)
        if len(fall) >= FEWEST
    ]
    taus = [(a, b) for a, b in pairs if a is not None and b is not None]
    raw_taus, weighted_taus = tuple(a for a, _ in taus), tuple(b for _, b in taus)
    return Masking(
        raw=mean_interval(raw_taus) if taus else None,
        weighted=mean_interval(weighted_taus) if taus else None,
        difference=mean_interval([b - a for a, b in taus]) if taus else None,
        raw_taus=raw_taus,
        weighted_taus=weighted_taus,
        skipped=len(sources) - len(taus),
        missing="",
    )


def dependence(
    sources: Sequence[str], translations: Sequence[str], score: Score, masks: Sequence[str] = MASKS
) -> list[list[float]]:
    """How many nats each source word is worth to its translation: log P with it minus without.

    The mean over masks; one that is the word itself is left out, or tells nothing if it is alone.
    """
    places = [
        (row, word, mask)
        for row, source in enumerate(sources)
        for word in range(len(source.split()))
        for mask in masks
    ]
    changed = [_replaced(sources[row], word, mask) for row, word, mask in places]
    targets = [translations[row] for row, _, _ in places]
    scores = score([*sources, *changed], [*translations, *targets])
    whole = [one.log_prob for one in scores[: len(sources)]]
    falls: list[list[list[float]]] = [[[] for _ in source.split()] for source in sources]
    for (row, word, _), text, one in zip(places, changed, scores[len(sources) :], strict=True):
        if text != " ".join(sources[row].split()):
            falls[row][word].append(whole[row] - one.log_prob)
    return [[sum(f) / len(f) if f else 0.0 for f in row] for row in falls]


def _replaced(source: str, place: int, mask: str) -> str:
    """The source with one word replaced, its punctuation and its first capital kept."""
    words = source.split()
    parts = _PARTS.fullmatch(words[place])
    assert parts is not None
    if parts[2]:
        mask = mask[:1].upper() + mask[1:] if parts[2][0].isupper() and place == 0 else mask
        words[place] = parts[1] + mask + parts[3]
    return " ".join(words)
