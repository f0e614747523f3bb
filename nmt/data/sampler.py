"""Draws trees at random: which verb, which nouns, which tense, and what may follow what.

Three principles keep French a function of English. A noun or verb with two translations is only
put where its company admits one of them (:class:`Tables`). A pronoun is only used where exactly
one phrase said before fits both it and its predicate. And every rule that bends the French of a
clause (aspect, mood, *de* after a negation) looks at what the English shows.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from random import Random
from typing import Generic, TypeVar
from zlib import crc32

from nmt.data.lexicon import Adjective, Lexicon, Link, Noun, Preposition, Verb, rank_weight
from nmt.data.meaning import NP, PP, Clause, Linked, Sentence

T = TypeVar("T")
Slot = frozenset[str]

#: How often each production is taken. Adjust here; what may be produced does not change.
CHANCE = {
    "plural": 0.25, "adjective": 0.28, "second_adjective": 0.1, "relative": 0.12, "owner": 0.06,
    "joined": 0.05, "name": 0.25, "exophoric": 0.3, "anaphor": 0.65, "object_pronoun": 0.45,
    "speaker_object": 0.05, "negation": 0.2, "contracted": 0.35, "time": 0.2, "time_first": 0.4,
    "place": 0.16, "manner": 0.06, "frequency": 0.1, "degree": 0.5, "purpose": 0.05,
    "also": 0.08, "question": 0.08, "front": 0.2, "silent": 0.4, "unseen": 0.5,
}  # fmt: skip

#: Kinds of clause and their weights.
SHAPES = {"verb": 66, "adjective": 22, "there": 5, "weather": 3, "profession": 4}

#: Determiners by what the noun is and where it stands.
DETERMINERS = {
    "singular": {"the": 55, "a": 22, "this": 6, "that": 3, "own": 14, "every": 1},
    "singular subject": {"the": 74, "a": 6, "this": 6, "that": 3, "my": 5, "our": 3, "your": 3},
    "plural": {"the": 46, "some": 12, "bare": 10, "two": 5, "three": 3, "four": 2, "five": 1,
               "eight": 1, "ten": 1, "many": 4, "several": 3, "these": 0, "this": 4, "that": 2,
               "all": 3, "own": 8},
    "plural subject": {"the": 66, "two": 6, "three": 4, "four": 1, "five": 1, "eight": 1,
                       "many": 5, "several": 3, "this": 6, "that": 2, "all": 4, "my": 4, "our": 2},
    "mass": {"the": 40, "some": 28, "bare": 20, "this": 4, "own": 8},
    "mass subject": {"the": 76, "this": 14, "my": 6, "your": 4},
    "family": {"own": 70, "the": 15, "a": 5, "my": 10},
    "family subject": {"my": 45, "your": 15, "our": 15, "the": 25},
    "there": {"a": 10, "some": 5, "two": 3, "three": 2, "many": 3, "several": 2, "five": 1},
    "count": {"two": 6, "three": 4, "four": 2, "five": 2, "ten": 1, "eight": 1, "several": 1},
}  # fmt: skip

#: Tenses of a main clause, and of a clause after each kind of connective, by time frame.
TENSES = {
    "past": {"past": 70, "past_progressive": 9, "used_to": 7, "pluperfect": 3},
    "present": {"present": 36, "progressive": 16, "perfect": 16, "future": 16, "going_to": 10,
                "just": 6},
}  # fmt: skip
CHAINS: dict[str, dict[str, dict[str, int]]] = {
    "and": TENSES,
    "then": {"past": {"past": 1}, "present": {"future": 1, "going_to": 1}},
    "cause": {
        "past": {"past": 70, "past_progressive": 8, "pluperfect": 12},
        "present": {"present": 50, "progressive": 10, "perfect": 15, "going_to": 8, "just": 8},
    },
    "time": {"past": {"past": 1}, "present": {"present": 1}},
    "during": {"past": {"past_progressive": 1}, "present": {"progressive": 1}},
    "condition": {"present": {"present": 5, "perfect": 1}},
    "concession": {
        "past": {"past": 70, "pluperfect": 20},
        "present": {"present": 60, "perfect": 25},
    },
    "before": {"past": {"past": 1}, "present": {"present": 1}},
    "after": {"past": {"past": 1}},
}
#: Tenses the governing clause must have for some connectives.
GOVERNED_BY = {
    "time": {"past", "present", "future", "going_to", "past_progressive"},
    "condition": {"present", "future", "going_to"},
    "before": {"past", "present", "future", "going_to"},
    "after": {"past"},
    "during": {"past", "past_progressive", "present", "progressive"},
    "then": {"past", "future", "going_to"},
}
REPORTED = {
    "past": {"past": 5, "past_progressive": 2, "pluperfect": 3, "would": 3},
    "present": {"present": 5, "progressive": 2, "past": 2, "perfect": 2, "future": 3,
                "going_to": 1},
}  # fmt: skip
PAST_FRAME = frozenset(TENSES["past"])
NEVER = frozenset(["present", "past", "perfect", "future"])
NO_LONGER = frozenset(["present", "progressive", "future"])
DYNAMIC_ONLY = frozenset(
    ["progressive", "past_progressive", "perfect", "pluperfect", "just", "used_to"]
)
#: Classes of which one may say *the man's ...*
OWNED = frozenset(["beast", "garment", "jewel", "container", "object", "text", "instrument",
                   "vehicle", "furniture", "room", "garden", "idea", "art"])  # fmt: skip
#: Nouns that English leaves without an article.
ARTICLELESS = frozenset(["sport", "language", "meal", "country_f", "country_m", "city"])
SPEAKERS = ("I", "you", "we")
OWN = {"I": "my", "you": "your", "we": "our", "he": "his", "she": "her", "it": "its",
       "they": "their"}  # fmt: skip
NO_NEGATION = frozenset(["think", "believe", "hope"])  # the French clause would be subjunctive


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
                self._widen(_name(verb), role, getattr(verb, role))
        for adjective in lexicon.adjectives.values():
            self._widen(f"be {adjective.english}", "subject", adjective.of)
        for preposition in lexicon.prepositions.values():
            self._widen(" ".join(preposition.english), "place", preposition.of)
        self.objects = {
            verb.id: self.split(self.fillers(verb.object, self.wide[_name(verb), "object"]), verb)
            for verb in lexicon.verbs.values()
        }
        self.subjects = {
            verb.id: self.fillers(verb.subject, self.wide[_name(verb), "subject"])
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


def _name(verb: Verb) -> str:
    return " ".join((verb.english.base, *verb.english_tail))


def _frequent(noun: Noun) -> bool:
    return noun.weight >= rank_weight(9)


def admits(slot: Slot, noun: Noun) -> bool:
    return noun.leaf in slot or noun.id in slot


def mood(link: Link, governing: str) -> str:
    """The mood after a connective; *when he arrives* is a future if the main clause is one."""
    if link.mood == "future" and governing not in ("future", "going_to"):
        return ""
    return link.mood


def has_relative(c: Clause) -> bool:
    """Whether a relative clause follows the verb and could claim what comes after it."""
    after = [c.object, c.dative, *(pp.np for pp in c.places)]
    return any(np is not None and np.relative is not None for np in after if np is not c.subject)


class Unsuitable(Exception):
    """A draw that led nowhere; the sentence is drawn again."""


class Sampler:
    """Draws one tree after the other from a stream of random numbers."""

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
        self.chosen: dict[str, Choice[Noun]] = {}
        self.on: dict[str, Choice[Verb]] = {}
        self.shapes = Choice(SHAPES.items())
        self.determiners = {
            name: Choice((d, w) for d, w in weights.items() if d != "these")
            for name, weights in DETERMINERS.items()
        }
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
        self.questions = Choice((q, 1 if q.english else 12) for q in lexicon.questions.values())
        self.people = Choice(
            (n, n.weight) for n in lexicon.nouns.values() if n.pronoun in ("he", "she")
        )

    def chance(self, name: str) -> bool:
        return self.rng.random() < CHANCE[name]

    def weighted(self, weights: dict[str, int]) -> str:
        return self.rng.choices(list(weights), list(weights.values()))[0]

    # Sentences

    def start(self) -> None:
        """Forget the sentence before."""
        self.said.clear()
        self.used.clear()
        self.flat = False
        self.novel = 0

    def sentence(self, clauses: int) -> Sentence:
        """A sentence of so many clauses, embedded ones not counted."""
        self.start()
        frame = "past" if self.rng.random() < 0.5 else "present"
        tense = self.weighted(TENSES[frame])
        question = clauses <= 2 and tense != "used_to" and self.chance("question")
        front = None
        if clauses > 1 and not question and self.chance("front"):
            front = self.link(frame, tense, front=True)
            clauses -= 1
        main = self.clause({tense: 1}, main=front is None and not question, question=question)
        sentence = Sentence(main, front=front)
        if question:
            sentence.question = self.questions.pick(self.rng)
            if sentence.question.id == "where" and sentence.main.places:
                raise Unsuitable
            if sentence.question.id == "when" and sentence.main.time is not None:
                raise Unsuitable
        governing = sentence.main
        for _ in range(clauses - 1):
            linked = self.link(frame, governing.tense)
            sentence.linked.append(linked)
            governing = linked.clause
        return sentence

    def link(self, frame: str, governing: str, front: bool = False) -> Linked:
        """A connective and its clause; the connective must suit the tense it hangs on."""
        for _ in range(20):
            link = self.links.pick(self.rng)
            tenses = CHAINS[link.kind].get(frame)
            needed = GOVERNED_BY.get(link.kind)
            if tenses is None or needed is not None and governing not in needed:
                continue
            if front and link.kind in ("and", "then"):
                continue
            plain = link.kind in ("before", "after")
            clause = self.clause(tenses, plain=plain)
            clause.mood = mood(link, governing)
            return Linked(link, clause)
        raise Unsuitable

    # Clauses

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
        if shape == "weather":
            c = Clause(NP(pronoun="it"), verb, tense)
        elif shape == "there":
            c = Clause(NP(pronoun="it"), verb, tense)
            c.object = self.noun_phrase(self.tables.objects[verb.id][0], "there", c)
        elif subject is not None:
            c = Clause(subject, verb, tense)
        else:
            c = Clause(self.subject(verb, adjective), verb, tense)
        third = (c.subject.person, c.subject.english_number) == (3, "s")
        if tense == "present" and verb.ambiguous_past and not third:
            raise Unsuitable
        c.adjective = adjective
        if adjective is not None and self.chance("degree"):
            c.degree = self.adverbs["degree"].pick(self.rng)
        if not plain and verb.id not in NO_NEGATION and self.chance("negation"):
            self.negate(c)
        if c.degree is not None and c.degree.id == "almost" and c.negation:
            c.degree = None
        c.contracted = self.chance("contracted")
        self.predicate(c, embedded)
        self.adverb(c)
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
        }
        if not suited:
            raise Unsuitable
        return self.weighted(suited)

    def negate(self, c: Clause) -> None:
        draw = self.rng.random()
        if draw < 0.12 and c.tense in NEVER:
            c.negation = "never"
        elif draw < 0.26 and (c.tense in NO_LONGER or c.tense == "past" and c.verb.state):
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
        elif not embedded and not verb.state and self.chance("purpose"):
            if verb.subject <= self.human() and c.object is None:
                link = self.lexicon.links["in order to" if self.rng.random() < 0.5 else "to"]
                c.purpose = (link, self.infinitive(c))

    def human(self) -> Slot:
        return frozenset(["man_name", "woman_name", "person", "family", "profession"])

    def infinitive(self, c: Clause) -> Clause:
        """A verb phrase without a subject of its own: to cross the street."""
        for _ in range(20):
            verb = self.plain_verbs.pick(self.rng)
            if verb is not c.verb and self.suits(c.subject, verb.subject):
                inner = Clause(c.subject, verb, "infinitive")
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

    def adverb(self, c: Clause) -> None:
        verb = c.verb
        if verb.adverbs and c.subject.pronoun != "it" and self.chance("manner"):
            if not has_relative(c) and c.infinitive is None and c.purpose is None:
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
        if not choice or c.adverb is not None and c.adverb.kind != "manner":
            return
        phrase = choice.pick(self.rng)
        if c.negation and not phrase.negatable:
            return
        if c.mood or c.verb.state and c.tense == "past" and phrase.habitual:
            return
        first = phrase.front and main and self.chance("time_first")
        if c.complement or c.infinitive or c.purpose or has_relative(c):
            if not (main and phrase.front):
                return
            first = True
        c.time, c.time_first = phrase, first

    def place(self, preposition: Preposition, c: Clause) -> PP:
        """A place or company; *with her* where one woman was mentioned."""
        nouns = self.tables.places[preposition.id]
        if "person" in preposition.of:
            return PP(preposition, self.other(c, nouns, preposition.of, "place"))
        if not nouns:
            raise Unsuitable
        return PP(preposition, self.noun_phrase(self.draw(preposition.id, nouns), "place", c))

    def draw(self, name: str, nouns: Sequence[Noun]) -> Choice[Noun]:
        choice = self.chosen.get(name)
        if choice is None:
            choice = self.chosen[name] = Choice((noun, noun.weight) for noun in nouns)
        return choice

    # Noun phrases

    def subject(self, verb: Verb, adjective: Adjective | None) -> NP:
        """Speakers, pronouns, names or nouns that the predicate admits."""
        slot, wide = verb.subject, self.tables.wide[_name(verb), "subject"]
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
        if verb.clitic != "none" and not verb.definite and not verb.profession:
            wide = self.tables.wide[_name(verb), "object"]
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
        if np.determiner is not None and np.determiner.id not in ("every",):
            if noun.leaf not in ARTICLELESS:
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
            name = self.there(noun, np)
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
        if name == "own":
            name = self.possessive(np, c)
        np.determiner = self.lexicon.determiners[name]

    def there(self, noun: Noun, np: NP) -> str:
        if noun.mass:
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

    def relative(self, np: NP, noun: Noun) -> Clause | None:
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
        key = f"on {noun.id}"
        choice = self.on.get(key)
        if choice is None:
            choice = self.on[key] = Choice(
                (v, v.weight)
                for v in self.verbs.items
                if v.clitic == "object" and not v.where and not v.definite
                and noun in self.tables.objects[v.id][0].items
            )  # fmt: skip
        return choice
