"""What a sentence means, before it is English or French: one tree, shared by both sides.

A tree is made of noun phrases (:class:`NP`), clauses (:class:`Clause`) and the connectives that
chain clauses into a :class:`Sentence`. Both languages are read off the same tree, and each word
remembers which parts of the tree it expresses (:attr:`Token.keys`); words that share a part are
aligned. That is how "not" comes to be aligned with "ne" and "pas".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nmt.data.english import EnglishVerb
    from nmt.data.french import Conjugation

#: A part of the tree: a node and the role within it, such as (clause, "negation").
Key = tuple[object, str]


class Token(NamedTuple):
    """One word on its way to the surface."""

    form: str
    keys: tuple[Key, ...] = ()
    before_vowel: str = ""  # the form before a vowel sound: an, l', bel, cet
    hard: bool = False  # the first letter misleads: un *héros*, a *university*, an *hour*
    article: bool = False  # le, les melt with de and à only where they are articles


@dataclass(frozen=True, slots=True, eq=False)
class Noun:
    id: str
    leaf: str  # its semantic class
    english: tuple[str, str]  # singular, plural
    french: tuple[str, str]
    gender: str  # m f
    weight: float
    numbers: str = "sp"  # which numbers it is used in
    french_number: str = ""  # where French differs: trousers, pantalon
    mass: bool = False
    an: bool | None = None
    aspirated: bool = False
    feminine: str = ""  # of a profession said of a woman: étudiante
    pronoun: str = "it"

    @property
    def named(self) -> bool:
        return self.leaf in ("man_name", "woman_name", "city")


@dataclass(frozen=True, slots=True, eq=False)
class Adjective:
    id: str
    english: str
    french: tuple[str, str, str, str]  # ms fs mp fp
    of: frozenset[str]  # classes it is said of
    maybe: frozenset[str]  # and could be said of; it never is, but a pronoun must not hide them
    weight: float
    before: bool = False
    before_vowel: str = ""  # bel, nouvel, vieil
    an: bool | None = None
    aspirated: bool = False
    attributive: bool = True
    predicate: bool = True
    absolute: bool = False  # no *very*


@dataclass(frozen=True, slots=True, eq=False)
class Verb:
    """One sense of a verb with what it governs; classes are expanded to leaves."""

    id: str
    name: str  # the English words of the dictionary form: look for
    english: EnglishVerb
    english_tail: tuple[str, ...]
    french: Conjugation
    french_tail: tuple[str, ...]
    french_preposition: str  # before the object: penser à
    auxiliary: Conjugation
    uses_etre: bool
    reflexive: bool
    subject: frozenset[str]
    weight: float
    object: frozenset[str] = frozenset()
    to: frozenset[str] = frozenset()
    where: frozenset[str] = frozenset()  # English prepositions of a place it needs
    places: frozenset[str] = frozenset()  # what kinds of place, if not all
    place: bool = True  # whether a place may be added
    adverbs: bool = True
    that: str = ""  # link of the complement clause
    infinitive: str | None = None  # French preposition before it ("" for none)
    adjective: bool = False
    profession: bool = False  # est médecin: no article, agrees with the subject
    bare: bool = False  # parle français: no article
    definite: bool = False  # plays the piano
    state: bool = False  # past: imparfait
    progressive: bool = True
    generic: bool = False  # likes books: les livres
    impersonal: bool = False
    there: bool = False  # there is
    modal: bool = False
    particle: bool = False  # turn it off
    shift: str = "pronoun"  # gave her the book; never: explained it to her; always
    clitic: str = "object"  # what an object pronoun becomes: object, dative, or "" (never)
    tenses: frozenset[str] = frozenset()
    aspirated: bool = False

    @property
    def ambiguous_past(self) -> bool:
        """*I put*: present or past? Only the third person singular tells."""
        return self.english.past == self.english.base


@dataclass(frozen=True, slots=True, eq=False)
class Adverb:
    id: str
    english: tuple[str, ...]
    french: tuple[str, ...]
    kind: str  # manner, frequency, degree
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Preposition:
    id: str
    english: tuple[str, ...]
    french: tuple[str, ...]
    of: frozenset[str]
    weight: float
    article: bool = True  # en France: no article
    adjunct: bool = True  # may be added to any clause


@dataclass(frozen=True, slots=True, eq=False)
class Phrase:
    """A fixed phrase, words aligned by ``links`` (all with all where there are none)."""

    id: str
    english: tuple[str, ...]
    french: tuple[str, ...]
    links: tuple[tuple[int, int], ...]
    weight: float
    tenses: frozenset[str] = frozenset()
    habitual: bool = False
    negatable: bool = True
    lasting: bool = False  # only of what takes time
    front: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A connective: because, that, and, in order to."""

    id: str
    english: tuple[str, ...]
    french: tuple[str, ...]
    links: tuple[tuple[int, int], ...]
    kind: str  # and, cause, time, concession, condition, complement, purpose
    weight: float
    mood: str = ""
    comma: bool = False
    form: str = "infinitive"  # of the English verb after it: to cross, without crossing


@dataclass(frozen=True, slots=True, eq=False)
class Determiner:
    id: str
    english: tuple[str, str]  # singular, plural; "" where it has none
    french: tuple[str, str, str, str]  # ms fs mp fp
    aspirated: bool = False


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


def word_tokens(forms: Iterable[str], *keys: Key) -> list[Token]:
    """Tokens that all express the same."""
    return [Token(form, keys) for form in forms]


def phrase_tokens(phrase: Phrase | Link, node: object, side: int) -> list[Token]:
    """A fixed phrase of side 0 (English) or 1; its links become keys shared with the other."""
    forms = phrase.french if side else phrase.english
    return [
        Token(form, tuple((node, f"{i}-{j}") for i, j in phrase.links if (i, j)[side] == at))
        for at, form in enumerate(forms)
    ]
