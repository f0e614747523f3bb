"""Does a model find the right translation more probable than a wrong one that differs in a word?

Forced scoring (Sennrich 2017; Bawden et al. 2018). Two things mislead: the shorter target wins by
its sum of log-probabilities, so sums and means are both counted; and a language model alone may
know which target is likelier, so the same targets are scored once more after shuffled sources.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nmt.data.grammar import minimal_pairs, misread_pairs
from nmt.data.lexicon import Lexicon
from nmt.errors import UserError
from nmt.evaluation.probes import Score
from nmt.evaluation.statistics import Interval, bootstrap_mean

SETS = {  # file -> kind
    "polarity_particle_nicht_del.tsv.gz": "nicht",
    "polarity_particle_kein_del.tsv.gz": "kein",
    "pronouns.tsv.gz": "pronoun",
}


@dataclass(frozen=True, slots=True)
class ContrastiveItem:
    """A source with a right and a wrong target; items of one ``group`` are not independent."""

    source: str
    right: str
    wrong: str
    group: int
    kind: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """How often the right target wins; 1, one half for a tie, 0 of each item.

    Intervals are drawn over groups. ``control`` is after shuffled sources, ``gain`` the accuracy
    above it.
    """

    accuracy: Interval
    control: Interval
    gain: Interval
    outcomes: tuple[float, ...]
    control_outcomes: tuple[float, ...]
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contrastive:
    """By the sum of log-probabilities, and by their mean over tokens."""

    by_sum: Contrast
    by_mean: Contrast


def read_negation(folder: Path) -> list[ContrastiveItem]:
    """English-German items whose wrong target lost its *nicht* or *kein* (Sennrich 2017).

    Raises:
        UserError: a file is missing or has lines of another form.
    """
    items: list[ContrastiveItem] = []
    groups: dict[str, int] = {}  # a source with two negations is there twice
    for name in ("polarity_particle_nicht_del.tsv.gz", "polarity_particle_kein_del.tsv.gz"):
        for source, right, wrong in _rows(folder / name, 3):
            group = groups.setdefault(source, len(groups))
            items.append(ContrastiveItem(source, right, wrong, group, SETS[name]))
    return items


def read_pronouns(folder: Path, *, previous: bool = False) -> list[ContrastiveItem]:
    """English-French items whose wrong target has a pronoun of the wrong gender.

    Args:
        previous: put the sentence before in front of the source and of both targets.

    Raises:
        UserError: the file is missing or has lines of another form.
    """
    name = "pronouns.tsv.gz"
    items: list[ContrastiveItem] = []
    for before, source, target_before, right, wrong in _rows(folder / name, 5):
        if previous:
            source = f"{before} {source}"
            right, wrong = f"{target_before} {right}", f"{target_before} {wrong}"
        items.append(ContrastiveItem(source, right, wrong, len(items), SETS[name]))
    return items


def _rows(path: Path, columns: int) -> list[list[str]]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such contrastive set; data.root=… says where it lies")
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        rows = [line.rstrip("\r\n").split("\t") for line in file]
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise UserError(f"{path}, line {number}: {len(row)} columns instead of {columns}")
    return rows


def grammar_items(lexicon: Lexicon, kind: str, count: int, seed: int) -> list[ContrastiveItem]:
    """Two items of each of ``count`` minimal pairs of the embedded corpus.

    Args:
        kind: ``negation``: what is right after one source is wrong after the other, so that whoever
            does not read the source is right on exactly half of them, ties aside. ``antecedent``:
            the wrong target has *il* for *elle* or the other way round, with what agrees with it.

    Raises:
        ValueError: another kind.
    """
    if kind == "antecedent":
        readings = enumerate(misread_pairs(lexicon, count, seed))
        return [
            ContrastiveItem(right.source, right.target, wrong.target, group, kind)
            for group, pair in readings
            for right, wrong in pair
        ]
    if kind != "negation":
        raise ValueError(f"kind is negation or antecedent, not {kind!r}")
    return [
        ContrastiveItem(one.source, one.target, two.target, group, kind)
        for group, pair in enumerate(minimal_pairs(lexicon, kind, count, seed))
        for one, two in (pair, pair[::-1])
    ]


def contrastive(
    items: Sequence[ContrastiveItem], score: Score, strangers: Sequence[str]
) -> Contrastive:
    """The accuracy of forced scoring, with its control.

    Args:
        strangers: the source of each item in the control: see `shuffled_sources` and
            `half_affirmative`.
    """
    sources = [item.source for item in items]
    own, control = (_outcomes(items, given, score) for given in (sources, strangers))
    groups = tuple(item.group for item in items)
    by_sum, by_mean = (
        _contrast([pair[way] for pair in own], [pair[way] for pair in control], groups)
        for way in (0, 1)
    )
    return Contrastive(by_sum, by_mean)


def shuffled_sources(items: Sequence[ContrastiveItem], seed: int = 1) -> list[str]:
    """For each item the source of another group: a control where sources differ in what is asked.

    Raises:
        UserError: fewer than two different groups of items, so that nothing can be shuffled.
    """
    order = shuffled([item.group for item in items], seed)
    return [items[place].source for place in order]


def half_affirmative(
    items: Sequence[ContrastiveItem], affirmative: Sequence[str], seed: int = 1
) -> list[str]:
    """A control for items whose sources are all negated: half of them get an affirmative sentence.

    Among negated sources every stranger would say what the own source says, and whoever reads the
    polarity would be as right after it. With half of them affirmative it is right by chance, as it
    is among items that lost and gained a negation.

    Raises:
        UserError: fewer than two different groups of items, or no affirmative sentence.
    """
    if not affirmative:
        raise UserError("the control needs sentences without negation; the test set has none")
    strangers = shuffled_sources(items, seed)
    rng = Random(f"{seed} affirmative")
    groups = sorted({item.group for item in items})
    rng.shuffle(groups)
    chosen = set(groups[: len(groups) // 2])
    return [
        rng.choice(affirmative) if item.group in chosen else stranger
        for item, stranger in zip(items, strangers, strict=True)
    ]


def shuffled(groups: Sequence[int], seed: int) -> list[int]:
    """Places in an order in which none is at, or in the group of, its own.

    Raises:
        UserError: one group has half of the places or more.
    """
    largest = max(Counter(groups).values(), default=1)
    if 2 * largest > len(groups):
        raise UserError("the control needs sources to shuffle: give at least two groups of items")
    rng = Random(seed)
    # In an order by group, places as far apart as the largest group is long are of two groups.
    names = sorted(set(groups))
    rng.shuffle(names)
    rank = {name: place for place, name in enumerate(names)}
    order = sorted(range(len(groups)), key=lambda place: (rank[groups[place]], rng.random()))
    shift = rng.randint(largest, len(groups) - largest)
    taken = {place: order[(here + shift) % len(order)] for here, place in enumerate(order)}
    return [taken[place] for place in range(len(groups))]


def _outcomes(
    items: Sequence[ContrastiveItem], sources: Sequence[str], score: Score
) -> list[tuple[float, float]]:
    """Whether the right target wins by sum and by mean."""
    targets = [item.right for item in items] + [item.wrong for item in items]
    scores = score([*sources, *sources], targets)
    pairs = zip(scores[: len(items)], scores[len(items) :], strict=True)
    return [(_wins(a.log_prob, b.log_prob), _wins(a.mean, b.mean)) for a, b in pairs]


def _wins(right: float, wrong: float) -> float:
    return 0.5 if right == wrong else float(right > wrong)


def _contrast(own: list[float], control: list[float], groups: tuple[int, ...]) -> Contrast:
    gains = [a - b for a, b in zip(own, control, strict=True)]
    return Contrast(
        accuracy=_by_group(own, groups),
        control=_by_group(control, groups),
        gain=_by_group(gains, groups),
        outcomes=tuple(own),
        control_outcomes=tuple(control),
        groups=groups,
    )


def compare(first: Contrast, second: Contrast) -> Interval:
    """The gain of one model over its control minus that of another, on the same items.

    Raises:
        ValueError: they were measured on different items.
    """
    if first.groups != second.groups:
        raise ValueError("contrasts on different items cannot be compared")
    gains = [
        (a - b) - (c - d)
        for a, b, c, d in zip(
            *(first.outcomes, first.control_outcomes),
            *(second.outcomes, second.control_outcomes),
            strict=True,
        )
    ]
    return _by_group(gains, first.groups)


def _by_group(values: Sequence[float], groups: Sequence[int]) -> Interval:
    """The bootstrap interval of the mean over groups of their means."""
    members: dict[int, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return bootstrap_mean([sum(found) / len(found) for found in members.values()])
