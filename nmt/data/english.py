"""English morphology: plurals and the five forms of a verb, by rule; the lexicon has the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass

VOWELS = frozenset("aeiou")

#: be, by (person, number); have and do follow the general rule with one exception each.
BE_PRESENT = {(1, "s"): "am", (3, "s"): "is"}
BE_PAST = {(1, "s"): "was", (3, "s"): "was"}

PRONOUNS = {
    # (pronoun): subject, object
    "I": ("I", "me"), "you": ("you", "you"), "he": ("he", "him"), "she": ("she", "her"),
    "it": ("it", "it"), "we": ("we", "us"), "they": ("they", "them"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EnglishVerb:
    base: str
    third: str
    past: str
    participle: str
    gerund: str

    def present(self, person: int, number: str) -> str:
        """The simple present form for person 1 to 3 and number ``s | p``."""
        if self.base == "be":
            return BE_PRESENT.get((person, number), "are")
        return self.third if (person, number) == (3, "s") else self.base

    def simple_past(self, person: int, number: str) -> str:
        if self.base == "be":
            return BE_PAST.get((person, number), "were")
        return self.past


def starts_with_vowel(word: str) -> bool:
    """Whether *an* precedes the word, by its first letter; the lexicon lists the exceptions."""
    return word[0].lower() in VOWELS


def plural(word: str) -> str:
    """The regular plural of a noun."""
    return _with_s(word)


def inflect(base: str, past: str = "", participle: str = "", gerund: str = "") -> EnglishVerb:
    """The forms of a verb; irregular ones are passed in, an irregular participle = past."""
    past_form = past or _with_ed(base)
    third = {"have": "has", "be": "is", "do": "does", "go": "goes"}.get(base) or _with_s(base)
    return EnglishVerb(base, third, past_form, participle or past_form, gerund or _with_ing(base))


def _with_s(word: str) -> str:
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


def _doubles(word: str) -> bool:
    """One vowel between consonants in a word of one syllable: stop, stopped."""
    return re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", word) is not None


def _with_ed(word: str) -> str:
    if word.endswith("e"):
        return word + "d"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ied"
    return word + (word[-1] if _doubles(word) else "") + "ed"


def _with_ing(word: str) -> str:
    if word.endswith("ie"):
        return word[:-2] + "ying"
    if word.endswith("e") and word not in ("be",) and not word.endswith("ee"):
        return word[:-1] + "ing"
    return word + (word[-1] if _doubles(word) else "") + "ing"
