"""Negations of a sentence by rule, in English, French and German.

A rule finds the word that denies a clause and leaves alone what only looks like one: *not only*, a
French *plus* that means more, a *pas* that is a step. Each negated verb or noun phrase counts once,
so that *ne … plus jamais rien* and *not … at all* are one. What denies by its meaning alone counts
in no language: *without*, *hardly*, *un-*, and *no* as an answer. Rules err; the cases they were
tested on are in ``tests/evaluation/negations.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from nmt.errors import UserError

STOPS = frozenset(".!?;:…")
WORD = re.compile(r"n't\b|\w+?(?=n't\b)|\w+'(?=\w)|\w+(?:-\w+)*|[^\w\s]")
"""Words; n't, and a French word before its apostrophe (n', qu', d'), stand alone."""


def has_rules(language: str) -> bool:
    """Whether negations of a language, with or without a region, are found by rule."""
    return _rules_of(language) is not None


def find_cues(text: str, language: str) -> list[str]:
    """The cue of each negation, in the order of the text.

    Args:
        language: ``en``, ``fr`` or ``de``, with or without a region (``fr-CA``).

    Raises:
        UserError: another language, for which there are no rules.
    """
    found = _rules_of(language)
    if found is None:
        raise UserError(
            f"negations are found by rule in {', '.join(RULES)}, not in {language!r}: leave this "
            "probe out for other languages"
        )
    return found(WORD.findall(text.replace("’", "'")))


def _rules_of(language: str) -> Callable[[list[str]], list[str]] | None:
    return RULES.get(re.split("[-_]", language.lower())[0])


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _after(words: Sequence[str], place: int, count: int = 1) -> str:
    """The next words, joined; nothing beyond the end."""
    return " ".join(words[place + 1 : place + 1 + count])


def _before(words: Sequence[str], place: int, count: int = 1) -> str:
    return " ".join(words[max(0, place - count) : place])


# ---- English -------------------------------------------------------------------------------------

_EN_WORDS = _listed(
    "not n't cannot never nobody nothing nowhere none neither nor no no-one dont didnt doesnt "
    "isnt cant wont"
)
_EN_TAG = re.compile(r"n't (?:i|you|he|she|it|we|they|there|one) \?$")
_EN_ADDS = _listed("only just merely simply solely least")
_EN_IDIOMS = {  # what may follow *no* without denying anything
    *("doubt", "matter", "wonder", "sooner", "less", "fewer", "problem ."),
}


def _english(words: list[str]) -> list[str]:
    words = [word.lower().rstrip("'") for word in words]  # nobody's
    found = []
    open_neither = False
    for place, word in enumerate(words):
        if word in STOPS:
            open_neither = False
        if word not in _EN_WORDS or not _english_denies(words, place):
            continue
        if word == "nor" and open_neither:
            continue  # the second half of neither … nor
        open_neither = open_neither or word == "neither"
        found.append(word)
    return found


def _english_denies(words: list[str], place: int) -> bool:
    word, following, before = words[place], _after(words, place), _before(words, place)
    if word == "no":
        answer = not following or not following[0].isalnum()
        return not (answer or following in _EN_IDIOMS or following.isdigit() or before == "or")
    if word == "not":
        # "not only … but", "whether or not", "if not", "why not?"
        return following not in _EN_ADDS and before not in ("or", "if", "why")
    if word == "n't":
        return not _EN_TAG.search(" ".join(words[place : place + 3]))
    if word == "never":
        return following != "mind"
    if word == "nothing":
        return following != "but" and before != "for"
    if word == "none":
        return _after(words, place, 2) not in ("the less", "other than")
    return True


# ---- German --------------------------------------------------------------------------------------

_DE_WORD = re.compile(
    r"nicht|nichts|nie|niemals|nimmer|niemand(?:e[mns])?|nirgend(?:s|wo|wohin|woher)|weder|"
    r"kein(?:e|em|en|er|es|s)?|keinerlei|keines(?:wegs|falls)"
)
_DE_ADDS = _listed("nur bloß allein zuletzt")


def _german(words: list[str]) -> list[str]:
    return [
        word.lower()
        for place, word in enumerate(words)
        if _DE_WORD.fullmatch(word.lower()) and _german_denies(words, place)
    ]


def _german_denies(words: list[str], place: int) -> bool:
    word, following, before = words[place], _after(words, place), _before(words, place).lower()
    if word.lower() == "nicht":  # "nicht nur … sondern", ", nicht wahr?", "ob … oder nicht"
        if before == "," and _after(words, place, 2) == "wahr ?":
            return False
        return following.lower() not in _DE_ADDS and before not in ("oder", "warum", "wieso")
    if word.lower() == "nichts":
        if following.lower() in ("als", "anderes") and "als" in _after(words, place, 2).split():
            return False  # nothing but
        return not (word == "Nichts" and before in ("das", "dem", "ins", "im", "des"))
    if word.lower() == "nie":
        return following.lower() != "und"  # nie und nimmer: the second one counts
    return True


# ---- French --------------------------------------------------------------------------------------

_FR_NE = frozenset(("ne", "n'"))
_FR_SECOND = _listed(
    "pas point plus guère jamais rien personne aucun aucune nul nulle nullement ni aucunement"
)
_FR_FIRST = _listed("rien personne aucun aucune nul nulle jamais ni pas")
_FR_NOBODY = frozenset(("personne", "rien", "aucun", "aucune"))
_FR_DETERMINERS = _listed(
    "le la l' les un une des du de d' au aux à ce cet cette ces mon ma mes ton ta tes son sa ses "
    "notre nos votre vos leur leurs quel quelle quels quelles chaque toute tout toutes tous "
    "quelque quelques plusieurs deux trois quatre cinq six sept huit neuf dix vingt cent premier "
    "première dernier dernière grand grande grands petit petite petits faux seul seule autre "
    "autres jeune vieille belle bonne certaine tel telle par en sur bons lents "
    "mille"
)
_FR_QUE = frozenset(("que", "qu'"))
_FR_SUBJECTS = _listed("je j' tu il ils elle elles on ce c'")
_FR_BARE_NE = re.compile(  # verbs that ne alone can deny
    r"cess(?:e|es|ent|ait|aient|a|ez|ons|er|era)|os(?:e|es|ent|ait|aient|a|ez|er)|"
    r"pu(?:is|t|rent)|peu[xt]|peuvent|pouv(?:ais|ait|aient|oir|ez|ons)|pourr(?:ait|ais|aient|a)|"
    r"sa(?:is|it|vait|vais|vaient|urait|urais|chant)|savent"
)
_FR_REACH = 9  # words after ne within which its second part stands
_FR_TRIGGERS = re.compile(  # what makes a ne before a verb expletive
    r"\b(?:avant|moins|peur|crainte|crain\w*|craign\w*|plus|mieux|pire|autre(?:ment)?|évit\w*|"
    r"empêch\w*|dout\w*|redout\w*)\b.*\bqu(?:e|')"
)


def _french(words: list[str]) -> list[str]:
    words = [word.lower() for word in words]
    cues: list[tuple[int, str]] = []
    used: set[int] = set()  # words that belong to a ne
    for place, word in enumerate(words):
        if word in _FR_NE:
            clause = _clause(words, place)
            used |= clause
            cue = _with_ne(words, place, clause)
            if cue:
                cues.append((place, f"{word} {cue}"))
    open_ni = False
    for place, word in enumerate(words):
        if word in STOPS:
            open_ni = False
        if place in used or not _alone(words, place) or (word == "ni" and open_ni):
            continue
        open_ni = open_ni or word == "ni"
        if word in _FR_NOBODY and _before(words, place) in ("plus", "jamais", "pas"):
            continue  # plus rien, jamais personne: one negation
        cues.append((place, word))
    return [cue for _, cue in sorted(cues)]


def _clause(words: list[str], place: int) -> set[int]:
    """The words around a ne among which its other part is: up to a stop, a comma, another ne."""
    found = {place}
    for step, reach in ((-1, 6), (1, _FR_REACH)):
        here = place + step
        while 0 <= here < len(words) and abs(here - place) <= reach:
            word = words[here]
            if word in STOPS or word in _FR_NE or (word == "," and not _lists(words, here)):
                break
            if step < 0 and (word in _FR_QUE or word in ("qui", "et", "mais", "ou", "si")):
                break
            found.add(here)
            here += step
    return found


def _lists(words: list[str], comma: int) -> bool:
    """Whether a comma stands within *ni …, ni …*."""
    return _after(words, comma) == "ni"


def _with_ne(words: list[str], place: int, clause: set[int]) -> str:
    """What a ne denies together with; nothing where it is expletive, *ne … que* or *n'importe*."""
    if _after(words, place).startswith("importe") or _after(words, place, 3) == "est-ce pas ?":
        return ""
    if _after(words, place, 2).startswith("est-ce pas"):
        return ""
    for here in sorted(here for here in clause if here < place):
        if words[here] in _FR_FIRST and not _is_noun(words, here):
            return words[here]
    for here in sorted(here for here in clause if here > place):
        word = words[here]
        if word in _FR_QUE:
            return ""  # only
        if word not in _FR_SECOND or _is_noun(words, here):
            continue
        following = _after(words, here)
        if word == "plus" and (_only(words, here + 1) or _compares(words, here)):
            continue
        if word == "pas" and following in ("seulement", "uniquement"):
            return ""  # not only
        if word == "rien" and _after(words, here, 3) in ("d' autre que", "d' autre qu'"):
            return ""  # nothing but
        return word
    verb = next((words[here] for here in sorted(clause) if here > place), "")
    expletive = _FR_TRIGGERS.search(" ".join(words[max(0, place - 8) : place]))
    return verb if _FR_BARE_NE.fullmatch(verb) and not expletive else ""


