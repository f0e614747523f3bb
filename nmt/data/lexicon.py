"""The lexicon of the embedded corpus: reads ``lexicon_en_fr.yaml`` and checks every entry.

The format is described in ``data/README.md``. Everything here is immutable once loaded; the
order of entries within a class is their rank of frequency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nmt.data import english, french
from nmt.data.meaning import (
    Adjective,
    Adverb,
    Determiner,
    Link,
    Noun,
    Phrase,
    Preposition,
    Verb,
)  # fmt: skip
from nmt.errors import UserError

#: French prepositions that may end a verb, as in ``penser à``; they govern its object.
PREPOSITIONS = ("à", "de", "dans", "sur")

#: Entry fields by section: what may be written, so that a typo is an error.
FIELDS = {
    "nouns": "en fr pl fr_pl number fr_number mass an aspirated feminine pronoun",
    "adjectives": "en fr feminine fr_pl fr_fp vowel of before an aspirated predicate "
    "attributive absolute maybe",
    "verbs": "en fr subject object to where place adverbs that whether infinitive adjective "
    "profession state generic past pp ing impersonal modal particle clitic tenses weight "
    "there aspirated definite bare progressive places shift",
    "adverbs": "en fr kind an",
    "prepositions": "en fr of article adjunct",
    "times": "en fr tenses links habitual negatable lasting front",
    "links": "en fr kind mood comma links form",
    "determiners": "en fr aspirated",
    "questions": "en fr",
}


@dataclass(frozen=True, slots=True)
class Lexicon:
    nouns: Mapping[str, Noun]
    adjectives: Mapping[str, Adjective]
    verbs: Mapping[str, Verb]
    adverbs: Mapping[str, Adverb]
    prepositions: Mapping[str, Preposition]
    times: Mapping[str, Phrase]
    questions: Mapping[str, Phrase]
    links: Mapping[str, Link]
    determiners: Mapping[str, Determiner]
    avoir: french.Conjugation
    etre: french.Conjugation
    aller: french.Conjugation
    venir: french.Conjugation
    ambiguous: frozenset[str] = frozenset()  # English lemmas with several French ones

    def is_ambiguous(self, english_words: str) -> bool:
        return english_words in self.ambiguous


def rank_weight(rank: int) -> float:
    """Zipf's law, flattened at the head as Mandelbrot did, so that no class has one king."""
    return float(1 / (rank + 3) ** 1.1)


