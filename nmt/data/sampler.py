"""Draws trees at random: which verb, which nouns, which tense, and what may follow what.

Three principles keep French a function of English. A noun or verb with two translations is only
put where its company admits one of them (:class:`nmt.data.tables.Tables`). A pronoun is only used
where exactly one phrase said before fits both it and its predicate. And every rule that bends the
French of a clause (aspect, mood, *de* after a negation) looks at what the English shows.
"""

from __future__ import annotations

from random import Random

from nmt.data.meaning import (
    NP,
    PP,
    Adjective,
    Clause,
    Link,
    Linked,
    Noun,
    Preposition,
    Sentence,
    Verb,
)
from nmt.data.phrases import Phrases, Unsuitable
from nmt.data.rules import (
    CHAINS,
    DYNAMIC_ONLY,
    GOVERNED_BY,
    HUMAN,
    NEVER,
    NO_LONGER,
    NO_NEGATION,
    PAST_FRAME,
    REPORTED,
    SHAPES,
    TENSES,
)  # fmt: skip
from nmt.data.tables import Choice, Tables, admits


def mood(link: Link, governing: str) -> str:
    """The mood after a connective; *when he arrives* is a future if the main clause is one."""
    if link.mood == "future" and governing not in ("future", "going_to"):
        return ""
    return link.mood


def same(one: NP, other: NP) -> bool:
    """Whether two subjects are one: I and I, the man and he."""
    if one.person < 3:
        return one.pronoun == other.pronoun
    return one.referent is other.referent


def has_relative(c: Clause) -> bool:
    """Whether a relative clause follows the verb and could claim what comes after it."""
    after = [c.object, c.dative, *(pp.np for pp in c.places)]
    return any(np is not None and np.relative is not None for np in after if np is not c.subject)


