"""Draws noun phrases: which noun, article and adjective, and when a pronoun is clear enough."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from random import Random

from nmt.data.meaning import NP, Adjective, Clause, Noun, Verb
from nmt.data.rules import (
    ARTICLELESS,
    CHANCE,
    DETERMINERS,
    OWN,
    OWNABLE,
    OWNED,
    PLURAL_ONLY,
    SPEAKERS,
)
from nmt.data.tables import Choice, Slot, Tables, admits


class Unsuitable(Exception):
    """A draw that led nowhere; the sentence is drawn again."""


class Phrases(ABC):
    """The part of the sampler that says who and what; remembers what pronouns may stand for."""

    def __init__(self, tables: Tables, rng: Random, unseen: bool = False) -> None:
        lexicon = tables.lexicon
        self.tables = tables
        self.lexicon = lexicon
        self.rng = rng
        self.unseen = unseen  # whether held-out combinations may be drawn
        self.novel = 0  # how many were
        self.said: list[NP] = []  # what pronouns may stand for
        self.used: set[str] = set()
        self.flat = False  # no relative clauses for now
        self.determiners = {name: Choice(d.items()) for name, d in DETERMINERS.items()}
        self.people = Choice(
            (n, n.weight) for n in lexicon.nouns.values() if n.pronoun in ("he", "she")
        )

    @abstractmethod
    def relative(self, np: NP, noun: Noun) -> Clause:
        """A clause about the noun."""

    def start(self) -> None:
        """Forget the sentence before."""
        self.said.clear()
        self.used.clear()
        self.flat = False
        self.novel = 0

    def chance(self, name: str) -> bool:
        return self.rng.random() < CHANCE[name]

    def weighted(self, weights: Mapping[str, int]) -> str:
        total = self.rng.random() * sum(weights.values())
        for item, weight in weights.items():
            total -= weight
            if total < 0:
                return item
        return item

    def draw(self, name: str, nouns: Sequence[Noun]) -> Choice[Noun]:
        choice = self.tables.drawn.get(name)
        if choice is None:
            choice = self.tables.drawn[name] = Choice((noun, noun.weight) for noun in nouns)
        return choice

    def subject(self, verb: Verb, adjective: Adjective | None) -> NP:
        """Speakers, pronouns, names or nouns that the predicate admits."""
        slot, wide = verb.subject, self.tables.wide[verb.name, "subject"]
        nouns = self.tables.subjects[verb.id]
        name = f"subject {verb.id}"
        if adjective is not None:
            slot, name = adjective.of, f"be {adjective.id}"
            wide = self.tables.wide[f"be {adjective.english}", "subject"]
            nouns = self.tables.described[adjective.id]
            if verb.id != "be":
                slot &= verb.subject
                nouns = [noun for noun in nouns if admits(slot, noun)]
                name = f"{verb.id} {adjective.id}"
            if not nouns:
                raise Unsuitable
        if self.said and self.chance("anaphor"):
            pronoun = self.anaphor(slot, wide, ())
            if pronoun is not None:
                return pronoun
        if "person" in slot and self.chance("exophoric"):
            pronoun = self.exophoric(self.rng.choice(("I", "I", "you", "we", "he", "she", "they")))
            if pronoun is not None:
                return pronoun
        return self.noun_phrase(self.draw(name, nouns), "subject", None)

    def object(self, c: Clause) -> NP:
        seen, kept = self.tables.objects[c.verb.id]
        verb = c.verb
        if verb.there:
            return self.noun_phrase(seen, "there", c)
        if verb.clitic != "none" and not verb.definite and not verb.profession:
            wide = self.tables.wide[verb.name, "object"]
            pronoun = self.pronoun_object(c, verb.object, wide)
            if pronoun is not None:
                return pronoun
        choice = seen
        if self.unseen and kept and self.chance("unseen"):
            choice = kept
            self.novel += 1
        role = "profession" if verb.profession else "definite" if verb.definite else "object"
        return self.noun_phrase(choice, role, c)

    def other(self, c: Clause, nouns: Sequence[Noun], slot: Slot, role: str) -> NP:
        """A person the clause needs besides its object."""
        pronoun = self.pronoun_object(c, slot, slot)
        if pronoun is not None and not (c.object is not None and c.object.pronoun):
            return pronoun
        return self.noun_phrase(self.draw(f"{role} {c.verb.id}", nouns), role, c)

    def pronoun_object(self, c: Clause, slot: Slot, wide: Slot) -> NP | None:
        """it, them, her: what was said before and is not in this clause."""
        if self.said and self.chance("object_pronoun"):
            taken = (c.subject.referent, c.object.referent if c.object else None)
            pronoun = self.anaphor(slot, wide, taken)
            if pronoun is not None:
                return pronoun
        if "person" in slot and self.chance("speaker_object"):
            name = self.rng.choice(("I", "you", "we", "he", "she", "they"))
            first = {"I": 1, "we": 1, "you": 2}
            if first.get(name, 3) == c.subject.person and (name in first or c.subject.pronoun):
                return None
            return self.exophoric(name)
        return None

    def anaphor(self, slot: Slot, wide: Slot, taken: Sequence[NP | None]) -> NP | None:
        """A pronoun for something said, if only one thing said fits it and the predicate."""
        fitting: dict[str, list[NP]] = {}
        for np in self.said:
            if np not in taken and self.suits(np, wide):
                fitting.setdefault(np.third_pronoun, []).append(np)
        for pronoun, candidates in reversed(fitting.items()):
            if len(candidates) == 1 and self.suits(candidates[0], slot):
                found = candidates[0]
                return NP(pronoun=pronoun, antecedent=found)
        return None

    def exophoric(self, pronoun: str) -> NP | None:
        """I, you, we; or he, she, they of whom nothing was said, if nobody said could be meant."""
        np = NP(pronoun=pronoun)
        if pronoun in SPEAKERS:
            return np
        if any(other.third_pronoun == pronoun for other in self.said):
            return None
        self.said.append(np)
        return np

    def suits(self, np: NP, slot: Slot) -> bool:
        """Whether a phrase fits a slot; pronouns of persons fit where persons do."""
        if np.conjuncts:
            return all(self.suits(conjunct, slot) for conjunct in np.conjuncts)
        if np.pronoun:
            return self.suits(np.antecedent, slot) if np.antecedent else "person" in slot
        return np.noun is not None and admits(slot, np.noun)

    def noun_phrase(self, choice: Choice[Noun], role: str, c: Clause | None) -> NP:
        noun = self.noun(choice)
        joinable = role in ("subject", "object") and noun.numbers == "sp"
        if joinable and noun.leaf not in ARTICLELESS and self.chance("joined"):
            other = self.noun(choice)
            if other.leaf == noun.leaf and other is not noun and other.numbers == "sp":
                both = tuple(NP(n, "s", self.lexicon.determiners["the"]) for n in (noun, other))
                joined = NP(conjuncts=both)
                self.said.append(joined)
                return joined
        np = NP(noun, self.number(noun, role))
        if role == "profession" and c is not None:
            np.number = c.subject.french_number
        self.determine(np, noun, role, c)
        if role == "profession" or noun.named:
            if noun.leaf in ("man_name", "woman_name"):
                self.said.append(np)
            return np
        if noun.leaf not in ARTICLELESS and noun.leaf not in ("timespan", "hair", "money"):
            self.modify(np, noun, role)
        every = np.determiner is not None and np.determiner.id == "every"
        if noun.leaf not in ARTICLELESS and not every:
            self.said.append(np)
        return np

    def noun(self, choice: Choice[Noun]) -> Noun:
        """A noun not yet used in the sentence, if possible."""
        if not choice:
            raise Unsuitable
        for _ in range(5):
            noun = choice.pick(self.rng)
            if noun.id not in self.used:
                break
        self.used.add(noun.id)
        return noun

    def number(self, noun: Noun, role: str) -> str:
        if noun.leaf == "timespan":
            return "p"
        if len(noun.numbers) == 1 or noun.named:
            return noun.numbers[0]
        if role in ("profession", "definite"):
            return "s"
        return "p" if self.chance("plural") else "s"

    def determine(self, np: NP, noun: Noun, role: str, c: Clause | None) -> None:
        if noun.named:
            return
        kind = "mass" if noun.mass else "plural" if np.number == "p" else "singular"
        if noun.leaf in ARTICLELESS:
            name = "bare"
        elif role == "profession":
            name = "a" if np.number == "s" else "bare"
        elif role == "definite" or noun.id == "truth":
            name = "the"
        elif role == "there":
            name = self.there(noun, np, c is not None and bool(c.negation))
        elif noun.leaf == "timespan":
            name = self.determiners["count"].pick(self.rng)
        elif noun.leaf == "hair" or noun.leaf == "body":
            name = "my" if role == "subject" else "own"
        else:
            if noun.leaf == "family" and np.number == "s":
                kind = "family"
            if role == "subject":
                kind += " subject"
            name = self.determiners[kind].pick(self.rng)
            if role == "place" and name in ("some", "bare", "every"):
                name = "the"
            if c is not None and c.negation and name in ("several", "every", "all"):
                name = "the"
        if name in ("own", "my", "your", "our") and not admits(OWNABLE, noun):
            name = "the"
        if name == "some" and c is not None and c.verb.generic:
            name = "bare"  # likes meat: aime la viande
        if noun.numbers == "p" and name not in PLURAL_ONLY[noun.french_number]:
            name = "the"  # three trousers, many scissors
        if name == "own":
            name = self.possessive(np, c)
        np.determiner = self.lexicon.determiners[name]

    def there(self, noun: Noun, np: NP, negated: bool) -> str:
        if noun.mass or (negated and np.number == "p"):
            return "some"
        if np.number == "s":
            return "a"
        for _ in range(10):
            name = self.determiners["there"].pick(self.rng)
            if name != "a":
                return name
        return "some"

    def possessive(self, np: NP, c: Clause | None) -> str:
        """The possessive of the clause's subject: the man sold his car."""
        if c is None or c.verb.there or c.verb.impersonal:
            return "the"
        owner = c.subject
        np.antecedent = owner.referent if owner.person == 3 else None
        return OWN[owner.third_pronoun]

    def modify(self, np: NP, noun: Noun, role: str) -> None:
        """Adjectives, an owner or a relative clause."""
        seen, kept = self.tables.adjectives[noun.id]
        if seen and self.chance("adjective"):
            choice = seen
            if self.unseen and kept and self.chance("unseen"):
                choice = kept
                self.novel += 1
            first = choice.pick(self.rng)
            np.adjectives = (first,)
            if first.before and self.chance("second_adjective"):
                second = seen.pick(self.rng)
                if not second.before:
                    np.adjectives = (first, second)
        if role == "there" or np.determiner is None or np.determiner.id != "the":
            return
        if np.number == "s" and noun.leaf in OWNED and self.chance("owner"):
            owner = self.noun(self.people)
            determiner = None if owner.named else self.lexicon.determiners["the"]
            np.owner = NP(owner, "s", determiner)
            self.said.append(np.owner)
        elif role in ("subject", "object") and not self.flat and self.chance("relative"):
            self.flat = True
            np.relative = self.relative(np, noun)
            self.flat = False
