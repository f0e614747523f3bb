"""Is the difference between two systems more than chance? Paired tests, and where they differ.

Both tests are sacreBLEU's own (``sacrebleu.significance.PairedTest``), with its numbers of samples
and its fixed seed: paired bootstrap resampling (Koehn 2004) and paired approximate randomisation
(Riezler and Maxwell 2005). Its p-values are those of a difference at least as large in either
direction, if the two systems were equally good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmt.evaluation.scores import check_counts, make_metric
from nmt.evaluation.statistics import Interval, bootstrap

SAMPLES = 1_000
"""Bootstrap samples."""
TRIALS = 10_000
"""Shuffles of the randomisation test."""


@dataclass(frozen=True, slots=True)
class Paired:
    """One system against the baseline by one metric; scores in the metric's points."""

    score: float
    difference: float
    """Score less the baseline's."""
    bootstrap: float
    """p of the paired bootstrap."""
    randomisation: float
    """p of the paired approximate randomisation."""


@dataclass(frozen=True, slots=True)
class SentenceDifference:
    """A sentence and what two systems made of it; ``number`` counts from 0."""

    number: int
    baseline: float
    score: float

    @property
    def difference(self) -> float:
        return self.score - self.baseline


def paired_tests(
    baseline: Sequence[str],
    systems: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    target_language: str,
    metrics: Sequence[str],
    samples: int | None = None,
    trials: int | None = None,
) -> list[dict[str, Paired]]:
    """Test each system against the baseline; one result by metric for each system.

    sacreBLEU counts the chance differences that are *greater* than the real one, which makes two
    equal systems differ with the least p that there is. Here equal scores have p = 1; and where
    k translations differ the randomisation's p is larger by 2 / 2**k, the share of shuffles that
    swap none or all of them and so have the real difference itself (nothing, for k above 20).

    Args:
        references: one list of lines for each reference.
        target_language: decides BLEU's tokenizer.
        metrics: of ``bleu``, ``chrf`` and ``ter``.
        samples: bootstrap samples, `SAMPLES` by default.
        trials: shuffles, `TRIALS` by default.

    Raises:
        UserError: no lines, or different numbers of lines.
    """
    from sacrebleu.significance import PairedTest

    for hypotheses in (baseline, *systems):
        check_counts(hypotheses, references)
    named: list[tuple[str, Sequence[str]]] = [("baseline", list(baseline))]
    named += [(str(number), list(system)) for number, system in enumerate(systems)]
    lines = [list(reference) for reference in references]
    found: list[dict[str, Paired]] = [{} for _ in systems]
    for name in metrics:
        tests: list[list[Any]] = []
        for kind, count in (("bs", samples or SAMPLES), ("ar", trials or TRIALS)):
            metric = {name: make_metric(name, target_language)}
            _, results = PairedTest(named, metric, lines, test_type=kind, n_samples=count)()
            tests.append(next(values for key, values in results.items() if key != "System"))
        for one, system, resampled, shuffled in zip(
            found, systems, tests[0][1:], tests[1][1:], strict=True
        ):
            swaps = sum(a != b for a, b in zip(baseline, system, strict=True))
            difference = float(resampled.score - tests[0][0].score)
            equal = 2.0 ** (1 - swaps)
            one[name] = Paired(
                score=float(resampled.score),
                difference=difference,
                bootstrap=float(resampled.p_value) if difference else 1.0,
                randomisation=min(1.0, float(shuffled.p_value) + equal) if difference else 1.0,
            )
    return found


def bleu_difference(
    system: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    target_language: str,
    samples: int = SAMPLES,
) -> Interval:
    """BLEU of a system less that of a baseline, with the paired bootstrap's interval.

    The same sentences are drawn for both (Koehn 2004).

    Args:
        references: one list of lines for each reference.
        target_language: decides BLEU's tokenizer.

    Raises:
        UserError: no lines, or different numbers of lines.
    """
    for hypotheses in (system, baseline):
        check_counts(hypotheses, references)
    metric = make_metric("bleu", target_language)
    order = metric.max_ngram_order

    def counts(lines: Sequence[str]) -> np.ndarray:
        """Of each sentence: n-grams that are right, all n-grams, both lengths."""
        rows = []
        for line, *texts in zip(lines, *references, strict=True):
            one = metric.corpus_score([line], [[text] for text in texts])
            rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])
        return np.array(rows)

    def bleu(sums: np.ndarray) -> float:
        *ngrams, sys_len, ref_len = sums.tolist()
        found = metric.compute_bleu(
            correct=ngrams[:order],
            total=ngrams[order:],
            sys_len=sys_len,
            ref_len=ref_len,
            smooth_method=metric.smooth_method,
            smooth_value=metric.smooth_value,
            effective_order=metric.effective_order,
            max_ngram_order=order,
        )
        return float(found.score)

    ours, theirs = counts(system), counts(baseline)
    return bootstrap(
        lambda rows: bleu(ours[rows].sum(0)) - bleu(theirs[rows].sum(0)), len(system), samples
    )


def largest_losses(
    baseline: Sequence[str],
    system: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    target_language: str,
    metric: str,
    count: int,
) -> list[SentenceDifference]:
    """The sentences by which the system loses most against the baseline, worst first.

    Equal translations are left out. BLEU of a sentence uses only the n-grams there can be
    (sacreBLEU's effective order); chrF says more about single sentences.

    Raises:
        UserError: no lines, or different numbers of lines.
    """
    for hypotheses in (baseline, system):
        check_counts(hypotheses, references)
    measure = make_metric(metric, target_language)
    if metric == "bleu":
        measure.effective_order = True
    sign = -1 if metric == "ter" else 1
    found = []
    for number, (one, other, *row) in enumerate(zip(baseline, system, *references, strict=True)):
        if one != other:
            scores = [float(measure.sentence_score(text, row).score) for text in (one, other)]
            found.append(SentenceDifference(number, *scores))
    found.sort(key=lambda each: (sign * each.difference, each.number))
    return found[:count]