class Sampler(Phrases):
    """Draws one tree after the other from a stream of random numbers."""

    def __init__(self, tables: Tables, rng: Random, unseen: bool = False) -> None:
        super().__init__(tables, rng, unseen)
        lexicon = tables.lexicon
        self.shapes = Choice(SHAPES.items())
        special = ("be", "there be", "be/profession", "become/profession")
        self.verbs = Choice(
            (v, v.weight)
            for v in lexicon.verbs.values()
            if v.id not in special and not v.impersonal
        )
        self.plain_verbs = Choice(
            (v, v.weight)
            for v in self.verbs.items
            if not (v.state or v.infinitive is not None or v.that or v.adjective or v.tenses)
        )
        self.weather = Choice((v, v.weight) for v in lexicon.verbs.values() if v.impersonal)
        self.predicates = Choice((a, a.weight) for a in lexicon.adjectives.values() if a.predicate)
        self.adjuncts = Choice((p, p.weight) for p in lexicon.prepositions.values() if p.adjunct)
        self.by_preposition: dict[str, Choice[Preposition]] = {}
        for name in {" ".join(p.english) for p in lexicon.prepositions.values()}:
            senses = [p for p in lexicon.prepositions.values() if " ".join(p.english) == name]
            self.by_preposition[name] = Choice((p, len(tables.places[p.id]) ** 0.5) for p in senses)
        self.times = {
            tense: Choice((t, t.weight) for t in lexicon.times.values() if tense in t.tenses)
            for tense in (*TENSES["past"], *TENSES["present"])
        }
        self.adverbs = {
            kind: Choice((a, a.weight) for a in lexicon.adverbs.values() if a.kind == kind)
            for kind in ("manner", "frequency", "perfect", "degree")
        }
        self.links = Choice(
            (link, link.weight) for link in lexicon.links.values() if link.kind in CHAINS
        )
        self.purposes = Choice((k, k.weight) for k in lexicon.links.values() if k.kind == "purpose")
        self.questions = Choice((q, 1 if q.english else 12) for q in lexicon.questions.values())

    def sentence(self, clauses: int) -> Sentence:
        """A sentence of so many clauses, embedded ones not counted."""
        self.start()
        frame = "past" if self.rng.random() < 0.5 else "present"
        tense = self.weighted(TENSES[frame])
        question = clauses <= 2 and tense != "used_to" and self.chance("question")
        front = None
        if clauses > 1 and not question and self.chance("front"):
            front = self.link(frame, tense, subordinate=True)
            clauses -= 1
        main = self.clause({tense: 1}, main=front is None and not question, question=question)
        sentence = Sentence(main, front=front)
        before = front is not None and front.link.kind == "before"
        if front is not None and before and same(front.clause.subject, main.subject):
            raise Unsuitable
        if question:
            sentence.question = self.questions.pick(self.rng)
            if sentence.question.id == "where" and sentence.main.places:
                raise Unsuitable
            if sentence.question.id == "when" and sentence.main.time is not None:
                raise Unsuitable
        governing = sentence.main
        for _ in range(clauses - 1):
            linked = self.link(frame, governing.tense, subordinate=question)
            if linked.link.kind == "before" and same(linked.clause.subject, governing.subject):
                raise Unsuitable  # avant que: not with the same subject
            sentence.linked.append(linked)
            governing = linked.clause
        return sentence

    def link(self, frame: str, governing: str, subordinate: bool = False) -> Linked:
        """A connective and its clause; the connective must suit the tense it hangs on."""
        for _ in range(20):
            link = self.links.pick(self.rng)
            tenses = CHAINS[link.kind].get(frame)
            needed = GOVERNED_BY.get(link.kind)
            if tenses is None or (needed is not None and governing not in needed):
                continue
            if subordinate and link.kind in ("and", "then"):
                continue
            plain = link.kind in ("before", "after")
            clause = self.clause(tenses, plain=plain)
            clause.mood = mood(link, governing)
            return Linked(link, clause)
        raise Unsuitable

    def clause(
        self,
        tenses: dict[str, int],
        subject: NP | None = None,
        main: bool = False,
        embedded: bool = False,
        question: bool = False,
        plain: bool = False,
    ) -> Clause:
        """A finite clause.

        Args:
            subject: given for a relative clause on its subject; else drawn.
            main: a phrase of time may be put first.
            embedded: in a complement or relative clause; no more embedding, no time.
            plain: affirmative and eventful, as after *before*.
        """
        shape = "verb" if plain or subject is not None else self.shapes.pick(self.rng)
        if shape == "weather" and (embedded or question):
            shape = "verb"
        verb, adjective = self.head(shape, subject, plain, embedded)
        tense = self.tense(verb, tenses)
        if shape == "weather" or shape == "there":
            c = Clause(NP(pronoun="it"), verb, tense)
        elif subject is not None:
            c = Clause(subject, verb, tense)
        else:
            c = Clause(self.subject(verb, adjective), verb, tense)
        third = (c.subject.person, c.subject.english_number) == (3, "s")
        if tense == "present" and verb.ambiguous_past and not third:
            raise Unsuitable
        c.adjective = adjective
        if adjective is not None and not adjective.absolute and self.chance("degree"):
            c.degree = self.adverbs["degree"].pick(self.rng)
        if not plain and verb.id not in NO_NEGATION and self.chance("negation"):
            self.negate(c)
        if c.degree is not None and c.degree.id == "quite" and c.negation:
            c.degree = None  # pas assez is *not enough*
        c.contracted = self.chance("contracted")
        self.predicate(c, embedded)
        if not plain:
            self.adverb(c, embedded)
        if not embedded and not question and tense in ("past", "present", "future") and not plain:
            self.also(c)
        if not embedded and c.also is None:
            self.time(c, main)
        return c

    def head(
        self, shape: str, subject: NP | None, plain: bool, embedded: bool
    ) -> tuple[Verb, Adjective | None]:
        """The verb, and the adjective of a clause such as *the street was wide*."""
        verbs = self.lexicon.verbs
        if shape == "adjective":
            return verbs["be"], self.predicates.pick(self.rng)
        if shape == "profession":
            return verbs["be/profession" if self.rng.random() < 0.7 else "become/profession"], None
        if shape == "there":
            return verbs["there be"], None
        if shape == "weather":
            verb = self.weather.pick(self.rng)
            if verb.state and any(np.third_pronoun == "it" for np in self.said):
                raise Unsuitable
            return verb, None
        for _ in range(30):
            verb = (self.plain_verbs if plain else self.verbs).pick(self.rng)
            if subject is not None and not self.suits(subject, verb.subject):
                continue
            if embedded and (verb.that or verb.infinitive is not None):
                continue
            if not verb.adjective:
                return verb, None
            adjective = self.predicates.pick(self.rng)
            if subject is None or self.suits(subject, adjective.of):
                return verb, adjective
        raise Unsuitable

    def tense(self, verb: Verb, tenses: dict[str, int]) -> str:
        """One of the tenses that the verb has; states have no progressive."""
        suited = {
            tense: weight
            for tense, weight in tenses.items()
            if (not verb.tenses or tense in verb.tenses)
            and not (verb.state and tense in DYNAMIC_ONLY)
            and (verb.progressive or "progressive" not in tense)
            and (verb.state or tense != "past_state")
        }
        if not suited:
            raise Unsuitable
        return self.weighted(suited).removesuffix("_state")

    def negate(self, c: Clause) -> None:
        draw = self.rng.random()
        if draw < 0.12 and c.tense in NEVER:
            c.negation = "never"
        elif draw < 0.26 and (c.tense in NO_LONGER or (c.tense == "past" and c.verb.state)):
            c.negation = "no_longer"
        elif c.tense not in ("used_to", "just", "would"):
            c.negation = "not"

    def predicate(self, c: Clause, embedded: bool) -> None:
        """All that the verb governs, and perhaps a place."""
        verb = c.verb
        if verb.object and c.object is None:
            c.object = self.object(c)
        if verb.to:
            c.dative = self.other(c, self.tables.datives[verb.id], verb.to, "dative")
        if verb.where:
            name = self.rng.choice(sorted(verb.where))
            c.places.append(self.place(self.by_preposition[name].pick(self.rng), c))
        elif verb.place and not verb.impersonal and self.chance("place"):
            c.places.append(self.place(self.adjuncts.pick(self.rng), c))
        if verb.infinitive is not None:
            c.infinitive = self.infinitive(c)
        elif verb.that:
            past = c.tense in PAST_FRAME
            inner = self.clause(REPORTED["past" if past else "present"], embedded=True)
            c.complement = (self.lexicon.links[verb.that], inner)
        elif embedded or verb.state or verb.impersonal or has_relative(c):
            return
        elif verb.subject <= HUMAN and self.chance("purpose"):
            link = self.purposes.pick(self.rng)
            if link.id == "to" and c.object is not None:
                link = self.lexicon.links["in order to"]  # not: helps Paul to cross
            c.purpose = (link, self.infinitive(c, link.form))

    def infinitive(self, c: Clause, form: str = "infinitive") -> Clause:
        """A verb phrase without a subject of its own: to cross the street."""
        for _ in range(20):
            verb = self.plain_verbs.pick(self.rng)
            if verb is not c.verb and self.suits(c.subject, verb.subject):
                inner = Clause(c.subject, verb, form)
                self.predicate(inner, embedded=True)
                return inner
        raise Unsuitable

    def also(self, c: Clause) -> None:
        """A second verb phrase, where nothing in the first could claim it."""
        if c.negation or c.infinitive or c.complement or c.purpose or c.verb.state:
            return
        if has_relative(c) or c.verb.impersonal or c.adverb or not self.chance("also"):
            return
        for _ in range(10):
            verb = self.plain_verbs.pick(self.rng)
            if verb is c.verb or not self.suits(c.subject, verb.subject) or verb.ambiguous_past:
                continue
            c.also = Clause(c.subject, verb, c.tense)
            self.flat = True
            self.predicate(c.also, embedded=True)
            self.flat = False
            return

    def adverb(self, c: Clause, embedded: bool) -> None:
        verb = c.verb
        heavy = embedded or has_relative(c) or c.infinitive is not None or c.purpose is not None
        if verb.adverbs and not heavy and c.subject.pronoun != "it" and self.chance("manner"):
            c.adverb = self.adverbs["manner"].pick(self.rng)
            return
        if (
            c.negation in ("", "not")
            and (verb.adverbs or verb.adjective)
            and self.chance("frequency")
        ):
            if c.tense in ("present", "past"):
                c.adverb = self.adverbs["frequency"].pick(self.rng)
                if c.negation and c.adverb.id == "sometimes":
                    c.adverb = None
            elif c.tense in ("perfect", "pluperfect") and not c.negation:
                c.adverb = self.adverbs["perfect"].pick(self.rng)

    def time(self, c: Clause, main: bool) -> None:
        if c.negation in ("never", "no_longer") or not self.chance("time"):
            return
        choice = self.times.get(c.tense)
        if not choice or (c.adverb is not None and c.adverb.kind != "manner"):
            return
        phrase = choice.pick(self.rng)
        if (c.negation and not phrase.negatable) or (phrase.lasting and not c.verb.adverbs):
            return
        verb = c.verb
        if verb.state and (
            phrase.habitual or not (verb.adjective or verb.impersonal or verb.place)
        ):
            return
        first = phrase.front and main and self.chance("time_first")
        if c.complement or c.infinitive or c.purpose or has_relative(c):
            if not (main and phrase.front):
                return
            first = True
        c.time, c.time_first = phrase, first

    def place(self, preposition: Preposition, c: Clause) -> PP:
        """A place or company; *with her* where one woman was mentioned."""
        nouns, slot = self.tables.places[preposition.id], c.verb.places
        if "person" in preposition.of:
            return PP(preposition, self.other(c, nouns, preposition.of, "place"))
        if slot:
            nouns = [noun for noun in nouns if admits(slot, noun)]
        elif not c.verb.where:
            nouns = [noun for noun in nouns if noun.leaf != "container"]
        if not nouns:
            raise Unsuitable
        role = "definite" if preposition.french == ("à",) else "place"  # not: à une gare
        key = f"{preposition.id} {c.verb.id if c.verb.where else ''}"
        return PP(preposition, self.noun_phrase(self.draw(key, nouns), role, c))

    def relative(self, np: NP, noun: Noun) -> Clause:
        """A clause about the noun: who sleeps, that she bought, where he lives."""
        tenses = {"past": 5, "present": 3, "future": 1, "perfect": 1}
        draw = self.rng.random()
        if draw < 0.5 or not self.verbs_on(noun):
            clause = self.clause(tenses, subject=np, embedded=True)
            clause.gap = "subject"
            return clause
        verb = self.verbs_on(noun).pick(self.rng)
        clause = Clause(self.subject(verb, None), verb, self.tense(verb, tenses))
        if clause.tense == "present" and verb.ambiguous_past:
            clause.tense = "past"
        clause.object, clause.gap = np, "object"
        clause.silent = bool(clause.subject.pronoun) and self.chance("silent")
        if verb.to:
            clause.dative = self.other(clause, self.tables.datives[verb.id], verb.to, "dative")
        return clause

    def verbs_on(self, noun: Noun) -> Choice[Verb]:
        """Verbs of which the noun may be the direct object, held-out pairs apart."""
        choice = self.tables.verbs_on.get(noun.id)
        if choice is None:
            choice = self.tables.verbs_on[noun.id] = Choice(
                (v, v.weight)
                for v in self.verbs.items
                if v.clitic == "object" and not v.where and not v.definite
                and noun in self.tables.objects[v.id][0].items
            )  # fmt: skip
        return choice
