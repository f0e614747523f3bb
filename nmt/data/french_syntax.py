"""Reads a tree as French: word order, agreement, clitics, negation, articles, elision."""

from __future__ import annotations

from collections.abc import Sequence

from nmt.data import french
from nmt.data.lexicon import Lexicon
from nmt.data.meaning import (
    NP,
    PP,
    Clause,
    Key,
    Link,
    Linked,
    Noun,
    Phrase,
    Sentence,
    Token,
    phrase_tokens,
    word_tokens,
)
from nmt.data.rules import FRENCH_GROUPS, MOODS, NEGATIONS, PAST_STATE, PAST_TENSES

SUBJECTS = ("je", "tu", "il", "nous", "vous", "ils")
CLITICS = {0: "me", 3: "nous", 4: "vous"}  # the same as direct and as indirect object
STRESSED = {0: "moi", 2: "lui", 3: "nous", 4: "vous", 5: "eux"}


#: Kinds of connective as tags, where the names differ.
KINDS = {"and": "coordination", "then": "coordination", "during": "time", "before": "time",
         "after": "time"}  # fmt: skip
#: Nouns that French never leaves without an article: la France, le football, le dîner.
DEFINITE = frozenset(["country_f", "country_m", "sport", "language", "meal"])
POSSESSIVES = frozenset(["my", "your", "his", "her", "its", "our", "their"])


def _index(gender: str, number: str) -> int:
    """Position in (ms, fs, mp, fp)."""
    return (gender == "f") + 2 * (number == "p")


def _function(form: str, *keys: Key) -> Token:
    """A function word, which may elide."""
    return Token(form, keys, french.ELISIONS.get(form, ""))


def _phrase(phrase: Phrase | Link, node: object) -> list[Token]:
    return [_function(t.form, *t.keys) for t in phrase_tokens(phrase, node, 1)]


