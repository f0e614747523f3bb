"""Does a translation keep what was denied? Counted by rule, see `cues`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.evaluation.probes.cues import find_cues
from nmt.evaluation.scores import check_counts
from nmt.evaluation.statistics import Interval, wilson


@dataclass(frozen=True, slots=True)
class NegationKept:
    """Negations that reached the translations.

    Only sentences count in which source and reference both deny something, for a good translation
    may also say *refuse* where the source says *not*. Of each, as many negations are expected as
    the side with fewer has.

    Attributes:
        share: of the expected negations that were kept.
        negations: expected ones; `kept` those that the outputs have, at most as many.
        sentences: that count; `expected_by_sentence` and `kept_by_sentence` in their order.
        affirmative: sentences without a negation in source and reference; `added` those of them
            whose output has one.
    """

    share: Interval
    negations: int
    kept: int
    sentences: int
    expected_by_sentence: tuple[int, ...]
    kept_by_sentence: tuple[int, ...]
    affirmative: int
    added: int


def negation_kept(
    sources: Sequence[str],
    outputs: Sequence[str],
    references: Sequence[str],
    *,
    source_language: str,
    target_language: str,
) -> NegationKept:
    """The share of negations that a system keeps.

    Raises:
        UserError: no lines, different numbers of lines, or a language without rules.
    """
    check_counts(outputs, [sources, references])
    expected, kept = [], []
    affirmative = added = 0
    for source, output, reference in zip(sources, outputs, references, strict=True):
        denied = len(find_cues(source, source_language))
        wanted = len(find_cues(reference, target_language))
        found = len(find_cues(output, target_language))
        if denied and wanted:
            expected.append(min(denied, wanted))
            kept.append(min(expected[-1], found))
        elif not denied and not wanted:
            affirmative += 1
            added += found > 0
    return NegationKept(
        share=wilson(sum(kept), sum(expected)),
        negations=sum(expected),
        kept=sum(kept),
        sentences=len(expected),
        expected_by_sentence=tuple(expected),
        kept_by_sentence=tuple(kept),
        affirmative=affirmative,
        added=added,
    )
