"""The embedded English-French corpus: a synchronous grammar with gold alignments.

A sentence is drawn as a tree (:mod:`nmt.data.sampler`), read off in both languages
(:mod:`nmt.data.english_syntax`, :mod:`nmt.data.french_syntax`) and comes with its word alignment,
the tags of its phenomena and the antecedent of each pronoun. French is a function of English: the
same English sentence never has
two French ones, so a model can be exactly right and BLEU measures the model.

The corpus is a laboratory, no substitute for real text; ``data/README.md`` says more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random

from nmt.data.english_syntax import English
from nmt.data.french_syntax import French
from nmt.data.lexicon import Lexicon, load_lexicon
from nmt.data.meaning import NP, Adjective, Clause, Key, Linked, Noun, Sentence, Token, Verb
from nmt.data.phrases import Unsuitable
from nmt.data.sampler import Sampler
from nmt.data.tables import Choice, Tables, admits
from nmt.errors import UserError

__all__ = [
    "Example", "build_example", "generate", "join", "load_lexicon", "minimal_pairs",
    "misread_pairs", "words",
]  # fmt: skip

#: Source words, punctuation included, of the longest training sentence, and of ``test_long``.
LONGEST_TRAINED = 50
LONGEST = 80

#: How many clauses a sentence has: mean 1.7, with a tail that makes long sentences.
CLAUSES = {1: 55, 2: 24, 3: 8, 4: 5, 5: 4, 6: 3, 7: 1}
CLAUSES_LONG = {6: 1, 7: 2, 8: 3, 9: 3, 10: 2}

#: One word: n't and 's apart, an elided word with its apostrophe, hyphens inside, punctuation.
WORD = re.compile(
    r"aujourd'hui|o'clock|n't\b|'(?:s|m|re|ll)\b|\w+?(?=n't\b)|\w+(?='(?:s|m|re|ll)\b)"
    r"|\w+'|\w+(?:-\w+)*|[^\w\s]",
    re.IGNORECASE,
)
#: Tenses in which *not* is one added word; present and past only of *be*.
AUXILIARY_TENSES = {"present": 3, "past": 4, "progressive": 2, "future": 2, "going_to": 1,
                    "perfect": 2, "past_progressive": 2}  # fmt: skip
#: Where joined words have no space between them.
SPACE_BEFORE = {
    "en": re.compile(r" (?=[.,?!;:]|n't\b|'(?:s|m|re|ll)\b)"),
    "fr": re.compile(r" (?=[.,])"),
}
SPACE_AFTER = re.compile(r"' ")

#: Draws in a row without a new sentence before :func:`generate` gives up.
PATIENCE = 20_000


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence pair with what is known about it.

    Attributes:
        source: English. target: French.
        alignment: gold pairs of 0-based positions in ``words(source)`` and ``words(target)``.
        tags: the phenomena in it, sorted: ``negation``, ``pronoun``, ``ambiguous:bank`` ...
        antecedents: (position of a pronoun or possessive, position of what it stands for),
            both in ``words(source)``.
    """

    source: str
    target: str
    alignment: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]
    antecedents: tuple[tuple[int, int], ...]


def words(text: str) -> list[str]:
    """The words the alignment counts in.

    Punctuation stands apart, an elided French word keeps its apostrophe (``l' animal``), English
    contractions come apart (``did n't``, ``it 's``), words with a hyphen stay whole. :func:`join`
    is the inverse.
    """
    return WORD.findall(text)


def join(tokens: Iterable[str], language: str) -> str:
    """Text from words; French has a plain space before ? ! ; and :, and plain apostrophes."""
    text = SPACE_BEFORE[language].sub("", " ".join(tokens))
    return SPACE_AFTER.sub("'", text)


def build_example(lexicon: Lexicon, sentence: Sentence) -> Example:
    """Read a tree as English and French, and align what expresses the same part of it."""
    tags: set[str] = set()
    return _example(
        English(lexicon, tags).sentence(sentence), French(lexicon, tags).sentence(sentence), tags
    )


def _example(source: list[Token], target: list[Token], tags: set[str]) -> Example:
    places: dict[Key, list[int]] = {}
    for j, token in enumerate(target):
        for key in token.keys:
            if key in places:
                places[key].append(j)
            else:
                places[key] = [j]
    alignment: list[tuple[int, int]] = []
    heads: dict[object, int] = {}
    pronouns: list[tuple[int, NP]] = []
    for i, token in enumerate(source):
        found: set[int] = set()
        for key in token.keys:
            found.update(places.get(key, ()))
            node, role = key
            if role == "head":
                heads[node] = i
            if isinstance(node, NP) and role == ("head" if node.pronoun else "determiner"):
                pronouns += [(i, np) for np in _named(node.antecedent)]
        alignment += [(i, j) for j in sorted(found)]
    return Example(
        source=_text(source, "en"),
        target=_text(target, "fr"),
        alignment=tuple(alignment),
        tags=tuple(sorted(tags)),
        antecedents=tuple((i, heads[np]) for i, np in pronouns),
    )