@dataclass(slots=True)
class _Reader:
    path: Path
    raw: dict[str, Any] = field(default_factory=dict)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    classes: dict[str, frozenset[str]] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)

    def fail(self, where: tuple[str, ...], what: str) -> UserError:
        line = self.lines.get(where) or self.lines.get(where[:-1]) or 1
        return UserError(f"{self.path}:{line}: {' > '.join(where)}: {what}")

    def load(self) -> None:
        """Parse the YAML, remembering the line of every key."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot read the lexicon {self.path}: {error.strerror}") from error
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            root = yaml.compose(text, Loader=loader)
            raw = yaml.load(text, Loader=loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            problem = getattr(error, "problem", None) or "not YAML"
            raise UserError(f"{self.path}:{line}: {problem}; mend the YAML") from error
        if not isinstance(raw, dict):
            raise UserError(f"{self.path}:1: expected sections such as `nouns:`, `verbs:`")
        self.raw = raw
        assert root is not None
        self._note(root, ())

    def _note(self, node: yaml.Node, where: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                here = (*where, str(key.value))
                if key.value in seen:
                    raise UserError(
                        f"{self.path}:{key.start_mark.line + 1}: "
                        f"{' > '.join(here)} is there twice; remove one"
                    )
                seen.add(key.value)
                self.lines[here] = key.start_mark.line + 1
                if len(here) < 3:
                    self._note(value, here)

    def section(self, name: str) -> dict[str, Any]:
        section = self.raw.get(name)
        if not isinstance(section, dict) or not section:
            raise UserError(f"{self.path}:1: the section `{name}:` is missing or empty")
        return section

    def entry(self, where: tuple[str, ...], value: object) -> dict[str, Any]:
        """An entry as a mapping with known fields; ``word: mot m`` is short for ``{fr: mot m}``."""
        if isinstance(value, str):
            value = {"fr": value}
        if not isinstance(value, dict) or not isinstance(value.get("fr"), str | list):
            raise self.fail(where, "expected French, as in `house: maison f`")
        known = FIELDS[where[0]].split()
        for name in value:
            if name not in known:
                raise self.fail(where, f"unknown field {name!r}; known are {', '.join(known)}")
        return value

    def leaves(self, where: tuple[str, ...], names: object) -> frozenset[str]:
        """The leaf classes (and single nouns) of a slot such as ``human animal key/lock``."""
        result: set[str] = set()
        for name in str(names or "").split():
            if name not in self.classes and name not in self.ids:
                raise self.fail(where, f"{name!r} is neither a class nor a noun")
            result |= self.classes.get(name, {name})
        return frozenset(result)

    def read_classes(self) -> None:
        leaves = list(self.section("nouns"))
        for entries in self.section("nouns").values():
            self.ids |= set(entries)
        self.classes = {leaf: frozenset([leaf]) for leaf in leaves}
        for name, members in self.section("classes").items():
            self.classes[name] = self.leaves(("classes", name), members)
        for leaf, entries in self.section("nouns").items():
            for noun in entries:
                if leaf not in self.classes.get(noun, {leaf}):
                    raise self.fail(
                        ("nouns", leaf, noun), "is also a class it is not in; rename it"
                    )

    def nouns(self) -> Iterable[Noun]:
        for leaf, entries in self.section("nouns").items():
            if not isinstance(entries, dict):
                raise self.fail(("nouns", leaf), "expected words, as in `house: maison f`")
            for rank, (name, value) in enumerate(entries.items()):
                where = ("nouns", leaf, str(name))
                yield self.noun(where, leaf, rank, self.entry(where, value))

    def noun(self, where: tuple[str, ...], leaf: str, rank: int, entry: dict[str, Any]) -> Noun:
        name = where[-1]
        word, _, gender = entry["fr"].rpartition(" ")
        if gender not in ("m", "f") or not word:
            raise self.fail(where, f"{entry['fr']!r} lacks its gender: write `mot m` or `mot f`")
        en = entry.get("en", name.partition("/")[0])
        number = entry.get("number", "")
        if number not in ("", "singular", "plural"):
            raise self.fail(where, f"number is singular or plural, not {number!r}")
        only = number[:1] or ("s" if entry.get("mass") else "")
        plural_only = only == "p"
        human = self.classes.get("human", frozenset())
        pronoun = {"m": "he", "f": "she"}[gender] if leaf in human else "it"
        fr_pl = entry.get("fr_pl") or (word if plural_only else french.plural(word))
        return Noun(
            id=name,
            leaf=leaf,
            english=(en, en if plural_only else entry.get("pl") or english.plural(en)),
            french=(word, fr_pl),
            gender=gender,
            weight=rank_weight(rank),
            numbers=only or "sp",
            french_number=entry.get("fr_number", "")[:1],
            mass=bool(entry.get("mass")),
            an=entry.get("an"),
            aspirated=bool(entry.get("aspirated")),
            feminine=entry.get("feminine", ""),
            pronoun=entry.get("pronoun", pronoun),
        )

    def adjective(self, rank: int, name: str, value: object) -> Adjective:
        where = ("adjectives", name)
        entry = self.entry(where, value)
        word = entry["fr"]
        fs = entry.get("feminine") or french.feminine(word)
        mp = entry.get("fr_pl") or french.plural(word)
        of = self.leaves(where, entry.get("of"))
        if not of:
            raise self.fail(where, "`of` must name the classes it is said of")
        return Adjective(
            id=name,
            english=entry.get("en", name.partition("/")[0]),
            french=(word, fs, mp, entry.get("fr_fp") or french.plural(fs)),
            of=of,
            maybe=self.leaves(where, entry.get("maybe")),
            weight=rank_weight(rank),
            before=bool(entry.get("before")),
            before_vowel=entry.get("vowel", ""),
            an=entry.get("an"),
            aspirated=bool(entry.get("aspirated")),
            attributive=entry.get("attributive", True),
            predicate=entry.get("predicate", True),
            absolute=bool(entry.get("absolute")),
        )

    def verb(self, rank: int, name: str, value: object, irregular: dict[str, Any]) -> Verb:
        where = ("verbs", name)
        entry = self.entry(where, value)
        base, *tail = entry.get("en", name.partition("/")[0]).split()
        if base == "be":
            forms = english.inflect("be", "was", "been", "being")
        else:
            forms = english.inflect(
                base, entry.get("past", ""), entry.get("pp", ""), entry.get("ing", "")
            )
        if entry.get("modal"):
            forms = english.EnglishVerb(base, base, forms.past, base, base)
        words = entry["fr"].replace("s'", "se ", 1).split()
        reflexive = words[0] == "se"
        words = words[reflexive:]
        objects = self.leaves(where, entry.get("object"))
        preposition = words.pop() if objects and words[-1] in PREPOSITIONS else ""
        try:
            conjugation = french.conjugate(words[0], irregular)
            etre = reflexive or words[0] in irregular["être"].get("auxiliary_of", "").split()
            auxiliary = french.conjugate("être" if etre else "avoir", irregular)
        except (ValueError, KeyError, IndexError) as error:
            raise self.fail(where, f"{error}") from error
        infinitive = entry.get("infinitive")
        clitic = entry.get("clitic", {"": "object"}.get(preposition, "none"))
        return Verb(
            id=name, name=" ".join((base, *tail)), english=forms,
            english_tail=tuple(tail), french=conjugation,
            french_tail=tuple(words[1:]), french_preposition=preposition, auxiliary=auxiliary,
            uses_etre=etre, reflexive=reflexive,
            subject=self.leaves(where, entry.get("subject", "human")),
            weight=rank_weight(rank) * entry.get("weight", 1), object=objects,
            to=self.leaves(where, entry.get("to")), where=frozenset(entry.get("where", "").split()),
            place=entry.get("place", True), adverbs=entry.get("adverbs", True),
            that="that" if entry.get("that") else "whether" if entry.get("whether") else "",
            infinitive=None if infinitive is None else infinitive.removeprefix("-"),
            adjective=bool(entry.get("adjective")), profession=bool(entry.get("profession")),
            progressive=entry.get("progressive", True), bare=bool(entry.get("bare")),
            definite=bool(entry.get("definite")),
            places=self.leaves(where, entry.get("places")),
            state=bool(entry.get("state")), generic=bool(entry.get("generic")),
            impersonal=bool(entry.get("impersonal")), there=bool(entry.get("there")),
            modal=bool(entry.get("modal")), particle=bool(entry.get("particle")), clitic=clitic,
            shift=entry.get("shift", "pronoun"),
            tenses=frozenset(entry.get("tenses", "").split()),
            aspirated=bool(entry.get("aspirated")),
        )  # fmt: skip

    def phrase_words(
        self, where: tuple[str, ...], entry: dict[str, Any]
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[int, int], ...]]:
        name = where[-1]
        source = tuple(entry.get("en", name.partition("/")[0]).split())
        target = tuple(
            entry["fr"].replace("'", "' ").replace("aujourd' hui", "aujourd'hui").split()
        )
        try:
            links = tuple(
                (int(pair.partition("-")[0]), int(pair.partition("-")[2]))
                for pair in entry.get("links", "").split()
            )
        except ValueError as error:
            raise self.fail(where, "links are pairs of positions such as `0-1 1-0`") from error
        if any(i >= len(source) or j >= len(target) for i, j in links):
            raise self.fail(where, f"a link points beyond {source} or {target}")
        return (
            source,
            target,
            links or tuple((i, j) for i in range(len(source)) for j in range(len(target))),
        )

    def phrase(self, section: str, rank: int, name: str, value: object) -> Phrase:
        where = (section, name)
        entry = self.entry(where, value)
        source, target, links = self.phrase_words(where, entry)
        return Phrase(
            name, source, target, links, rank_weight(rank),
            tenses=frozenset(entry.get("tenses", "").split()),
            habitual=bool(entry.get("habitual")),
            negatable=entry.get("negatable", True),
            lasting=bool(entry.get("lasting")),
            front=entry.get("front", True),
        )  # fmt: skip

    def link(self, rank: int, name: str, value: object) -> Link:
        where = ("links", name)
        entry = self.entry(where, value)
        source, target, links = self.phrase_words(where, entry)
        return Link(
            name, source, target, links, entry.get("kind", ""), rank_weight(rank),
            mood=entry.get("mood", ""), comma=bool(entry.get("comma")),
            form=entry.get("form", "infinitive"),
        )  # fmt: skip

    def adverb(self, rank: int, name: str, value: object) -> Adverb:
        entry = self.entry(("adverbs", name), value)
        source = tuple(entry.get("en", name.partition("/")[0]).split())
        return Adverb(name, source, tuple(entry["fr"].split()), entry["kind"], rank_weight(rank))

    def preposition(self, rank: int, name: str, value: object) -> Preposition:
        where = ("prepositions", name)
        entry = self.entry(where, value)
        source = tuple(entry.get("en", name.partition("/")[0]).split())
        return Preposition(
            name, source, tuple(entry["fr"].split()), self.leaves(where, entry.get("of")),
            rank_weight(rank), article=entry.get("article", True),
            adjunct=entry.get("adjunct", True),
        )  # fmt: skip

    def determiner(self, name: str, value: object) -> Determiner:
        where = ("determiners", name)
        entry = self.entry(where, value)
        singular, *plural = entry["en"]
        fr = entry["fr"]
        if not isinstance(fr, list) or len(fr) not in (1, 3, 4):
            raise self.fail(where, "`fr` is [all] or [m, f, plural] or [m, f, m plural, f plural]")
        ms, fs, mp, fp = {1: fr * 4, 3: [*fr, fr[-1]], 4: fr}[len(fr)]
        return Determiner(
            name,
            (singular or "", (plural or [singular])[0] or ""),
            (ms or "", fs or "", mp or "", fp or ""),
            aspirated=bool(entry.get("aspirated")),
        )


def load_lexicon(path: Path) -> Lexicon:
    """Read and check the lexicon.

    Raises:
        UserError: the file cannot be read or an entry is malformed; names file, line and entry.
    """
    reader = _Reader(path)
    reader.load()
    reader.read_classes()
    irregular = reader.section("conjugations")
    nouns = {noun.id: noun for noun in reader.nouns()}
    adjectives = {
        name: reader.adjective(rank, name, value)
        for rank, (name, value) in enumerate(reader.section("adjectives").items())
    }
    verbs = {
        name: reader.verb(rank, name, value, irregular)
        for rank, (name, value) in enumerate(reader.section("verbs").items())
    }

    def table(name: str, read: Any) -> dict[str, Any]:
        return {
            key: read(rank, key, value)
            for rank, (key, value) in enumerate(reader.section(name).items())
        }

    return Lexicon(
        nouns=nouns,
        adjectives=adjectives,
        verbs=verbs,
        adverbs=table("adverbs", reader.adverb),
        prepositions=table("prepositions", reader.preposition),
        times=table("times", lambda *entry: reader.phrase("times", *entry)),
        questions=table("questions", lambda *entry: reader.phrase("questions", *entry)),
        links=table("links", reader.link),
        determiners=table("determiners", lambda _, *entry: reader.determiner(*entry)),
        avoir=french.conjugate("avoir", irregular),
        etre=french.conjugate("être", irregular),
        aller=french.conjugate("aller", irregular),
        venir=french.conjugate("venir", irregular),
        ambiguous=_ambiguous(nouns, adjectives, verbs),
    )


def _ambiguous(
    nouns: Mapping[str, Noun], adjectives: Mapping[str, Adjective], verbs: Mapping[str, Verb]
) -> frozenset[str]:
    """English words that have more than one French word, whatever their part of speech."""
    french_of: dict[str, set[str]] = {}
    for noun in nouns.values():
        french_of.setdefault(noun.english[0], set()).add(noun.french[0])
        french_of.setdefault(noun.english[1], set()).add(noun.french[0])
    for adjective in adjectives.values():
        french_of.setdefault(adjective.english, set()).add(adjective.french[0])
    for verb in verbs.values():
        if verb.english.base == "be" and not verb.english_tail:
            continue
        key = " ".join((verb.english.base, *verb.english_tail)).removeprefix("be ")
        french_of.setdefault(key, set()).add(
            " ".join((verb.french.infinitive, *verb.french_tail, verb.french_preposition))
        )
    return frozenset(word for word, translations in french_of.items() if len(translations) > 1)
