"""Reads a tree as English: word order, agreement, do-support, contractions, a and an."""

from __future__ import annotations

from nmt.data import english
from nmt.data.lexicon import Lexicon
from nmt.data.meaning import (
    NP,
    Clause,
    Key,
    Linked,
    Noun,
    Sentence,
    Token,
    phrase_tokens,
    word_tokens,
)
from nmt.data.rules import ENGLISH_GROUPS, NEGATIONS

HAVE = english.inflect("have", "had")
BE = english.inflect("be", "was", "been", "being")
SHORT = {"am": "'m", "is": "'s", "are": "'re", "will": "'ll"}


class English:
    """Reads a tree as English; ``tags`` collects the ambiguous words."""

    def __init__(self, lexicon: Lexicon, tags: set[str]) -> None:
        self.ambiguous = lexicon.ambiguous
        self.tags = tags

    def note(self, word: str) -> None:
        if word in self.ambiguous:
            self.tags.add(f"ambiguous:{word}")

    def sentence(self, sentence: Sentence) -> list[Token]:
        out: list[Token] = []
        if sentence.front is not None:
            out += self.linked(sentence.front)
            out.append(Token(",", ((sentence.front, "comma"),)))
        if sentence.question is not None:
            out += phrase_tokens(sentence.question, sentence, 0)
        out += self.clause(sentence.main, question=sentence.question is not None)
        for linked in sentence.linked:
            out += self.linked(linked)
        out.append(Token("?" if sentence.question is not None else ".", ((sentence, "end"),)))
        return _articles(out)

    def linked(self, linked: Linked) -> list[Token]:
        comma = [Token(",", ((linked, "comma"),))] if linked.link.comma else []
        return comma + phrase_tokens(linked.link, linked, 0) + self.clause(linked.clause)

    def clause(self, c: Clause, question: bool = False) -> list[Token]:
        out: list[Token] = []
        if c.time is not None and c.time_first:
            out = [*phrase_tokens(c.time, c, 0), Token(",", ((c, "comma"),))]
        first, rest = self.verb_group(c, question)
        subject = self.subject(c)
        out += first + subject if question else subject + first
        return out + rest + self.complements(c, bool(c.negation))

    def subject(self, c: Clause) -> list[Token]:
        if c.gap == "subject":
            return []
        if c.verb.impersonal:
            return [Token("it", ((c, "subject"),))]
        if c.verb.there:
            return [Token("there", ((c, "subject"),))]
        return self.np(c.subject)

    def verb_group(self, c: Clause, question: bool = False) -> tuple[list[Token], list[Token]]:
        """The finite word with its *n't*, and what follows it: "did" + "not cross"."""
        person, number = c.subject.person, c.subject.english_number
        if c.verb.impersonal:
            person, number = 3, "s"
        elif c.verb.there and c.object is not None:
            person, number = 3, c.object.english_number
        verb, tense = (c, "verb"), (c, "tense")
        self.note(c.verb.name.removeprefix("be "))
        pieces = ENGLISH_GROUPS[c.tense]
        alone = len(pieces) == 1
        auxiliary = not alone or c.verb.modal or c.verb.english.base == "be"
        if alone and not auxiliary and (question or c.negation == "not"):
            do = "did" if c.tense == "past" else "does" if (person, number) == (3, "s") else "do"
            group = [Token(do, (tense,)), Token(c.verb.english.base, (verb,))]
            auxiliary = True
        else:
            group = [
                self.piece(c, piece, person, number, (verb, tense) if alone else None)
                for piece in pieces
            ]
        first, rest = group[0], group[1:]
        middle: list[Token] = []
        if c.adverb is not None and c.adverb.kind != "manner":
            middle = word_tokens(c.adverb.english, (c, "adverb"))
        if c.negation in ("never", "no_longer"):
            middle = word_tokens(NEGATIONS[c.negation][0].split(), (c, "negation")) + middle
        elif c.negation == "not":
            first, middle = self.negate(c, first, middle)
        elif c.contracted and auxiliary and not question and self.may_shorten(c, first.form):
            first = first._replace(form=SHORT[first.form])
        if not auxiliary:
            return [], [*middle, first, *rest, *self.tail(c)]
        head = [first]
        if middle and middle[0].form == "n't":
            head.append(middle.pop(0))
        return head, [*middle, *rest, *self.tail(c)]

    def may_shorten(self, c: Clause, form: str) -> bool:
        """I'm, it's, they'll: after a pronoun that stands right before."""
        expletive = c.verb.impersonal or c.verb.there
        return form in SHORT and bool(c.subject.pronoun) and c.gap == "" and not expletive

    def negate(self, c: Clause, first: Token, middle: list[Token]) -> tuple[Token, list[Token]]:
        key = (c, "negation")
        if c.contracted and first.form != "am":
            short = {"will": "wo", "can": "ca"}.get(first.form, first.form)
            return first._replace(form=short), [Token("n't", (key,)), *middle]
        if first.form == "can":
            return Token("cannot", (*first.keys, key)), middle
        return first, [Token("not", (key,)), *middle]

    def piece(
        self, c: Clause, piece: str, person: int, number: str, both: tuple[Key, ...] | None
    ) -> Token:
        """One word of a verb group pattern such as ``be.present V.gerund``."""
        name, _, form = piece.partition(".")
        if not form:
            return Token(name, ((c, "tense"),))
        verb = {"V": c.verb.english, "be": BE, "have": HAVE}[name]
        if form == "present":
            word = verb.present(person, number)
        elif form == "past":
            word = verb.simple_past(person, number)
        else:
            word = getattr(verb, form)
        return Token(word, both or ((c, "verb" if name == "V" else "tense"),))

    def tail(self, c: Clause) -> list[Token]:
        """The particle of *turn off*, which follows a pronoun object but no other."""
        if c.verb.particle and c.object is not None and c.object.pronoun:
            return []
        return self.particle(c)

    def particle(self, c: Clause) -> list[Token]:
        other = c.verb.french_tail or c.verb.french_preposition
        return word_tokens(c.verb.english_tail, (c, "tail" if other else "verb"))

    def complements(self, c: Clause, negated: bool) -> list[Token]:
        """Everything after the verb, in English order."""
        out: list[Token] = []
        obj = c.object if c.gap != "object" else None
        if c.dative is not None and obj is not None and self.shifts(c, obj):
            out += self.np(c.dative, "object") + self.np(obj, "object", negated)
        else:
            if obj is not None:
                out += self.np(obj, "object", negated)
                if c.verb.particle and obj.pronoun:
                    out += self.particle(c)
            if c.dative is not None:
                out.append(Token("to", ((c, "dative"),)))
                out += self.np(c.dative, "object")
        if c.adjective is not None:
            if c.degree is not None:
                out += word_tokens(c.degree.english, (c, "degree"))
            self.note(c.adjective.english)
            out.append(Token(c.adjective.english, ((c, "adjective"),)))
        if c.adverb is not None and c.adverb.kind == "manner":
            out += word_tokens(c.adverb.english, (c, "adverb"))
        for pp in c.places:
            out += word_tokens(pp.preposition.english, (pp, "preposition")) + self.np(
                pp.np, "object"
            )
        if c.infinitive is not None:
            if not c.verb.modal:
                out.append(Token("to", ((c, "to"),)))
            out += self.infinitive(c.infinitive, negated)
        if c.complement is not None:
            link, inner = c.complement
            out += phrase_tokens(link, inner, 0) + self.clause(inner)
        if c.also is not None:
            out.append(Token("and", ((c.also, "and"),)))
            out += self.also(c.also)
        if c.time is not None and not c.time_first:
            out += phrase_tokens(c.time, c, 0)
        if c.purpose is not None:
            link, inner = c.purpose
            out += phrase_tokens(link, inner, 0) + self.infinitive(inner, link.id == "without")
        return out

    def shifts(self, c: Clause, obj: NP) -> bool:
        """Whether the receiver comes first: gave her the book, but gave it to her."""
        if c.verb.shift == "never" or obj.pronoun or c.dative is None:
            return False
        return bool(c.dative.pronoun) or c.verb.shift == "always"

    def infinitive(self, c: Clause, negated: bool) -> list[Token]:
        first, rest = self.verb_group(c)
        return first + rest + self.complements(c, negated)

    def also(self, c: Clause) -> list[Token]:
        """A second verb phrase; it shares *will*, so that only the bare verb is left."""
        first, rest = self.verb_group(c)
        tokens = first + rest if c.tense != "future" else rest
        return tokens + self.complements(c, False)

    def np(self, np: NP, case: str = "subject", negated: bool = False) -> list[Token]:
        if np.conjuncts:
            out: list[Token] = []
            for at, conjunct in enumerate(np.conjuncts):
                if at:
                    out.append(Token("and", ((np, f"and{at}"),)))
                out += self.np(conjunct, case)
            return out
        if np.pronoun:
            return [Token(english.PRONOUNS[np.pronoun][case != "subject"], ((np, "head"),))]
        noun = np.noun
        assert noun is not None
        plural = np.english_number == "p"
        self.note(noun.english[0])
        out = self.determiner(np, noun, plural, negated)
        for adjective in np.adjectives:
            self.note(adjective.english)
            out.append(
                Token(
                    adjective.english,
                    ((np, adjective.id),),
                    hard=_an(adjective.english, adjective.an),
                )
            )
        for form in noun.english[plural].split():
            out.append(Token(form, ((np, "head"),), hard=_an(form, noun.an)))
        if np.relative is not None:
            out += self.relative(np, np.relative)
        return out

    def determiner(self, np: NP, noun: Noun, plural: bool, negated: bool) -> list[Token]:
        if np.owner is not None:
            return [*self.np(np.owner), Token("'s", ((np, "owner"),))]
        determiner = np.determiner
        if noun.named or determiner is None:
            return []
        form = determiner.english[plural]
        if determiner.id == "some" and negated:
            form = "any"
        key = (np, "determiner")
        return [Token(word, (key,), "an" if word == "a" else "") for word in form.split()]

    def relative(self, np: NP, c: Clause) -> list[Token]:
        word = "that"
        if c.gap == "place":
            word = "where"
        elif c.gap == "subject" and np.noun is not None and np.noun.pronoun != "it":
            word = "who"
        linker = [] if c.silent else [Token(word, ((c, "relative"),))]
        return linker + self.clause(c)


def _an(form: str, an: bool | None) -> bool:
    """Whether *a / an* goes against the first letter."""
    return an is not None and an != english.starts_with_vowel(form)


def _articles(tokens: list[Token]) -> list[Token]:
    """a before a consonant sound, an before a vowel sound."""
    for at, token in enumerate(tokens[:-1]):
        following = tokens[at + 1]
        if token.before_vowel and english.starts_with_vowel(following.form) != following.hard:
            tokens[at] = token._replace(form=token.before_vowel)
    return tokens