def _named(antecedent: NP | None) -> Iterable[NP]:
    """The nouns of an antecedent; a pronoun of whom nothing else is said has none."""
    if antecedent is None:
        return ()
    return [np for np in antecedent.conjuncts or (antecedent,) if np.noun is not None]


def _text(tokens: list[Token], language: str) -> str:
    text = join((token.form for token in tokens), language)
    return text[0].upper() + text[1:]


def generate(
    lexicon: Lexicon, *, train: int = 40_000, valid: int = 2000, test: int = 2000, seed: int = 1
) -> dict[str, list[Example]]:
    """Draw the corpus; the same arguments give the same sentences on every machine.

    No English sentence occurs twice, in one split or in two. ``test_long`` holds sentences of
    51 to 80 words, longer than any in training; ``test_unseen`` sentences with a (verb, object)
    or (adjective, noun) pair that no other split contains, of words that are each common in
    training. Both have as many sentences as ``test``. The small splits are drawn first, so that
    they do not depend on the size of ``train``.

    Returns:
        lists under ``train valid test test_long test_unseen``.

    Raises:
        UserError: the lexicon has not that many sentences in it.
    """
    tables = Tables(lexicon)
    taken: set[str] = set()
    sizes = {"test": test, "valid": valid, "test_long": test, "test_unseen": test, "train": train}
    splits: dict[str, list[Example]] = {}
    for split, size in sizes.items():
        sampler = Sampler(tables, Random(f"{seed} {split}"), unseen=split == "test_unseen")
        long = split == "test_long"
        clauses = Choice((CLAUSES_LONG if long else CLAUSES).items())
        shortest, longest = (LONGEST_TRAINED + 1, LONGEST) if long else (3, LONGEST_TRAINED)
        examples = splits.setdefault(split, [])
        misses = 0
        while len(examples) < size:
            misses += 1
            if misses > PATIENCE:
                raise UserError(
                    f"the lexicon gives no more than {len(examples)} sentences for {split!r} of "
                    f"{size}: ask for fewer with data.grammar, or add words"
                )
            sentence = _draw(sampler, clauses)
            if sentence is None or (split == "test_unseen" and not sampler.novel):
                continue
            tags: set[str] = set()
            source = English(lexicon, tags).sentence(sentence)
            if not shortest <= len(source) <= longest or _text(source, "en") in taken:
                continue
            example = _example(source, French(lexicon, tags).sentence(sentence), tags)
            taken.add(example.source)
            examples.append(example)
            misses = 0
    return {name: splits[name] for name in ("train", "valid", "test", "test_long", "test_unseen")}


def _draw(sampler: Sampler, clauses: Choice[int]) -> Sentence | None:
    try:
        return sampler.sentence(clauses.pick(sampler.rng))
    except Unsuitable:
        return None


def minimal_pairs(
    lexicon: Lexicon, kind: str, count: int, seed: int
) -> list[tuple[Example, Example]]:
    """Pairs of sentences that differ in one word and in what it does to the meaning.

    Args:
        kind: ``negation``: with and without *not* (French *ne ... pas*), nothing else differs;
            ``antecedent``: *it was too tired* / *it was too wide*: the last adjective decides
            which of two nouns *it* stands for, and so between *il* and *elle*.

    Raises:
        ValueError: another kind.
    """
    makers: dict[str, Callable[[Lexicon, Sampler], tuple[Sentence, Sentence]]] = {
        "negation": _negation_pair, "antecedent": _antecedent_pair,
    }  # fmt: skip
    if kind not in makers:
        raise ValueError(f"kind is one of {', '.join(makers)}, not {kind!r}")
    sampler = Sampler(Tables(lexicon), Random(f"{seed} {kind}"))
    pairs: list[tuple[Example, Example]] = []
    taken: set[str] = set()
    while len(pairs) < count:
        try:
            first, second = makers[kind](lexicon, sampler)
        except Unsuitable:
            continue
        pair = build_example(lexicon, first), build_example(lexicon, second)
        if pair[0].source not in taken:
            taken.add(pair[0].source)
            pairs.append(pair)
    return pairs


