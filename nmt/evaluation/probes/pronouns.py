"""Does a model know what *it* stands for?

Minimal pairs of the embedded corpus: *The animal did not cross the street because it was too tired*
and *… too wide* differ in their last word alone, and in what *it* stands for: *il* or *elle* in
French. The two nouns stand at the same places in both, so that attention on a noun where it is the
antecedent can be set against attention on the same noun where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.data.grammar import Example, minimal_pairs, words
from nmt.data.lexicon import Lexicon
from nmt.errors import UserError
from nmt.evaluation.probes import Explain, Translate
from nmt.evaluation.probes.words import from_source_word
from nmt.evaluation.statistics import Interval, mean_interval, wilson

FRENCH = ("il", "elle")


@dataclass(frozen=True, slots=True)
class PronounPair:
    """Two sentences; places of *it* and of its antecedent in the first and in the second one.

    Places count in ``words(source)`` and are the same in both.
    """

    first: Example
    second: Example
    pronoun: int
    nouns: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PronounAccuracy:
    """How often the translation has the right one of *il* and *elle*.

    Attributes:
        accuracy: over sentences; always saying *il* gives one half.
        both: over pairs, of both sentences right; always saying *il* gives none.
        right, wrong, neither: sentences; ``neither`` has no *il* and no *elle*.
        outputs: the translations, two a pair.
    """

    accuracy: Interval
    both: Interval
    right: int
    wrong: int
    neither: int
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AntecedentAttention:
    """How much more *it* looks at a noun where it stands for it, by layer and head.

    Attributes:
        shifts: [layer][head][pair], the mean over the two nouns of the attention on a noun where it
            is the antecedent minus that where it is not; between -1 and 1.
        missing: why there is none; "" where there is.
    """

    shifts: tuple[tuple[tuple[float, ...], ...], ...]
    missing: str

    def best(self) -> tuple[int, int]:
        """The layer and head with the largest mean shift. Choose on one set, report on another.

        Raises:
            UserError: there is no attention to choose from.
        """
        if not self.shifts:
            raise UserError(f"no head looks at antecedents: {self.missing}")
        return max(
            (
                (layer, head)
                for layer, heads in enumerate(self.shifts)
                for head in range(len(heads))
            ),
            key=lambda place: sum(self.shifts[place[0]][place[1]]),
        )

    def at(self, layer: int, head: int) -> Interval:
        """The mean shift of one head over pairs, with its t interval."""
        return mean_interval(self.shifts[layer][head])


@dataclass(frozen=True, slots=True)
class Taught:
    """Sentences of a corpus in which meaning alone tells *il* from *elle*.

    Attributes:
        chosen: nouns of both genders are said before *it*, and it could be any of them by number.
        by_adjective: of these, an adjective follows within four words, as in the minimal pairs.
    """

    chosen: int
    by_adjective: int


def taught(
    sources: Sequence[str],
    antecedents: Sequence[Sequence[tuple[int, int]]],
    lexicon: Lexicon,
) -> Taught:
    """Counts what a corpus teaches of the question that the minimal pairs ask.

    Args:
        antecedents: of each source, (place of a pronoun, place of what it stands for) in ``words``.
    """
    genders: dict[str, set[str]] = {}
    for noun in lexicon.nouns.values():
        if noun.pronoun == "it":
            genders.setdefault(noun.english[0].lower(), set()).add(noun.gender)
    adjectives = {adjective.english.lower() for adjective in lexicon.adjectives.values()}
    chosen = by_adjective = 0
    for source, places in zip(sources, antecedents, strict=True):
        said = [word.lower() for word in words(source)]
        open_to_both = [
            it
            for it, _ in places
            if said[it] == "it" and len(set().union(*(genders.get(w, ()) for w in said[:it]))) > 1
        ]
        chosen += bool(open_to_both)
        by_adjective += any(adjectives & set(said[it + 1 : it + 5]) for it in open_to_both)
    return Taught(chosen, by_adjective)


def pronoun_pairs(lexicon: Lexicon, count: int, seed: int) -> list[PronounPair]:
    """Different minimal pairs; two seeds may share some, see `apart`."""
    return [_pair(one, two) for one, two in minimal_pairs(lexicon, "antecedent", count, seed)]


def apart(pairs: Sequence[PronounPair], dev: int) -> tuple[list[PronounPair], list[PronounPair]]:
    """The first ``dev`` pairs, and those of the others that share no sentence with them."""
    seen = {example.source for pair in pairs[:dev] for example in (pair.first, pair.second)}
    rest = [p for p in pairs[dev:] if not seen.intersection((p.first.source, p.second.source))]
    return list(pairs[:dev]), rest


def _pair(first: Example, second: Example) -> PronounPair:
    (pronoun, one), (same, other) = first.antecedents[-1], second.antecedents[-1]
    assert pronoun == same, "the pronoun moves between the sentences of a pair"
    return PronounPair(first, second, pronoun, (one, other))


def pronoun_accuracy(pairs: Sequence[PronounPair], translate: Translate) -> PronounAccuracy:
    """The pronouns of a system's translations.

    Raises:
        UserError: there are no pairs.
    """
    if not pairs:
        raise UserError("there are no pairs of sentences to translate")
    examples = [example for pair in pairs for example in (pair.first, pair.second)]
    outputs = list(translate([example.source for example in examples]))
    said = [_pronoun(output) for output in outputs]
    right = [a == _pronoun(e.target) for a, e in zip(said, examples, strict=True)]
    neither = said.count("")
    return PronounAccuracy(
        accuracy=wilson(sum(right), len(right)),
        both=wilson(sum(a and b for a, b in zip(*[iter(right)] * 2, strict=True)), len(pairs)),
        right=sum(right),
        wrong=len(right) - sum(right) - neither,
        neither=neither,
        outputs=tuple(outputs),
    )


def _pronoun(french: str) -> str:
    """The last *il* or *elle* of a sentence, since the pronoun's clause comes last; "" if none."""
    found = [word for word in map(str.lower, words(french)) if word in FRENCH]
    return found[-1] if found else ""


def antecedent_attention(pairs: Sequence[PronounPair], explain: Explain) -> AntecedentAttention:
    """Encoder self-attention from *it* on its antecedent, where it is one minus where it is not.

    Raises:
        UserError: there are no pairs.
    """
    if not pairs:
        raise UserError("there are no pairs of sentences to look at")
    examples = [example for pair in pairs for example in (pair.first, pair.second)]
    explained = explain([e.source for e in examples], [e.target for e in examples])
    looks = []
    for one, example, pair in zip(
        explained, examples, [p for p in pairs for _ in range(2)], strict=True
    ):
        if one.encoder is None:
            return AntecedentAttention((), one.missing.get("encoder", "no self-attention"))
        weights_LHWW = from_source_word(one.encoder, one, words(example.source))
        looks.append(weights_LHWW[:, :, pair.pronoun, list(pair.nouns)])
    shifts = []
    for first_LH2, second_LH2 in zip(looks[::2], looks[1::2], strict=True):
        shift_LH2 = first_LH2 - second_LH2
        shifts.append((shift_LH2[..., 0] - shift_LH2[..., 1]) / 2)
    layers, heads = shifts[0].shape
    return AntecedentAttention(
        tuple(
            tuple(tuple(float(s[layer, head]) for s in shifts) for head in range(heads))
            for layer in range(layers)
        ),
        "",
    )
