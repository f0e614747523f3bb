"""Builds the tree of a particular sentence from a compact description, for tests and teaching.

A clause is a mapping, a noun phrase a string of lexicon entries:

    {s: the animal, v: cross, o: the street, t: past, neg: not,
     then: [[because, {s: it=animal, v: be, adj: too tired, t: past}]]}

Noun phrases: ``the big dog``, ``two dog+`` (plural), ``bank/river`` (a sense), ``ice_cream``,
``the man & the woman``, ``she``, ``it=animal`` and ``his=man car`` (with antecedent), or a
mapping ``{np: the man, owner: ..., rel: {...}}``. Clause fields: ``s v o to t neg short adj adv
where time first inf that whether and purpose``; a relative clause has ``gap`` and leaves out
that role; a sentence may also have ``front``, ``then`` and ``ask``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nmt.data.english import PRONOUNS
from nmt.data.lexicon import Lexicon
from nmt.data.meaning import NP, PP, Clause, Linked, Preposition, Sentence
from nmt.data.sampler import mood
from nmt.data.tables import admits
from nmt.errors import UserError

Spec = Mapping[str, Any]
CLAUSE_FIELDS = (
    "s v o to t neg short adj adv where time first inf that whether and purpose gap silent "
    "front then ask"
)


def derive(lexicon: Lexicon, spec: Spec) -> Sentence:
    """The tree of a description.

    Raises:
        UserError: a field, word or antecedent that does not exist.
    """
    return _Builder(lexicon).sentence(spec)


class _Builder:
    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.said: dict[str, NP] = {}  # by noun, or by the words of a joined phrase

    def entry(self, table: Mapping[str, Any], name: str) -> Any:
        if name not in table:
            raise UserError(f"derivation: {name!r} is not in the lexicon; look up its entry there")
        return table[name]

    def sentence(self, spec: Spec) -> Sentence:
        front = None
        if "front" in spec:
            link = self.entry(self.lexicon.links, spec["front"][0])
            front = Linked(link, self.clause(spec["front"][1]))
            front.clause.mood = mood(link, spec.get("t", "present"))
        sentence = Sentence(self.clause(spec), front=front)
        if "ask" in spec:
            sentence.question = self.entry(self.lexicon.questions, spec["ask"])
        governing = sentence.main
        for name, inner in spec.get("then", ()):
            linked = Linked(self.entry(self.lexicon.links, name), self.clause(inner))
            linked.clause.mood = mood(linked.link, governing.tense)
            sentence.linked.append(linked)
            governing = linked.clause
        return sentence

    def clause(self, spec: Spec, subject: NP | None = None, tense: str = "present") -> Clause:
        unknown = set(spec) - set(CLAUSE_FIELDS.split())
        if unknown:
            raise UserError(f"derivation: unknown field {sorted(unknown)[0]!r} in {dict(spec)}")
        if subject is None:
            subject = self.np(spec.get("s", "it"))
        c = Clause(subject, self.entry(self.lexicon.verbs, spec["v"]), spec.get("t", tense))
        c.negation, c.contracted = spec.get("neg", ""), spec.get("short", False)
        c.gap, c.silent = spec.get("gap", ""), spec.get("silent", False)
        if "o" in spec:
            c.object = self.np(spec["o"], c)
        if "to" in spec:
            c.dative = self.np(spec["to"], c)
        if "adj" in spec:
            *degree, adjective = spec["adj"].split()
            c.adjective = self.entry(self.lexicon.adjectives, adjective)
            c.degree = self.entry(self.lexicon.adverbs, degree[0]) if degree else None
        if "adv" in spec:
            c.adverb = self.entry(self.lexicon.adverbs, spec["adv"])
        for name, np in spec.get("where", {}).items():
            place = self.np(np, c)
            c.places.append(PP(self.preposition(name, place), place))
        if "time" in spec:
            c.time = self.entry(self.lexicon.times, spec["time"])
            c.time_first = spec.get("first", False)
        self.embedded(c, spec)
        return c

    def embedded(self, c: Clause, spec: Spec) -> None:
        if "inf" in spec:
            c.infinitive = self.clause(spec["inf"], c.subject, "infinitive")
        if "and" in spec:
            c.also = self.clause(spec["and"], c.subject, c.tense)
        if "purpose" in spec:
            name, inner = spec["purpose"]
            link = self.entry(self.lexicon.links, name)
            c.purpose = (link, self.clause(inner, c.subject, link.form))
        for name in ("that", "whether"):
            if name in spec:
                c.complement = (self.lexicon.links[name], self.clause(spec[name]))

    def preposition(self, name: str, np: NP) -> Preposition:
        """The sense of the preposition that takes the noun; a pronoun stands for a person."""
        for preposition in self.lexicon.prepositions.values():
            if " ".join(preposition.english) != name:
                continue
            if "person" in preposition.of if np.noun is None else admits(preposition.of, np.noun):
                return preposition
        raise UserError(f"derivation: no sense of the preposition {name!r} takes this noun")

    def np(self, spec: str | Spec, c: Clause | None = None) -> NP:
        if isinstance(spec, str):
            return self.phrase(spec)
        np = self.phrase(spec["np"])
        if "owner" in spec:
            np.owner = self.np(spec["owner"])
        if "rel" in spec:
            inner = spec["rel"]
            if inner["gap"] == "subject":
                np.relative = self.clause(inner, np)
            else:
                np.relative = self.clause(inner)
                np.relative.object = np
        return np

    def phrase(self, text: str) -> NP:
        """A noun phrase in words."""
        if " & " in text:
            joined = NP(conjuncts=tuple(self.phrase(part) for part in text.split(" & ")))
            self.said["both"] = joined
            return joined
        first, *rest = text.split()
        name, _, antecedent = first.partition("=")
        found = self.entry(self.said, antecedent) if antecedent else None
        if name in PRONOUNS and not rest:
            return NP(pronoun=name, antecedent=found)
        determiner = None
        modifiers = [first, *rest[:-1]]
        if name in self.lexicon.determiners and rest:
            determiner = self.lexicon.determiners[name]
            modifiers = rest[:-1]
        *_, word = text.split()
        noun = self.entry(self.lexicon.nouns, word.removesuffix("+").replace("_", " "))
        if not rest:
            modifiers = []
        number = "p" if word.endswith("+") or noun.numbers == "p" else "s"
        adjectives = tuple(self.entry(self.lexicon.adjectives, word) for word in modifiers)
        np = NP(noun, number, determiner, adjectives, antecedent=found)
        self.said[noun.id] = np
        return np