def _only(words: list[str], place: int) -> bool:
    """Whether a que after *ne … plus* restricts; one before *il* and a verb opens a clause."""
    opens = _after(words, place) in _FR_SUBJECTS and _after(words, place, 2)[-1:].isalpha()
    return place < len(words) and words[place] in _FR_QUE and not opens


def _compares(words: list[str], place: int) -> bool:
    """Whether *plus* after a ne means more: *le plus*, *de plus en plus*, *non plus*, *au plus*."""
    return _before(words, place) in ("le", "la", "les", "de", "en", "au", "bien", "beaucoup", "non")


def _is_noun(words: list[str], place: int) -> bool:
    """A step (*un pas*), a person (*cette personne*), a point; *un rien*; *la plus …*."""
    before = _before(words, place)
    if words[place] in ("pas", "point", "personne"):
        if words[place] == "personne" and before in ("à", "de", "d'", "par", "en", "sur"):
            return False
        if before == "même":  # "du même pas", but "même pas"
            before = _before(words, place - 1)
        return before in _FR_DETERMINERS or _before(words, place, 2).endswith("pas à")
    return words[place] == "rien" and before in ("un", "de")


def _alone(words: list[str], place: int) -> bool:
    """Whether a word denies without a ne, as in speech and in answers."""
    word, before, following = words[place], _before(words, place), _after(words, place)
    if word == "pas":
        idiom = following in ("mal", "seulement", "que", "qu'", "à", "uniquement")
        return not (idiom or _is_noun(words, place) or before in ("pourquoi", "ou", "sinon", "n'"))
    if word == "jamais":
        said = words[max(0, place - 8) : place]  # "si jamais", "le plus beau que j'aie jamais vu"
        ever = {"si", "à", "pour", *_FR_QUE}.intersection(said) or any("-" in word for word in said)
        return not ever
    if word == "rien":
        return before not in ("un", "de", "pour", "sans") and following not in _FR_QUE
    if word == "personne":
        return place == 0 or before in ("a", "avait", "vu", "connais", "plus", "vois")
    if word in _FR_NOBODY:
        return before != "sans"
    if word == "plus":  # moi non plus
        return before == "non"
    return word == "ni" and before != "sans"


RULES: dict[str, Callable[[list[str]], list[str]]] = {
    "en": _english,
    "fr": _french,
    "de": _german,
}
