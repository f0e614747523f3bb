"""Does the advantage of one system over another grow with the length of the source?

Scores of different lengths are not comparable (long sentences are also rarer and harder), so two
systems are compared sentence by sentence, and it is the difference that is set against the length.
BLEU by length, for a figure, is `nmt.evaluation.scores.by_length`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.evaluation.scores import check_counts, sentence_chrf
from nmt.evaluation.statistics import (
    SAMPLES,
    Interval,
    bootstrap_mean,
    bootstrap_slope,
    slope_interval,
)


@dataclass(frozen=True, slots=True)
class LengthEffect:
    """chrF of the first system minus that of the second, against the source's length.

    Attributes:
        slope: chrF points per source word, with a t interval; `bootstrap` is the same slope with
            one that assumes no equal variance.
        mean: of the differences, in chrF points.
        lengths: source words of each sentence (split at white space).
        differences: of each sentence.
    """

    slope: Interval
    bootstrap: Interval
    mean: Interval
    lengths: tuple[int, ...]
    differences: tuple[float, ...]


def length_effect(
    sources: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    *,
    samples: int = SAMPLES,
    seed: int = 1,
) -> LengthEffect:
    """How the paired difference of two systems' translations depends on the source's length.

    Raises:
        UserError: no lines, or different numbers of lines.
        ValueError: all sources are equally long.
    """
    check_counts(first, [sources, second, references])
    ours, theirs = (sentence_chrf(system, [references]) for system in (first, second))
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    lengths = [len(source.split()) for source in sources]
    return LengthEffect(
        slope=slope_interval(lengths, differences),
        bootstrap=bootstrap_slope(lengths, differences, samples, seed),
        mean=bootstrap_mean(differences, samples, seed),
        lengths=tuple(lengths),
        differences=tuple(differences),
    )
