"""French morphology: conjugation, plurals, feminines, elision and contraction.

Pure functions over strings; the lexicon supplies what no rule can know (irregular verbs, odd
feminines, the aspirated h). Spelling follows the traditional rules (*espérera*, *connaître*).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Letters that begin with a vowel sound, capitals of names and the mute h included.
VOWELS = frozenset("aeiouyhàâäéèêëîïôöûüœæAEIOUYHÀÂÉÈÊÎÔŒ")

#: Endings by tense, for je, tu, il, nous, vous, ils.
IMPERFECT = ("ais", "ais", "ait", "ions", "iez", "aient")
FUTURE = ("ai", "as", "a", "ons", "ez", "ont")
PRESENT_ER = ("e", "es", "e", "ons", "ez", "ent")
PRESENT_IR = ("is", "is", "it", "issons", "issez", "issent")
PRESENT_RE = ("s", "s", "", "ons", "ez", "ent")

#: What a word becomes before a vowel sound; *si* is apart (only before *il*, *ils*).
ELISIONS = {
    "je": "j'", "me": "m'", "te": "t'", "se": "s'", "le": "l'", "la": "l'", "de": "d'",
    "ne": "n'", "que": "qu'", "puisque": "puisqu'", "ce": "cet", "ma": "mon", "ta": "ton",
    "sa": "son",
}  # fmt: skip

#: Preposition and article that melt into one word.
CONTRACTIONS = {
    ("de", "le"): "du", ("de", "les"): "des", ("à", "le"): "au", ("à", "les"): "aux",
}  # fmt: skip

REFLEXIVES = ("me", "te", "se", "nous", "vous", "se")


@dataclass(frozen=True, slots=True)
class Conjugation:
    """All forms of one verb that the grammar uses; six persons per simple tense."""

    infinitive: str
    participle: str
    present: tuple[str, ...]
    imperfect: tuple[str, ...]
    future: tuple[str, ...]
    conditional: tuple[str, ...]
    subjunctive: tuple[str, ...]


def starts_with_vowel(word: str, hard: bool = False) -> bool:
    """Whether the word begins with a vowel sound; ``hard`` marks an aspirated h and *huit*."""
    return not hard and word[0] in VOWELS


def conjugate(infinitive: str, irregular: Mapping[str, Mapping[str, str]]) -> Conjugation:
    """Conjugate a verb by the irregular table, by the verb it goes ``like``, or by its ending.

    ``irregular`` maps an infinitive to the fields ``present`` (six words), ``participle``,
    ``future`` (stem), optionally ``imperfect`` (stem) and ``subjunctive`` (six words), or to
    ``like: other`` where only the beginning differs: *comprendre* like *prendre*.

    Raises:
        ValueError: the ending is not that of a regular verb and no table entry exists.
    """
    entry = irregular.get(infinitive)
    if entry is None:
        return _regular(infinitive)
    model = entry.get("like")
    if model is not None:
        return _like(infinitive, conjugate(model, irregular))
    return _assemble(
        infinitive,
        present=entry["present"].split(),
        participle=entry["participle"],
        future=entry.get("future", infinitive.removesuffix("e")),
        imperfect=entry.get("imperfect"),
        subjunctive=entry.get("subjunctive", "").split(),
    )


def _like(infinitive: str, model: Conjugation) -> Conjugation:
    """Exchange what precedes the common ending: *construire* like *conduire*: constr-, cond-."""
    old, new = model.infinitive, infinitive
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]

    def swap(forms: Sequence[str]) -> tuple[str, ...]:
        return tuple(new + form.removeprefix(old) for form in forms)

    return Conjugation(
        infinitive,
        swap([model.participle])[0],
        swap(model.present),
        swap(model.imperfect),
        swap(model.future),
        swap(model.conditional),
        swap(model.subjunctive),
    )


def _assemble(
    infinitive: str,
    present: Sequence[str],
    participle: str,
    future: str,
    imperfect: str | None = None,
    subjunctive: Sequence[str] = (),
) -> Conjugation:
    """Derive every tense from the present, the future stem and the participle."""
    stem = imperfect if imperfect is not None else present[3].removesuffix("ons")
    past = tuple(stem + ending for ending in IMPERFECT)
    if not subjunctive:
        they = present[5].removesuffix("ent")
        subjunctive = (they + "e", they + "es", they + "e", past[3], past[4], they + "ent")
    return Conjugation(
        infinitive=infinitive,
        participle=participle,
        present=tuple(present),
        imperfect=past,
        future=tuple(future + ending for ending in FUTURE),
        conditional=tuple(future + ending for ending in IMPERFECT),
        subjunctive=tuple(subjunctive),
    )


def _regular(infinitive: str) -> Conjugation:
    if infinitive.endswith("er"):
        return _first_group(infinitive)
    stem = infinitive[:-2]
    if infinitive.endswith("ir"):
        return _assemble(infinitive, [stem + e for e in PRESENT_IR], stem + "i", infinitive)
    if infinitive.endswith("re"):
        return _assemble(infinitive, [stem + e for e in PRESENT_RE], stem + "u", infinitive[:-1])
    raise ValueError(f"no conjugation for {infinitive!r}: add it to `conjugations`")


def _first_group(infinitive: str) -> Conjugation:
    """Verbs in -er, with the spelling changes of manger, commencer, lever, espérer, essayer."""
    stem = infinitive[:-2]
    soft = {"g": stem + "e", "c": stem[:-1] + "ç"}.get(stem[-1], stem)  # before a and o
    strong, future = stem, infinitive  # the stem under stress, and that of the future
    if len(stem) > 2 and stem[-2] == "e" and stem[-1] not in "aeiouyr":
        strong = stem[:-2] + "è" + stem[-1]
        if infinitive.endswith(("eler", "eter")) and not infinitive.endswith(("acheter", "geler")):
            strong = stem + stem[-1]
        future = strong + "er"
    elif len(stem) > 2 and stem[-2] == "é":
        strong = stem[:-2] + "è" + stem[-1]
    elif stem[-1] == "y":
        strong = stem[:-1] + "i"
        future = strong + "er"
    stems = (strong, strong, strong, soft, stem, strong)
    verb = _assemble(
        infinitive,
        present=[s + ending for s, ending in zip(stems, PRESENT_ER, strict=True)],
        participle=stem + "é",
        future=future,
        imperfect=soft,
    )
    nous, vous = stem + "ions", stem + "iez"  # mangions, not mangeions
    return Conjugation(
        verb.infinitive, verb.participle, verb.present,
        (*verb.imperfect[:3], nous, vous, verb.imperfect[5]),
        verb.future, verb.conditional,
        (*verb.subjunctive[:3], nous, vous, verb.subjunctive[5]),
    )  # fmt: skip


def plural(word: str) -> str:
    """The regular plural of a noun or a masculine adjective."""
    if word[-1] in "sxz":
        return word
    if word.endswith(("au", "eu")):
        return word + "x"
    if word.endswith("al"):
        return word[:-2] + "aux"
    return word + "s"


def feminine(word: str) -> str:
    """The regular feminine singular of an adjective or a participle."""
    for ending, other in (
        ("eux", "euse"), ("er", "ère"), ("if", "ive"), ("el", "elle"), ("en", "enne"),
        ("on", "onne"),
    ):  # fmt: skip
        if word.endswith(ending):
            return word.removesuffix(ending) + other
    return word if word.endswith("e") else word + "e"


def agree(masculine: str, gender: str, number: str) -> str:
    """A participle in gender ``m | f`` and number ``s | p``."""
    form = feminine(masculine) if gender == "f" else masculine
    return plural(form) if number == "p" else form
