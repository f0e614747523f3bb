"""Named filters, each counting what it removed, and the funnel that adds them up.

A filter looks at one pair, except duplicates, overlap and the split, which compare pairs by 64-bit
hashes of their text (BLAKE2b; two different sentences in ten million share one with a probability
of three in a million).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from nmt.errors import UserError

Pair = tuple[str, str]
Rejects = Callable[[str, str], bool]

PAIR_FILTERS = ("empty", "control", "too_long", "ratio", "identical", "script")
FILTERS = ("invalid_utf8", *PAIR_FILTERS, "duplicate_pair", "duplicate_source", "overlap")
"""All reasons for which a pair may be removed, in the order in which they are asked."""

_AT_ONCE = 2**20  # hashes looked up at a time

# Controls but the tab, line and paragraph separators, stray byte-order marks, lost characters.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffd\ufffe\uffff]")

# Letters of a script, as the inside of a character class.
_LETTERS = {
    "latin": "A-Za-zªºÀ-ÖØ-öø-ʯ\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a",
    "cyrillic": "\u0400-\u052f\u1c80-\u1c88\ua640-\ua69f",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    "hebrew": "\u0590-\u05ff\ufb1d-\ufb4f",
    "armenian": "\u0530-\u058f",
    "georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "devanagari": "\u0900-\u097f",
    "bengali": "\u0980-\u09ff",
    "tamil": "\u0b80-\u0bff",
    "thai": "\u0e00-\u0e7f",
    "hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af\u4e00-\u9fff",
    "han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
    "kana": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\u3400-\u4dbf\u4e00-\u9fff",
}
_LANGUAGES = {
    "latin": "af az br bs ca cs cy da de en eo es et eu fi fo fr fy ga gd gl ha hr ht hu id is it "
    "jv lb lt lv mg ms mt nb nl nn no oc pl pt ro sk sl so sq sv sw tl tr uz vi wo xh yo zu",
    "cyrillic": "be bg kk ky mk mn ru tg uk",
    "greek": "el",
    "arabic": "ar fa ps sd ur",
    "hebrew": "he yi",
    "armenian": "hy",
    "georgian": "ka",
    "devanagari": "hi mr ne sa",
    "bengali": "as bn",
    "tamil": "ta",
    "thai": "th",
    "hangul": "ko",
    "han": "zh",
    "kana": "ja",
}
_SCRIPT = {language: s for s, languages in _LANGUAGES.items() for language in languages.split()}
_NO_SPACES = frozenset(("zh", "ja", "th"))


@dataclass(slots=True)
class Funnel:
    """Where pairs went: ``read == sum(removed) + sum(held_out) + kept``."""

    read: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    held_out: dict[str, int] = field(default_factory=dict)
    """Pairs split off for dev and test."""

    @property
    def kept(self) -> int:
        return self.read - self.removed.total() - sum(self.held_out.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "removed": {name: self.removed[name] for name in FILTERS if self.removed[name]},
            "held_out": self.held_out,
            "kept": self.kept,
        }

    def lines(self) -> list[str]:
        """The funnel as a small table, one line a stage."""
        rows = [("pairs read", self.read)]
        rows += [(f"- {name}", self.removed[name]) for name in FILTERS if self.removed[name]]
        rows += [(f"- split off for {name}", count) for name, count in self.held_out.items()]
        rows.append(("pairs kept", self.kept))
        width = max(len(label) for label, _ in rows)
        return [f"  {label:<{width}}  {count:>11,}" for label, count in rows]


def pair_filters(
    names: Iterable[str],
    *,
    source_language: str,
    target_language: str,
    max_words: int,
    max_characters: int,
    max_ratio: float,
    min_script_share: float,
) -> dict[str, Rejects]:
    """The named filters that look at one pair; each is true for a pair that has to go.

    ``empty``: a side has nothing but spaces. ``control``: control characters, line separators or
    U+FFFD. ``too_long``: more words than `max_words` or characters than `max_characters`.
    ``ratio``: one side has more than `max_ratio` times the words of the other. ``identical``: both
    sides are the same. ``script``: fewer than `min_script_share` of a side's letters are of its
    language's script (not asked of a language whose script is not known here).
    """
    source_words, target_words = _words_in(source_language), _words_in(target_language)
    wrong_source = _wrong_script(source_language, min_script_share)
    wrong_target = _wrong_script(target_language, min_script_share)

    def too_long(source: str, target: str) -> bool:
        return (
            len(source) > max_characters
            or len(target) > max_characters
            or source_words(source) > max_words
            or target_words(target) > max_words
        )

    def ratio(source: str, target: str) -> bool:
        a, b = source_words(source), target_words(target)
        return a > max_ratio * b or b > max_ratio * a

    known: dict[str, Rejects] = {
        "empty": lambda source, target: not source.strip() or not target.strip(),
        "control": lambda source, target: bool(_CONTROL.search(source) or _CONTROL.search(target)),
        "too_long": too_long,
        "ratio": ratio,
        "identical": lambda source, target: source.strip() == target.strip(),
        "script": lambda source, target: wrong_source(source) or wrong_target(target),
    }
    wanted = set(names)
    return {name: known[name] for name in PAIR_FILTERS if name in wanted}


def _words_in(language: str) -> Callable[[str], float]:
    """Words of a text; where none are written apart, two characters count as one."""
    if language in _NO_SPACES:
        return lambda text: len(text) / 2
    return lambda text: text.count(" ") + 1


def _wrong_script(language: str, min_share: float) -> Callable[[str], bool]:
    script = _SCRIPT.get(language)
    if script is None:
        return lambda text: False
    own = re.compile(f"[{_LETTERS[script]}]")
    foreign = re.compile(rf"[^\W\d_{_LETTERS[script]}]")
    latin = script == "latin"

    def wrong(text: str) -> bool:
        # most text of most corpora: these two need not count, which takes three times as long
        if (latin and text.isascii()) or not foreign.search(text):
            return False
        others = len(foreign.findall(text))
        ours = len(own.findall(text))
        return ours < min_share * (ours + others)

    return wrong


def clean(
    rows: Iterable[tuple[str, ...] | None], filters: Mapping[str, Rejects], funnel: Funnel
) -> Iterator[tuple[int, str, str]]:
    """The number, source and target of each row that no filter rejects; None was not UTF-8."""
    asked = list(filters.items())
    for row in rows:
        number = funnel.read
        funnel.read += 1
        if row is None:
            funnel.removed["invalid_utf8"] += 1
            continue
        source, target = row[0], row[1]
        for name, rejects in asked:
            if rejects(source, target):
                funnel.removed[name] += 1
                break
        else:
            yield number, source, target


def text_hash(text: str) -> int:
    """64-bit hash of a sentence, the same on every machine; spaces at the ends do not count."""
    return int.from_bytes(blake2b(text.strip().encode(), digest_size=8).digest(), "little")


def pair_hashes(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Hashes of pairs (uint64) from the hashes of their sides."""
    hashes: np.ndarray = sources * np.uint64(0x9E3779B97F4A7C15) + targets
    return hashes


