"""The claims of the translation story, each with one statistic and one rule, fixed before any run.

A rule is a pure function: numbers in, verdict out. What it reads of the numbers is

- ``statistic``: ``{"value", "low", "high"}``, the primary statistic with its 95 % interval, and
- ``counts``: how much material there was, by name, and
- ``missing``: why there is nothing to judge, where that is no matter of counts;

everything else in the numbers of a claim is for its figure and its table. Claims 2 and 16 are
demonstrations and carry no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Numbers = Mapping[str, Any]


class Outcome(StrEnum):
    """What a rule can say."""

    reproduced = "reproduced"
    not_reproduced = "not reproduced"
    inconclusive = "inconclusive"
    not_testable = "not testable here"


class Kind(StrEnum):
    verdict = "verdict"
    demonstration = "demonstration"
    later = "not built yet"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome and the sentence that gives its numbers."""

    outcome: Outcome
    reason: str


Decide = Callable[[float, float], Outcome]
"""From the low and the high end of an interval."""


def above(threshold: float) -> Decide:
    """Reproduced where the whole interval lies above; not where none of it does."""

    def decide(low: float, high: float) -> Outcome:
        if low > threshold:
            return Outcome.reproduced
        return Outcome.not_reproduced if high <= threshold else Outcome.inconclusive

    return decide


def within(bottom: float, top: float) -> Decide:
    """Reproduced where the whole interval lies between; not where none of it does."""

    def decide(low: float, high: float) -> Outcome:
        if bottom < low and high < top:
            return Outcome.reproduced
        apart = high <= bottom or low >= top
        return Outcome.not_reproduced if apart else Outcome.inconclusive

    return decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a verdict comes about.

    Args:
        statistic: what the primary statistic is.
        unit: of the statistic.
        decide: from the interval of the statistic to an outcome.
        refuted: what would refute the claim, as the end of a sentence.
        least: how much material there must be, by the names in ``counts``.
    """

    statistic: str
    unit: str
    decide: Decide
    refuted: str
    least: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, numbers: Numbers) -> Verdict:
        """The verdict over the numbers of a claim; they are not changed."""
        if "missing" in numbers:
            return Verdict(Outcome.not_testable, str(numbers["missing"]))
        counts = numbers.get("counts", {})
        short = [
            f"{counts.get(name, 0):,} {name}, at least {least:,} are needed"
            for name, least in self.least.items()
            if counts.get(name, 0) < least
        ]
        if short:
            return Verdict(Outcome.not_testable, "; ".join(short))
        statistic = numbers.get("statistic")
        if statistic is None:
            return Verdict(Outcome.not_testable, "nothing to measure")
        value, low, high = (
            math.nan if statistic[name] is None else float(statistic[name])
            for name in ("value", "low", "high")
        )
        text = f"{_number(value)} [{_number(low)}, {_number(high)}] {self.unit}".rstrip()
        if not all(map(math.isfinite, (value, low, high))):
            return Verdict(Outcome.inconclusive, f"{text}: an end of the interval is missing")
        return Verdict(self.decide(low, high), text)


def _number(value: float) -> str:
    """Three significant digits, a true minus, and no power of ten."""
    if not math.isfinite(value):
        return "?"
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 5)}f}".replace("-", "\u2212")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim of the documents.

    Args:
        sentence: the claim.
        experiment: how it is tried, and what keeps the trial honest.
        needs: rungs of the ladder without which nothing can be said.
        also: rungs that are shown beside them where the ladder has them.
    """

    number: int
    title: str
    sentence: str
    experiment: str = ""
    kind: Kind = Kind.verdict
    rule: Rule | None = None
    needs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


LONG = 20
"""Source words above which a sentence is called long."""
ENOUGH_LONG = 100
"""Long test sentences from which on something can be said about them."""
MARGIN = 1.0
"""BLEU or chrF within which two systems count as equal, fixed beforehand."""
ENOUGH_NOISY = 100
"""Test sentences with noise from which on something can be said about it."""
QUALITY = "BLEU points of the better model"
"""What claims about translations count as material: models that have learnt nothing are equal, and
their lengths alone make differences."""
NEGATED = "negated training pairs"
"""What a corpus teaches of negation: pairs whose source has one, by rule."""
LEARNT = 5
"""Such points from which on a model has learnt to translate something."""
TIMES_OF_TWO = (1.5, 2.5)
"""Exponents that are nearer to a square than to a line or a cube."""
AGREEMENT = 0.5
"""Kendall's tau from which on weights would stand for causes."""