class French:
    """Reads a tree as French; ``tags`` collects the phenomena met on the way."""

    def __init__(self, lexicon: Lexicon, tags: set[str]) -> None:
        self.auxiliaries = {"aller": lexicon.aller, "venir": lexicon.venir}
        self.tags = tags

    def sentence(self, sentence: Sentence) -> list[Token]:
        out: list[Token] = []
        if sentence.front is not None:
            out += self.linked(sentence.front)
            out.append(Token(",", ((sentence.front, "comma"),)))
        if sentence.question is not None:
            self.tags.add("question")
            out += _phrase(sentence.question, sentence)
            out += [_function("est-ce"), _function("que")]
        out += self.clause(sentence.main)
        for linked in sentence.linked:
            out += self.linked(linked)
        out.append(Token("?" if sentence.question is not None else ".", ((sentence, "end"),)))
        return self.sandhi(out)

    def linked(self, linked: Linked) -> list[Token]:
        self.tags.add(KINDS.get(linked.link.kind, linked.link.kind))
        comma = [Token(",", ((linked, "comma"),))] if linked.link.comma else []
        return comma + _phrase(linked.link, linked) + self.clause(linked.clause)

    def clause(self, c: Clause) -> list[Token]:
        out: list[Token] = []
        if c.time is not None and c.time_first:
            out = [*_phrase(c.time, c), Token(",", ((c, "comma"),))]
        out += self.subject(c)
        return out + self.verb_phrase(c, bool(c.negation))

    def subject(self, c: Clause) -> list[Token]:
        if c.gap == "subject":
            return []
        if c.verb.impersonal or c.verb.there:
            return [Token("il", ((c, "subject"),))]
        if c.subject.pronoun:
            form = SUBJECTS[c.subject.french_person]
            if form.startswith("il") and c.subject.gender == "f":
                form = form.replace("il", "elle")
            if c.subject.person == 3:
                self.tags.add("pronoun")
            return [_function(form, (c.subject, "head"))]
        return self.np(c.subject, generic=True)

    def pattern(self, c: Clause) -> tuple[str, ...]:
        """The French verb group: the tense, bent by aspect and by the connective's mood."""
        if c.mood:
            self.tags.add(c.mood.partition("_")[0])
            return MOODS[c.mood][c.tense in PAST_TENSES]
        habitual = c.time is not None and c.time.habitual
        if c.tense == "past" and (c.verb.state or habitual):
            return PAST_STATE
        return FRENCH_GROUPS[c.tense]

    def verb_phrase(self, c: Clause, negated: bool) -> list[Token]:
        pieces = self.pattern(c)
        person = c.subject.french_person
        if c.verb.impersonal or c.verb.there:
            person = 2
        self.tag_tense(c, pieces)
        group = [self.piece(c, piece, person, len(pieces) == 1) for piece in pieces]
        clitics = self.clitics(c, person)
        at = 0 if pieces[-1] != "V.infinitive" else len(group) - 1
        group[at:at] = clitics
        finite = 1 + (len(clitics) if at == 0 else 0)
        middle: list[Token] = []
        if c.negation:
            self.tags |= {"negation", f"negation:{c.negation}"}
            key = (c, "negation")
            middle.append(Token(NEGATIONS[c.negation][1], (key,)))
            group.insert(0, _function("ne", key))
            finite += 1
        if c.adverb is not None and c.adverb.kind != "manner":
            middle += word_tokens(c.adverb.french, (c, "adverb"))
        group[finite:finite] = middle
        tail = "tail" if c.verb.english_tail else "verb"
        group += word_tokens(c.verb.french_tail, (c, tail))
        return group + self.complements(c, negated)

    def tag_tense(self, c: Clause, pieces: Sequence[str]) -> None:
        if pieces[-1] == "V.participle":
            names = {"A.present": "passe_compose", "A.imperfect": "plus_que_parfait"}
            self.tags.add(names.get(pieces[0], "subjunctive"))
            self.tags.add("auxiliary:etre" if c.verb.uses_etre else "auxiliary:avoir")
        elif pieces[0] != "V.infinitive":
            self.tags.add(
                {"aller.present": "near_future", "venir.present": "recent_past"}.get(
                    pieces[0], pieces[0].removeprefix("V.")
                )
            )
        if c.verb.reflexive:
            self.tags.add("reflexive")

    def piece(self, c: Clause, piece: str, person: int, alone: bool) -> Token:
        """One word of a verb group pattern such as ``A.present V.participle``."""
        name, _, form = piece.partition(".")
        if not form:
            return _function(name, (c, "tense"))
        if name == "V":
            keys: tuple[Key, ...] = ((c, "verb"), (c, "tense")) if alone else ((c, "verb"),)
            if form == "participle":
                return Token(self.participle(c), keys, hard=c.verb.aspirated)
            verb = c.verb.french
        else:
            keys = ((c, "tense"),)
            verb = c.verb.auxiliary if name == "A" else self.auxiliaries[name]
        forms = getattr(verb, form)
        return Token(forms if isinstance(forms, str) else forms[person], keys)

    def participle(self, c: Clause) -> str:
        """With être it agrees with the subject, with avoir with an object that precedes it."""
        word = c.verb.french.participle
        if c.verb.uses_etre:
            return french.agree(word, c.subject.gender, c.subject.french_number)
        obj = c.object
        precedes = obj is not None and (
            c.gap == "object" or (bool(obj.pronoun) and c.verb.clitic == "object")
        )
        if obj is None or not precedes:
            return word
        self.tags.add("participle_agreement")
        return french.agree(word, obj.gender, obj.french_number)

    def clitics(self, c: Clause, person: int) -> list[Token]:
        """Object pronouns in their order: me se nous vous, le la les, lui leur, y."""
        found: list[tuple[int, Token]] = []
        if c.verb.reflexive:
            found.append((0, _function(french.REFLEXIVES[person], (c, "verb"))))
        for np, role in ((c.object, c.verb.clitic), (c.dative, "dative")):
            if np is None or not np.pronoun or (c.gap == "object" and np is c.object):
                continue
            self.tags |= {"pronoun", f"pronoun:{role}"}
            plural = np.french_number == "p"
            form = CLITICS.get(np.french_person)
            order = 0
            if form is None and role == "dative":
                order, form = 2, "leur" if plural else "lui"
            elif form is None:
                order, form = 1, "les" if plural else "la" if np.gender == "f" else "le"
            governed = np is c.object and c.verb.english_tail and c.verb.french_preposition
            keys: tuple[Key, ...] = ((np, "head"), (c, "tail")) if governed else ((np, "head"),)
            found.append((order, _function(form, *keys)))
        if c.verb.there:
            found.append((3, Token("y", ((c, "subject"),))))
        return [token for _, token in sorted(found, key=lambda pair: pair[0])]

    def complements(self, c: Clause, negated: bool) -> list[Token]:
        """Everything after the verb, in French order."""
        out: list[Token] = []
        if c.object is not None and c.gap != "object" and not c.object.pronoun:
            out += self.object(c, c.object, negated)
        if c.dative is not None and not c.dative.pronoun:
            out += [_function("à", (c, "dative")), *self.np(c.dative)]
        if c.adjective is not None:
            if c.degree is not None:
                out += word_tokens(c.degree.french, (c, "degree"))
            form = c.adjective.french[_index(c.subject.gender, c.subject.french_number)]
            out.append(Token(form, ((c, "adjective"),), hard=c.adjective.aspirated))
        if c.adverb is not None and c.adverb.kind == "manner":
            out += word_tokens(c.adverb.french, (c, "adverb"))
        for pp in c.places:
            out += self.pp(pp)
        if c.infinitive is not None:
            self.tags.add("infinitive")
            if c.verb.infinitive:
                out.append(_function(c.verb.infinitive, (c, "to")))
            out += self.verb_phrase(c.infinitive, negated)
        if c.complement is not None:
            self.tags.add("complement")
            link, inner = c.complement
            out += _phrase(link, inner) + self.clause(inner)
        if c.also is not None:
            self.tags.add("coordination")
            out.append(Token("et", ((c.also, "and"),)))
            out += self.verb_phrase(c.also, False)
        if c.time is not None and not c.time_first:
            out += _phrase(c.time, c)
        if c.purpose is not None:
            self.tags.add("purpose")
            link, inner = c.purpose
            out += _phrase(link, inner) + self.verb_phrase(inner, link.id == "without")
        return out

    def object(self, c: Clause, np: NP, negated: bool) -> list[Token]:
        preposition = c.verb.french_preposition
        tokens = self.np(
            np,
            negated=negated and not preposition and not c.verb.profession,
            generic=c.verb.generic,
            bare=c.verb.bare or c.verb.profession,
            after_de=preposition == "de",
            profession_of=c.subject if c.verb.profession else None,
        )
        if not preposition:
            return tokens
        tail = "tail" if c.verb.english_tail else "verb"
        return [_function(preposition, (c, tail)), *tokens]

    def pp(self, pp: PP) -> list[Token]:
        words = pp.preposition.french
        key = (pp, "preposition")
        out = [_function(word, key) for word in words]
        if pp.np.pronoun:
            form = STRESSED[pp.np.french_person]
            if pp.np.person == 3 and pp.np.gender == "f":
                form = "elles" if pp.np.french_number == "p" else "elle"
            return [*out, Token(form, ((pp.np, "head"),))]
        return out + self.np(pp.np, after_de=words[-1] == "de", bare=not pp.preposition.article)

    def np(
        self,
        np: NP,
        negated: bool = False,
        generic: bool = False,
        bare: bool = False,
        after_de: bool = False,
        profession_of: NP | None = None,
    ) -> list[Token]:
        if np.conjuncts:
            out: list[Token] = []
            for at, conjunct in enumerate(np.conjuncts):
                if at:
                    out.append(Token("et", ((np, f"and{at}"),)))
                out += self.np(conjunct)
            return out
        noun = np.noun
        assert noun is not None
        index = _index(noun.gender, np.french_number)
        before = [a for a in np.adjectives if a.before]
        after = [a for a in np.adjectives if not a.before]
        if before:
            self.tags.add("adjective:before")
        if after:
            self.tags.add("adjective:after")
        out = self.determiner(np, noun, index, negated, generic, bare, after_de, bool(before))
        for adjective in before:
            vowel = adjective.before_vowel if index == 0 else ""
            out.append(
                Token(adjective.french[index], ((np, adjective.id),), vowel, adjective.aspirated)
            )
        form = noun.french[index >= 2]
        if profession_of is not None:
            form = self.profession(noun, profession_of)
        for at, word in enumerate(form.replace("d'", "d' ").split()):
            out.append(Token(word, ((np, "head"),), hard=noun.aspirated and at == 0))
        for adjective in after:
            out.append(
                Token(adjective.french[index], ((np, adjective.id),), "", adjective.aspirated)
            )
        if np.owner is not None:
            self.tags.add("possessive")
            out += [_function("de", (np, "owner")), *self.np(np.owner)]
        if np.relative is not None:
            out += self.relative(np.relative)
        return out

    def profession(self, noun: Noun, person: NP) -> str:
        form = noun.feminine if person.gender == "f" and len(noun.feminine) > 1 else noun.french[0]
        return french.plural(form) if person.french_number == "p" else form

    def determiner(
        self, np: NP, noun: Noun, index: int, negated: bool, generic: bool, bare: bool,
        after_de: bool, adjective_first: bool,
    ) -> list[Token]:  # fmt: skip
        """Articles, partitives and what negation and prepositions make of them."""
        key = (np, "determiner")
        definite = Token(
            ("le", "la", "les", "les")[index], (key,), "l'" if index < 2 else "", article=True
        )
        determiner = np.determiner
        if np.owner is not None:
            return [definite._replace(keys=())]
        if noun.named or bare or determiner is None:
            return []
        if determiner.id == "the":
            return [definite]
        if determiner.id == "bare" and (generic or noun.leaf in DEFINITE):
            return [definite]
        if determiner.id in ("some", "bare", "a"):
            if negated:
                self.tags.add("de_after_negation")
                return [_function("de", key)]
            if determiner.id != "a":
                return self.partitive(index, key, definite, after_de, adjective_first)
        if determiner.id in POSSESSIVES:
            self.tags.add("possessive")
        return [
            Token(word, (key,), french.ELISIONS.get(word, ""), determiner.aspirated)
            for word in determiner.french[index].split()
        ]

    def partitive(
        self, index: int, key: Key, definite: Token, after_de: bool, adjective_first: bool
    ) -> list[Token]:
        if after_de:
            return []
        if index < 2:
            self.tags.add("partitive")
            return [_function("de", key), definite]
        return [_function("de" if adjective_first else "des", key)]

    def relative(self, c: Clause) -> list[Token]:
        word = {"subject": "qui", "object": "que", "place": "où"}[c.gap]
        self.tags |= {"relative", f"relative:{word}"}
        return [_function(word, (c, "relative")), *self.clause(c)]

    def sandhi(self, tokens: list[Token]) -> list[Token]:
        """Elide before vowel sounds, then melt de and à with le and les."""
        out: list[Token] = []
        following = Token(".")
        for token in reversed(tokens):
            if token.before_vowel and french.starts_with_vowel(following.form, following.hard):
                token = token._replace(form=token.before_vowel)
                self.tags.add("elision")
            elif token.form == "si" and following.form in ("il", "ils"):
                token = token._replace(form="s'")
            following = token
            melted = out and out[-1].article and french.CONTRACTIONS.get((token.form, out[-1].form))
            if melted:
                self.tags.add("contraction")
                token = Token(melted, token.keys + out.pop().keys)
            elif token.hard and token.form[0] == "h":
                self.tags.add("aspirated_h")
            out.append(token)
        out.reverse()
        return out
