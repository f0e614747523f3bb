"""Probes: one question about a run each, answered by numbers with intervals.

They take texts and callables, so that they work on any run: `Translator.score` and
`Translator.explain_pairs` are a `Score` and an `Explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nmt.decoding.align import Explained
from nmt.decoding.translate import PairScore

Translate = Callable[[Sequence[str]], Sequence[str]]
"""Sources to one translation each."""

Score = Callable[[Sequence[str], Sequence[str]], Sequence[PairScore]]
"""Sources and targets to the probability of each target."""

Explain = Callable[[Sequence[str], Sequence[str]], Iterable[Explained]]
"""Sources and targets to the attention with which each target is predicted."""