_SCORES = ("dot", "cosine", "cosine_bare", "scaled", "general", "additive", "location")
_ATTENTIONS = ("luong_general", "luong_dot", "transformer")
_LOCAL = ("local_2", "local_4", "local_p")
_HEADS = (1, 2, 4, 8, 16)


def heads(kind: str, size: str) -> tuple[str, ...]:
    """Rungs of claim 9: ``kind`` is width or each (fixed head width), ``size`` small or large."""
    return tuple(f"heads_{kind}_{size}_{count}" for count in _HEADS)


RATES = (1e-3, 2e-3, 3e-3)
"""Learning rates that both models of claim 7 are trained with."""


def rates(model: str) -> tuple[str, ...]:
    """Rungs of claim 7 with a rate of their own; the rung ``model`` may have one of the rates."""
    return tuple(f"{model}_{1000 * rate:g}e-3" for rate in RATES)


TRANSFER = (100, 300, 1_000, 3_000, 10_000)
"""Pairs of the new task in claim 15."""


def transfer(kind: str) -> tuple[str, ...]:
    """Rungs of claim 15: ``kind`` is tuned or scratch."""
    return tuple(f"{kind}_{size}" for size in TRANSFER)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        number=1,
        title="Long sentences",
        sentence="A fixed-size context vector loses long sentences; attention gives the decoder a "
        "direct path to every source position.",
        experiment="The same LSTM with the same data and updates, without attention and with "
        "Bahdanau's. BLEU of different lengths is not comparable, so the two are compared sentence "
        "by sentence: how fast does the gain in chrF grow with the length of the source? One more "
        "run without attention has twice the updates, as a control for slow learning.",
        rule=Rule(
            statistic="slope of the gain of attention on source length",
            unit="chrF points per word",
            decide=above(0.0),
            refuted="the gain of attention did not grow with length (a slope of 0 or below)",
            least={
                f"test sentences of more than {LONG} words": ENOUGH_LONG,
                QUALITY: LEARNT,
            },
        ),
        needs=("none", "bahdanau"),
        also=("none_long", *_ATTENTIONS),
    ),
    Claim(
        number=2,
        title="Similarity, softmax, weighted sum",
        sentence="Attention is similarity, softmax and weighted sum: percentages over the source "
        "words.",
        experiment="One sentence taken apart, target word by target word.",
        kind=Kind.demonstration,
        needs=("luong_dot",),
    ),
    Claim(
        number=3,
        title="Any similarity will do",
        sentence="Any similarity will do; the dot product is simpler than the cosine and works as "
        "well.",
        experiment="Seven scores in the same LSTM; the current state asks and the context is not "
        "fed back, for all of them; the location-aware score stands apart.",
        rule=Rule(
            statistic="test BLEU of cosine minus dot product",
            unit="BLEU",
            decide=within(-MARGIN, MARGIN),
            refuted=f"cosine and dot product differ by {MARGIN:g} BLEU or more",
            least={QUALITY: LEARNT},
        ),
        needs=("dot", "cosine"),
        also=_SCORES[2:],
    ),
    Claim(
        number=4,
        title="Who asks, and how far it looks",
        sentence="Bahdanau asks with the previous decoder state, Luong with the current one, which "
        "is simpler and no worse; local attention looks at a window.",
        experiment="Two by two: which state asks, and whether the context is fed to the cell, with "
        "one score; windows of 2 and 4 positions to each side, by length.",
        rule=Rule(
            statistic="test chrF of the current state asking minus the previous one",
            unit="chrF points",
            decide=above(-MARGIN),
            refuted=f"the current state is worse by {MARGIN:g} chrF or more",
            least={QUALITY: LEARNT},
        ),
        needs=("luong_general", "general", "previous_fed", "previous"),
        also=_LOCAL,
    ),
    Claim(
        number=5,
        title="A lost “not”",
        sentence="Losing a small word such as “not” reverses the meaning; attention keeps it.",
        experiment="Pairs of sentences that differ in the negation alone. A model is right where "
        "it finds the true translation more probable than the one that lost (or gained) the "
        "negation. The shorter one wins by length and a language model can guess, so the same "
        "choice with a shuffled source is taken off.",
        rule=Rule(
            statistic="contrastive accuracy above the shuffled source, attention minus none",
            unit="percentage points",
            decide=above(0.0),
            refuted="attention did not choose the right polarity more often than the model without",
            least={"minimal pairs": 100, NEGATED: 400, QUALITY: LEARNT},
        ),
        needs=("none", "bahdanau"),
        also=("none_long", *_ATTENTIONS),
    ),
    Claim(
        number=6,
        title="Where the decoder starts",
        sentence="LSTM states start at zero; what the decoder starts from matters.",
        experiment="Without and with attention: the decoder starts from zeros, from the encoder's "
        "last state, or from a learnt function of it.",
        rule=Rule(
            statistic="test chrF of the learnt start minus zeros, mean of both models",
            unit="chrF points",
            decide=above(0.0),
            refuted="a learnt start is no better than zeros",
            least={QUALITY: LEARNT},
        ),
        needs=("none", "none_zeros", "bahdanau", "bahdanau_zeros"),
        also=("none_last", "bahdanau_last"),
    ),
    Claim(
        number=7,
        title="Without recurrence",
        sentence="The Transformer does without the LSTM, and trains in parallel over positions.",
        experiment="On the embedded corpus both have about as many parameters without "
        "embeddings; elsewhere how many is said. The learning rate of each is chosen from the same "
        "three on dev. Training steps of equal tokens are timed at growing sentence length.",
        rule=Rule(
            statistic="exponent in sentence length of the Transformer's training speed relative "
            "to the LSTM's",
            unit="",
            decide=above(0.0),
            refuted="the Transformer's advantage in training speed does not grow with length",
            least={"lengths timed": 3},
        ),
        needs=("transformer", "bahdanau"),
        also=(*rates("transformer"), *rates("bahdanau")),
    ),
    Claim(
        number=8,
        title="A pronoun and its antecedent",
        sentence="Self-attention ties a pronoun to its antecedent: the animal did not cross the "
        "street because it was too tired, too wide.",
        experiment="Pairs of sentences in which one adjective switches the antecedent. The encoder "
        "head is chosen on some pairs and reported on others, since the best of many heads would "
        "guarantee a hit.",
        rule=Rule(
            statistic="attention of the pronoun on a noun where it is the antecedent, minus where "
            "it is not",
            unit="percentage points",
            decide=above(0.0),
            refuted="the pronoun attends no more to a noun that is its antecedent than to one that "
            "is not",
            least={"minimal pairs": 100},
        ),
        needs=("transformer",),
        also=("none", "bahdanau", "luong_general", "luong_dot"),
    ),
    Claim(
        number=9,
        title="How many heads",
        sentence="Heads specialise; too many heads hurt on a small corpus.",
        experiment="1 to 16 heads at fixed width and at fixed head width, on a small and a large "
        "corpus; dev loss at each model's best step.",
        rule=Rule(
            statistic="best dev loss of 16 heads minus 4 heads of the same head width, small "
            "corpus",
            unit="nats per token",
            decide=above(0.0),
            refuted="16 heads are no worse than 4 on the small corpus",
            least={"seeds": 2},
        ),
        needs=("heads_each_small_4", "heads_each_small_16"),
        also=(
            *(*heads("each", "small"), *heads("each", "large")),
            *(*heads("width", "small"), *heads("width", "large")),
        ),
    ),
    Claim(
        number=10,
        title="The cost of length",
        sentence="The cost of self-attention grows with the square of the length; exact attention "
        "need not in memory, windows and linear attention neither in time.",
        experiment="Attention alone at lengths 64 to 8,192: explicit, fused, sliding window and "
        "linear. A method that would not fit into the memory that is free is not run.",
        rule=Rule(
            statistic="fitted exponent of the time of explicit attention over its top octaves",
            unit="",
            decide=within(*TIMES_OF_TWO),
            refuted=f"the exponent is below {TIMES_OF_TWO[0]:g} or above {TIMES_OF_TWO[1]:g}",
            least={"lengths measured": 4},
        ),
    ),
    Claim(
        number=11,
        title="Noise",
        sentence="Attention can attend to noise.",
        experiment="Random words, typing errors and repetitions in 5, 10 and 20 % of the words, "
        "against as many harmless added words, because a longer input costs something by itself.",
        rule=Rule(
            statistic="chrF lost to noise beyond the loss to harmless words, at the highest rate",
            unit="chrF points",
            decide=above(0.0),
            refuted="noise costs no more than harmless words",
            least={"test sentences": ENOUGH_NOISY, QUALITY: LEARNT},
        ),
        needs=("bahdanau",),
    ),
    Claim(
        number=12,
        title="A weight is not a cause",
        sentence="Attention makes a model readable, but a large weight is not a cause.",
        experiment="Each source word is replaced by a small frequent word (it, the, and), and the "
        "loss of probability of the translation is compared with the attention that the word had, "
        "sentence by sentence.",
        rule=Rule(
            statistic="Kendall's tau of attention and effect of masking, mean over sentences",
            unit="",
            decide=within(0.0, AGREEMENT),
            refuted=f"a tau of 0 or below (weights say nothing) or of {AGREEMENT:g} or above "
            "(weights are as good as causes)",
            least={"sentences": 50, QUALITY: LEARNT},
        ),
        needs=("bahdanau",),
        also=_ATTENTIONS,
    ),
    Claim(
        number=13,
        title="Another domain",
        sentence="Models overfit and do not travel to another domain.",
        experiment="Train, dev and out-of-domain quality; against a model that was trained on the "
        "other domain with as much data.",
        rule=Rule(
            statistic="out-of-domain chrF of the model of that domain minus the travelling one",
            unit="chrF points",
            decide=above(0.0),
            refuted="the travelling model is as good as one of the domain",
            least={"sentences of another domain": 100},
        ),
        needs=("transformer", "domain"),
        also=("bahdanau",),
    ),
    Claim(
        number=14,
        title="Hierarchical attention",
        sentence="Hierarchical attention (words within a sentence, then sentences within a "
        "document) uses context.",
        kind=Kind.later,
    ),
    Claim(
        number=15,
        title="Transfer",
        sentence="What one model learnt transfers to another task with little data.",
        experiment="The trained model goes on with N pairs of the other direction of translation, "
        "against a model that starts from nothing, with the same tokenizer; every seed draws pairs "
        "of its own. What the old task loses by it stands beside.",
        rule=Rule(
            statistic=f"chrF on the new task with {TRANSFER[2]:,} pairs, tuned minus from scratch",
            unit="chrF points",
            decide=above(0.0),
            refuted="starting from the old model is no better than starting from nothing",
            least={"draws of the pairs (seeds)": 3, QUALITY: LEARNT},
        ),
        needs=("transformer", f"tuned_{TRANSFER[2]}", f"scratch_{TRANSFER[2]}"),
        also=(*transfer("tuned"), *transfer("scratch")),
    ),
    Claim(
        number=16,
        title="Eight steps",
        sentence="The work has eight steps: goal, tools, kind of attention, data, architecture, "
        "training, evaluation, deployment.",
        experiment="The whole pipeline, with the time of each step.",
        kind=Kind.demonstration,
        needs=("bahdanau",),
        also=("none", "transformer"),
    ),
    Claim(
        number=17,
        title="Bias",
        sentence="Models inherit the bias of their data.",
        kind=Kind.later,
    ),
    Claim(
        number=18,
        title="Images",
        sentence="Attention works over regions of an image.",
        kind=Kind.later,
    ),
)

BY_NUMBER = {claim.number: claim for claim in CLAIMS}


def judge(claim: Claim, numbers: Numbers) -> Verdict | None:
    """The verdict over a claim's numbers; None for a demonstration."""
    return claim.rule(numbers) if claim.rule else None