def among(hashes: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Which of many hashes are among a few, as a mask; memory for the mask and little more."""
    few = np.unique(few)
    found = np.zeros(len(hashes), bool)
    for start in range(0, len(hashes) if len(few) else 0, _AT_ONCE):
        some = hashes[start : start + _AT_ONCE]
        places = np.minimum(np.searchsorted(few, some), len(few) - 1)
        found[start : start + _AT_ONCE] = few[places] == some
    return found


def drop_repeated(hashes: np.ndarray, keep: np.ndarray) -> int:
    """Clear `keep` where a hash was kept in an earlier row; the number of rows cleared.

    Equal hashes have equal first bits, so that one sixteenth after the other is sorted: memory.
    """
    removed = 0
    for first_bits in range(16):
        rows = np.flatnonzero(_begins_with(hashes, first_bits) & keep)
        some = hashes[rows]
        order = np.argsort(some, kind="stable")
        ordered = some[order]
        repeated = rows[order[1:][ordered[1:] == ordered[:-1]]]
        keep[repeated] = False
        removed += len(repeated)
    return removed


def _begins_with(hashes: np.ndarray, first_bits: int) -> np.ndarray:
    low = np.uint64(first_bits << 60)
    return (hashes >= low) & (hashes <= low + np.uint64(2**60 - 1))


def split_by_hash(hashes: np.ndarray, keep: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """The part of each row: 0 stays in training, k is the k-th name in `sizes`, -1 not kept.

    The sources with the smallest hashes go to the first part until it has its size, the next to
    the second: the order of the corpus does not matter, more text moves few sentences, and all
    pairs of one source go to the same part.

    Raises:
        UserError: too few different sources.
    """
    part = np.where(keep, np.int8(0), np.int8(-1))
    ordered = hashes[keep]
    ordered.sort()
    # The largest source stays in training; the next is as far as the last part may reach, the one
    # below as far as the part before it, so that none is left empty.
    largest: list[np.uint64] = []
    end = len(ordered)
    while end and len(largest) <= len(sizes):
        largest.append(ordered[end - 1])
        end = int(np.searchsorted(ordered, largest[-1]))
    if len(largest) <= len(sizes):
        raise UserError(
            f"{len(largest)} different source sentences are too few to split off "
            f"{' and '.join(sizes)}; give more text, or data.valid= and data.test="
        )
    taken = 0
    for number, size in enumerate(sizes.values(), 1):
        enough = ordered[min(taken + size, len(ordered)) - 1]
        last = min(enough, largest[len(sizes) - number + 1])
        part[(part == 0) & (hashes <= last)] = number
        taken = int(np.searchsorted(ordered, last, side="right"))
    return part


def check_funnel(funnel: Mapping[str, Any], max_removed: float) -> None:
    """Refuse an empty training corpus, and one that lost more than the user allows."""
    removed, read = funnel["removed"], funnel["read"]
    most = f", most by {max(removed, key=removed.get)}" if removed else ""
    if funnel["kept"] == 0:
        raise UserError(f"no pair is left for training of {read:,} read{most}")
    share = sum(removed.values()) / read
    if share > max_removed:
        raise UserError(
            f"the filters removed {share:.0%} of {read:,} pairs{most}; if that is right, allow it "
            f"with data.max_removed= (now {max_removed})"
        )
