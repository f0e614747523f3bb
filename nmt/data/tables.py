"""What goes with what: worked out once from the lexicon, drawn from in logarithmic time."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from random import Random
from typing import Generic, TypeVar
from zlib import crc32

from nmt.data.lexicon import Lexicon, rank_weight
from nmt.data.meaning import Adjective, Noun, Verb
from nmt.data.rules import COMMON

T = TypeVar("T")
Slot = frozenset[str]


class Choice(Generic[T]):
    """Items with weights, drawn in logarithmic time."""

    __slots__ = ("cumulated", "items")

    def __init__(self, weighted: Iterable[tuple[T, float]]) -> None:
        self.items: list[T] = []
        self.cumulated: list[float] = []
        total = 0.0
        for item, weight in weighted:
            if weight > 0:
                total += weight
                self.items.append(item)
                self.cumulated.append(total)

    def __bool__(self) -> bool:
        return bool(self.items)

    def pick(self, rng: Random) -> T:
        return self.items[bisect(self.cumulated, rng.random() * self.cumulated[-1])]


def held_out(first: str, second: str) -> bool:
    """Whether a combination of two words is kept for ``test_unseen``: about one in sixteen."""
    return crc32(f"{first} {second}".encode()) % 16 == 0


class Tables:
    """What goes with what, worked out once from the lexicon.

    ``fillers`` lists the nouns of a slot. A noun that shares its English form with another is
    left out where the slot, or the same slot of another sense of the same English verb, would
    admit both: *bank* may be robbed (banque) or lie under a tree (rive) but not be seen.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.rivals: dict[str, list[Noun]] = {}
        by_form: dict[str, list[Noun]] = {}
        for noun in lexicon.nouns.values():
            for form in dict.fromkeys(noun.english):
                by_form.setdefault(form, []).append(noun)
        for nouns in by_form.values():
            for noun in nouns:
                others = [other for other in nouns if other is not noun]
                self.rivals.setdefault(noun.id, []).extend(others)
        self.wide: dict[tuple[str, str], Slot] = {}  # (English predicate, role): all senses
        for verb in lexicon.verbs.values():
            for role in ("subject", "object"):
                self._widen(verb.name, role, getattr(verb, role))
        for adjective in lexicon.adjectives.values():
            name = f"be {adjective.english}"
            self._widen(name, "subject", adjective.of | adjective.maybe)
        for preposition in lexicon.prepositions.values():
            self._widen(" ".join(preposition.english), "place", preposition.of)
        self.objects = {
            verb.id: self.split(self.fillers(verb.object, self.wide[verb.name, "object"]), verb)
            for verb in lexicon.verbs.values()
        }
        self.subjects = {
            verb.id: self.fillers(verb.subject, self.wide[verb.name, "subject"])
            for verb in lexicon.verbs.values()
        }
        self.datives = {v.id: self.fillers(v.to, v.to) for v in lexicon.verbs.values() if v.to}
        self.described = {
            adjective.id: self.fillers(
                adjective.of, self.wide[f"be {adjective.english}", "subject"]
            )
            for adjective in lexicon.adjectives.values()
        }
        self.places = {
            p.id: self.fillers(p.of, self.wide[" ".join(p.english), "place"])
            for p in lexicon.prepositions.values()
        }
        self.drawn: dict[str, Choice[Noun]] = {}  # filled by the sampler as it goes
        self.verbs_on: dict[str, Choice[Verb]] = {}
        self.adjectives = {noun.id: self._adjectives(noun) for noun in lexicon.nouns.values()}

    def _widen(self, name: str, role: str, slot: Slot) -> None:
        self.wide[name, role] = self.wide.get((name, role), frozenset()) | slot

    def fillers(self, slot: Slot, wide: Slot) -> list[Noun]:
        return [
            noun
            for noun in self.lexicon.nouns.values()
            if admits(slot, noun) and not any(admits(wide, rival) for rival in self.rivals[noun.id])
        ]

    def split(self, nouns: Sequence[Noun], verb: Verb) -> tuple[Choice[Noun], Choice[Noun]]:
        """The objects of a verb: those seen in training, and those kept for ``test_unseen``."""
        common = verb.weight >= rank_weight(90) and len(nouns) >= 12
        kept = [common and _frequent(noun) and held_out(verb.id, noun.id) for noun in nouns]
        return (
            Choice((noun, noun.weight) for noun, out in zip(nouns, kept, strict=True) if not out),
            Choice((noun, noun.weight) for noun, out in zip(nouns, kept, strict=True) if out),
        )

    def _adjectives(self, noun: Noun) -> tuple[Choice[Adjective], Choice[Adjective]]:
        fitting = [
            adjective
            for adjective in self.lexicon.adjectives.values()
            if adjective.attributive and admits(adjective.of, noun)
        ]
        kept = [
            _frequent(noun) and a.weight >= rank_weight(45) and held_out(a.id, noun.id)
            for a in fitting
        ]
        return (
            Choice((a, a.weight) for a, out in zip(fitting, kept, strict=True) if not out),
            Choice((a, a.weight) for a, out in zip(fitting, kept, strict=True) if out),
        )


def _frequent(noun: Noun) -> bool:
    return noun.weight >= rank_weight(9) and noun.leaf in COMMON


def admits(slot: Slot, noun: Noun) -> bool:
    return noun.leaf in slot or noun.id in slot