def misread_pairs(
    lexicon: Lexicon, count: int, seed: int
) -> list[tuple[tuple[Example, Example], tuple[Example, Example]]]:
    """Pairs of kind ``antecedent``, each sentence with its misreading.

    A misreading has the same English; in French the pronoun, and what agrees with it, is that of
    the other noun.
    """
    sampler = Sampler(Tables(lexicon), Random(f"{seed} misread"))
    pairs: list[tuple[tuple[Example, Example], tuple[Example, Example]]] = []
    taken: set[str] = set()
    while len(pairs) < count:
        try:
            trees = _antecedents(lexicon, sampler)
        except Unsuitable:
            continue
        one, misread_one, two, misread_two = (build_example(lexicon, tree) for tree in trees)
        if one.source not in taken:
            taken.add(one.source)
            pairs.append(((one, misread_one), (two, misread_two)))
    return pairs


def _negation_pair(lexicon: Lexicon, sampler: Sampler) -> tuple[Sentence, Sentence]:
    """One clause twice, affirmed and denied, in a tense where English only adds *not*."""
    sampler.start()
    sampler.flat = True
    c = sampler.clause(AUXILIARY_TENSES)
    bare = c.tense in ("present", "past") and c.verb.english.base != "be"
    if bare or c.negation or c.infinitive or c.complement or c.also or c.adverb or c.purpose:
        raise Unsuitable
    if (c.time is not None and not c.time.negatable) or (c.degree and c.degree.id == "quite"):
        raise Unsuitable
    determiner = c.object.determiner if c.object is not None else None
    if determiner is not None and determiner.id in ("some", "bare", "a", "every"):
        raise Unsuitable  # de would replace the article
    c.contracted = False
    return Sentence(c), Sentence(replace(c, negation="not"))


def _antecedent_pair(lexicon: Lexicon, sampler: Sampler) -> tuple[Sentence, Sentence]:
    """The animal did not cross the street because it was too tired, too wide."""
    tired, _, wide, _ = _antecedents(lexicon, sampler)
    return tired, wide


def _antecedents(
    lexicon: Lexicon, sampler: Sampler
) -> tuple[Sentence, Sentence, Sentence, Sentence]:
    """An antecedent pair, each followed by its misreading, where *it* is the other noun."""
    rng, tables = sampler.rng, sampler.tables
    verb = Choice((v, v.weight) for v in lexicon.verbs.values() if _pairs_on(v)).pick(rng)
    subject = Choice((n, n.weight) for n in tables.subjects[verb.id] if n.leaf == "beast").pick(rng)
    objects = tables.objects[verb.id][0]
    obj = objects.pick(rng)
    if obj.pronoun != "it" or obj.numbers != "sp" or obj.gender == subject.gender:
        raise Unsuitable
    tired = _only_of(tables, sampler.predicates, subject, obj, rng)
    wide = _only_of(tables, sampler.predicates, obj, subject, rng)
    the = lexicon.determiners["the"]
    tense = rng.choice(("past", "past", "present"))
    degree = sampler.adverbs["degree"].pick(rng) if rng.random() < 0.7 else None
    negation = "not" if rng.random() < 0.6 else ""
    if verb.ambiguous_past:
        raise Unsuitable

    def sentence(adjective: Adjective, first: bool) -> Sentence:
        one, two = NP(subject, determiner=the), NP(obj, determiner=the)
        main = Clause(one, verb, tense, negation, object=two)
        it = NP(pronoun="it", antecedent=one if first else two)
        because = Clause(it, lexicon.verbs["be"], tense, adjective=adjective, degree=degree)
        return Sentence(main, linked=[Linked(lexicon.links["because"], because)])

    return (
        *(sentence(tired, True), sentence(tired, False)),
        *(sentence(wide, False), sentence(wide, True)),
    )


def _pairs_on(verb: Verb) -> bool:
    """Whether an animal does it to a thing."""
    return "beast" in verb.subject and bool(verb.object) and verb.clitic == "object"


def _only_of(
    tables: Tables, adjectives: Choice[Adjective], noun: Noun, other: Noun, rng: Random
) -> Adjective:
    """An adjective said of the one noun and, in none of its senses, of the other."""
    for _ in range(50):
        adjective = adjectives.pick(rng)
        wide = tables.wide[f"be {adjective.english}", "subject"]
        if adjective.absolute or not admits(adjective.of, noun):
            continue
        if not admits(wide, other):
            return adjective
    raise Unsuitable
