"""What noise in the source costs, beyond what as many harmless words cost.

A longer input alone costs something, and so does a reference that does not know of an added word.
So every noisy sentence has a control: as many adverbs are added, where an adverb may stand: after
*is*, *will* and the like, where a clause ends, or else at the end. (At the places of the noise they
do more harm than most noise.) What counts is how far the noise falls below the control.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from nmt.errors import UserError
from nmt.evaluation.probes import Explain, Translate
from nmt.evaluation.probes.words import looked_at
from nmt.evaluation.scores import check_counts, sentence_chrf
from nmt.evaluation.statistics import Interval, bootstrap_mean

Kind = Literal["random", "typos", "repetitions"]
KINDS: tuple[Kind, ...] = ("random", "typos", "repetitions")
SHARES = (0.05, 0.1, 0.2)

HARMLESS = ("really", "often", "always")
"""Adverbs for English that the embedded corpus has too: they colour a sentence, its sense stays."""

VERBS = frozenset(
    ("is", "are", "was", "were", "am", "be", "will", "can", "could", "would", "should")
)
LINKS = frozenset(("because", "but", "when", "while", "if", "although", "though"))


@dataclass(frozen=True, slots=True)
class Noisy:
    """A sentence, the same with noise, and with as many harmless words.

    Places are those of the noise and of the harmless words, in ``noisy.split()`` and
    ``control.split()``.
    """

    clean: str
    noisy: str
    control: str
    noise_places: tuple[int, ...]
    control_places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NoiseEffect:
    """What noise costs.

    Attributes:
        clean, noisy, control: mean chrF of the three translations against the references.
        lost: chrF clean minus noisy; `beyond`: control minus noisy, over the sentences that have
            noise, with bootstrap intervals.
        noise_words: how many words are noise, as a share of all words of the noisy sentences.
        noise_mass: the share of norm-weighted cross-attention on them; `control_words` and
            `control_mass` the same of the harmless words. None where there is no attention.
        sentences: that have noise.
    """

    clean: float
    noisy: float
    control: float
    lost: Interval
    beyond: Interval
    noise_words: float
    control_words: float
    noise_mass: float | None
    control_mass: float | None
    sentences: int


def make_noisy(
    sentences: Sequence[str],
    kind: Kind,
    share: float,
    *,
    vocabulary: Sequence[str] = (),
    harmless: Sequence[str] = HARMLESS,
    seed: int = 1,
) -> list[Noisy]:
    """Each sentence with noise in a share of its words; the seed alone decides where.

    Of n words share * n are hit, rounded up or down at random so that the share is right on
    average. ``random`` adds a word of the vocabulary, ``repetitions`` says a word twice,
    ``typos`` swaps, drops or doubles a letter within a word. Nothing is put before the first word.

    Args:
        vocabulary: words to add at random, such as those of other sentences, without the
            punctuation at their ends; each different one is equally likely, since small words, of
            which text is full, do little harm.

    Raises:
        UserError: an unknown kind, no share, or no vocabulary where one is needed.
    """
    if kind not in KINDS:
        raise UserError(f"unknown noise {kind!r}: choose {', '.join(KINDS)}")
    if not 0 < share <= 1:
        raise UserError(f"noise in {share} of the words: choose a share above 0, at most 1")
    drawn_from = sorted({_ENDS.sub("", word) for word in vocabulary} - {""})
    if kind == "random" and not drawn_from:
        raise UserError("random noise needs a vocabulary to draw words from")
    return [
        _with_noise(text, kind, share, drawn_from, harmless, Random(f"{seed} {kind} {place}"))
        for place, text in enumerate(sentences)
    ]


def _with_noise(
    text: str,
    kind: Kind,
    share: float,
    vocabulary: Sequence[str],
    harmless: Sequence[str],
    rng: Random,
) -> Noisy:
    words = text.split()
    after = kind == "repetitions"  # what is added follows the word; else it comes before it
    hit = [
        place
        for place in range(0 if after else 1, len(words))
        if kind != "typos" or _letters(words[place]) > 2
    ]
    count = min(len(hit), int(share * len(words) + rng.random()))
    places = sorted(rng.sample(hit, count))
    control, control_places = _harmless(words, count, harmless, rng)
    if kind == "typos":
        noisy = [_typo(word, rng) if i in places else word for i, word in enumerate(words)]
        noise_places = places
    else:
        extra = [words[i].strip(_MARKS) if after else rng.choice(vocabulary) for i in places]
        noisy, noise_places = _inserted(words, places, extra, after=after)
    return Noisy(
        *(" ".join(words), " ".join(noisy), " ".join(control)),
        *(tuple(noise_places), tuple(control_places)),
    )


_ENDS = re.compile(r"^\W+|\W+$")
_MARKS = ".,;:!?…\"'()«»“”"


def _letters(word: str) -> int:
    return sum(c.isalpha() for c in word)


def _harmless(
    words: Sequence[str], count: int, harmless: Sequence[str], rng: Random
) -> tuple[list[str], list[int]]:
    """The words with adverbs before some, and where they are; what finds no place comes last."""
    fits = [
        place
        for place in range(2, len(words))
        if words[place - 1].lower() in VERBS or words[place].lower() in LINKS
    ]
    places = sorted(rng.sample(fits, min(count, len(fits))))
    new, where = _inserted(words, places, rng.choices(harmless, k=len(places)), after=False)
    for extra in rng.choices(harmless, k=count - len(places)):
        new, last = _inserted(new, [len(new) - 1], [extra], after=True)
        where += last
    return new, where


def _inserted(
    words: Sequence[str], places: Sequence[int], extra: Sequence[str], *, after: bool
) -> tuple[list[str], list[int]]:
    """The words with one more at each place, and where those are then.

    What follows a word takes over the punctuation at its end.
    """
    new = dict(zip(places, extra, strict=True))
    found: list[str] = []
    where = []
    for place, word in enumerate(words):
        if place not in new:
            found.append(word)
        elif after:
            bare = word.rstrip(_MARKS)
            where.append(len(found) + 1)
            found += [bare or word, new[place] + (word[len(bare) :] if bare else "")]
        else:
            where.append(len(found))
            found += [new[place], word]
    return found, where


def _typo(word: str, rng: Random) -> str:
    """Two letters swapped, one dropped or one doubled, behind the first; never the same word."""
    inner = [i for i in range(1, len(word)) if word[i].isalpha() and word[i - 1].isalpha()]
    swaps = [i for i in inner[1:] if word[i] != word[i - 1]]
    changes: list[Callable[[], str]] = []
    if swaps:
        i = rng.choice(swaps)
        changes.append(lambda: word[: i - 1] + word[i] + word[i - 1] + word[i + 1 :])
    if inner:
        j = rng.choice(inner)
        changes += [lambda: word[:j] + word[j + 1 :], lambda: word[:j] + word[j] + word[j:]]
    return rng.choice(changes)() if changes else word + word[-1]


def noise_effect(
    noisy: Sequence[Noisy],
    references: Sequence[str],
    translate: Translate,
    explain: Explain | None = None,
) -> NoiseEffect:
    """What the noise costs a system, and how much of its attention goes there.

    Raises:
        UserError: not one reference per sentence, or no sentence has noise in it.
    """
    check_counts([one.clean for one in noisy], [references])
    kept = [row for row, one in enumerate(noisy) if one.noise_places]
    if not kept:
        raise UserError("no sentence has noise in it: take more sentences or a larger share")
    chosen, wanted = [noisy[row] for row in kept], [references[row] for row in kept]
    texts = {
        "clean": [one.clean for one in chosen],
        "noisy": [one.noisy for one in chosen],
        "control": [one.control for one in chosen],
    }
    outputs = {name: list(translate(lines)) for name, lines in texts.items()}
    scores = {name: sentence_chrf(lines, [wanted]) for name, lines in outputs.items()}
    means = {name: sum(found) / len(found) for name, found in scores.items()}
    where = {
        "noisy": [one.noise_places for one in chosen],
        "control": [one.control_places for one in chosen],
    }
    mass = {
        name: None if explain is None else _mass(texts[name], outputs[name], places, explain)
        for name, places in where.items()
    }
    return NoiseEffect(
        clean=means["clean"],
        noisy=means["noisy"],
        control=means["control"],
        lost=_difference(scores["clean"], scores["noisy"]),
        beyond=_difference(scores["control"], scores["noisy"]),
        noise_words=_share(texts["noisy"], where["noisy"]),
        control_words=_share(texts["control"], where["control"]),
        noise_mass=mass["noisy"],
        control_mass=mass["control"],
        sentences=len(chosen),
    )


def _difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    return bootstrap_mean([a - b for a, b in zip(first, second, strict=True)])


def _share(texts: Sequence[str], places: Sequence[Sequence[int]]) -> float:
    """The mean share of words that stand at the places."""
    shares = [len(p) / len(text.split()) for text, p in zip(texts, places, strict=True)]
    return sum(shares) / len(shares)


def _mass(
    sources: Sequence[str],
    outputs: Sequence[str],
    places: Sequence[Sequence[int]],
    explain: Explain,
) -> float | None:
    """The mean share of norm-weighted cross-attention on the words at the places.

    Of what goes to words, so that it can be set against their share of the words.
    """
    found = []
    for one, source, chosen in zip(explain(sources, outputs), sources, places, strict=True):
        looks = looked_at(one, source.split(), weighted=True)
        if looks is None:
            return None
        found.append(sum(looks[place] for place in chosen) / max(sum(looks), 1e-12))
    return sum(found) / len(found)
