"""What a sentence means, before it is English or French: one tree, shared by both sides.

A tree is made of noun phrases (:class:`NP`), clauses (:class:`Clause`) and the connectives that
chain clauses into a :class:`Sentence`. Both languages are read off the same tree, and each word
remembers which parts of the tree it expresses (:attr:`Token.keys`); words that share a part are
aligned. That is how "not" comes to be aligned with "ne" and "pas".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nmt.data.lexicon import (
        Adjective,
        Adverb,
        Determiner,
        Link,
        Noun,
        Phrase,
        Preposition,
        Verb,
    )

#: A part of the tree: a node and the role within it, such as (clause, "negation").
Key = tuple[object, str]


class Token(NamedTuple):
    """One word on its way to the surface."""

    form: str
    keys: tuple[Key, ...] = ()
    before_vowel: str = ""  # the form before a vowel sound: an, l', bel, cet
    hard: bool = False  # the first letter misleads: un *héros*, a *university*, an *hour*
    article: bool = False  # le, les melt with de and à only where they are articles


@dataclass(eq=False, slots=True)
class NP:
    """A noun phrase: a noun with its modifiers, a pronoun, or several phrases joined by *and*."""

    noun: Noun | None = None
    number: str = "s"
    determiner: Determiner | None = None
    adjectives: tuple[Adjective, ...] = ()
    owner: NP | None = None  # the man's car
    relative: Clause | None = None
    pronoun: str = ""  # I you he she it we they
    antecedent: NP | None = None  # of the pronoun, or of the possessive determiner
    conjuncts: tuple[NP, ...] = ()

    @property
    def person(self) -> int:
        return {"I": 1, "we": 1, "you": 2}.get(self.pronoun, 3)

    @property
    def english_number(self) -> str:
        """Number as English verbs agree with it; *you* is plural to them."""
        if self.pronoun:
            return "p" if self.pronoun in ("we", "you", "they") else "s"
        return "p" if self.conjuncts else self.number

    @property
    def french_number(self) -> str:
        """Number as French adjectives agree with it; the polite *vous* is one person."""
        if self.pronoun:
            if self.antecedent is not None:
                return self.antecedent.french_number
            return "p" if self.pronoun in ("we", "they") else "s"
        if self.conjuncts:
            return "p"
        assert self.noun is not None
        return self.noun.french_number or self.number

    @property
    def gender(self) -> str:
        """French gender: of the noun, or of what a pronoun stands for (else masculine)."""
        if self.noun is not None:
            return self.noun.gender
        if self.antecedent is not None:
            return self.antecedent.gender
        if self.conjuncts:
            return "f" if all(np.gender == "f" for np in self.conjuncts) else "m"
        return "f" if self.pronoun == "she" else "m"

    @property
    def french_person(self) -> int:
        """Index into the six forms of a tense: je tu il nous vous ils."""
        if self.person == 2:
            return 4
        return self.person - 1 + (3 if self.french_number == "p" else 0)

    @property
    def referent(self) -> NP:
        """What the phrase stands for: itself, or the antecedent of a pronoun."""
        return self.antecedent if self.pronoun and self.antecedent is not None else self

    @property
    def third_pronoun(self) -> str:
        """The English pronoun that may stand for this phrase later on."""
        if self.pronoun:
            return self.pronoun
        if self.english_number == "p":
            return "they"
        assert self.noun is not None
        return self.noun.pronoun


@dataclass(eq=False, slots=True)
class PP:
    preposition: Preposition
    np: NP


@dataclass(eq=False, slots=True)
class Clause:
    """A verb with what it needs, and how it is said: tense, negation, mood."""

    subject: NP
    verb: Verb
    tense: str = "present"
    negation: str = ""  # not, never, no_longer
    contracted: bool = False  # didn't, it's
    object: NP | None = None
    dative: NP | None = None
    adjective: Adjective | None = None
    degree: Adverb | None = None
    adverb: Adverb | None = None
    places: list[PP] = field(default_factory=list)
    time: Phrase | None = None
    time_first: bool = False
    infinitive: Clause | None = None  # shares the subject
    purpose: tuple[Link, Clause] | None = None  # in order to ...; shares the subject
    complement: tuple[Link, Clause] | None = None  # that ..., whether ...
    also: Clause | None = None  # ... and left; shares subject and tense
    gap: str = ""  # the role the head of a relative clause plays: subject, object, place
    silent: bool = False  # a relative clause without *that*
    mood: str = ""  # what the connective asks of the French verb: subjunctive, future ...


@dataclass(eq=False, slots=True)
class Linked:
    """A further clause and the connective before it."""

    link: Link
    clause: Clause


@dataclass(eq=False, slots=True)
class Sentence:
    main: Clause
    question: Phrase | None = None  # yes-no (an empty phrase) or why, when, where
    front: Linked | None = None  # Because ..., main
    linked: list[Linked] = field(default_factory=list)
