"""Sentence pairs that are given to be aligned, and gold alignments of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nmt import compose
from nmt.commands.files import read_file
from nmt.data.grammar import words as grammar_words
from nmt.data.prepare import prepare
from nmt.decoding.align import Explained, Gold, load_bitext, load_gold
from nmt.decoding.translate import Translation
from nmt.errors import UserError
from nmt.translator import Translator


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair with its words as its alignment counts them, its attention, and its gold links."""

    number: int
    source: str
    target: str
    words: tuple[list[str], list[str]]
    explained: Explained
    gold: Gold | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Sentence pairs, how their words are counted, and the gold links where there are some.

    ``name`` is what people read, ``first`` the number of the first pair in its file;
    ``translations`` are there where the targets are the model's own.
    """

    name: str
    sources: list[str]
    targets: list[str]
    segment: Callable[[str], list[str]] = str.split
    gold: list[Gold] | None = None
    translations: list[Translation] | None = None
    first: int = 1

    def part(self, start: int, stop: int | None, name: str) -> Pairs:
        """Some of the pairs under a name of their own."""
        places = slice(start, stop)
        return replace(
            self,
            name=name,
            sources=self.sources[places],
            targets=self.targets[places],
            gold=None if self.gold is None else self.gold[places],
            translations=None if self.translations is None else self.translations[places],
            first=self.first + start,
        )

    def words(self) -> list[tuple[list[str], list[str]]]:
        pairs = zip(self.sources, self.targets, strict=True)
        return [(self.segment(source), self.segment(target)) for source, target in pairs]

    def explained(self, translator: Translator) -> Iterator[Explained]:
        """The attention of each pair, read off by forced decoding."""
        if self.translations is not None:
            return translator.explain(self.translations)
        return translator.explain_pairs(self.sources, self.targets)

    def each(self, translator: Translator) -> Iterator[Pair]:
        gold: Sequence[Gold | None] = self.gold or [None] * len(self.sources)
        columns = (self.sources, self.targets, self.words(), self.explained(translator), gold)
        for number, row in enumerate(zip(*columns, strict=True), self.first):
            yield Pair(number, *row)


def check_inputs(own: dict[str, str]) -> None:
    """Refuse what does not go together, before anything is loaded.

    Raises:
        UserError: not exactly one kind of input, or half of one.
    """
    kinds = [key for key in ("text", "bitext", "split") if key in own]
    sides = [key for key in ("source", "target") if key in own]
    if len(kinds) + bool(sides) != 1:
        raise UserError(
            "nmt align needs one of text=SENTENCE, source=FILE and target=FILE, bitext=FILE, "
            "split=NAME"
        )
    if len(sides) == 1:
        raise UserError("source=FILE and target=FILE go together: the target is what is explained")
    if "gold" in own and kinds not in ([], ["bitext"]):
        raise UserError("gold=FILE goes with bitext=FILE, or with source=FILE and target=FILE")


def given_pairs(own: dict[str, str], translator: Translator) -> Pairs:
    """The pairs that were named on the command line; see `check_inputs`.

    Raises:
        UserError: a file that cannot be read, or files that do not go together.
    """
    if "text" in own:
        translations = translator.translate([own["text"].replace("\n", " ")])
        sources, targets = [t.source for t in translations], [t.text for t in translations]
        return Pairs(name="text=", sources=sources, targets=targets, translations=translations)
    if "split" in own:
        return embedded_pairs(own["split"], translator, own)
    if "bitext" in own:
        with _reading(own["bitext"]):
            pairs = load_bitext(Path(own["bitext"]))
        sources, targets = [s for s, _ in pairs], [t for _, t in pairs]
        name = Path(own["bitext"]).name
    else:
        sources, targets = read_file(own["source"]), read_file(own["target"])
        name = f"{Path(own['source']).name} and {Path(own['target']).name}"
        if len(sources) != len(targets):
            raise UserError(
                f"{own['source']} has {len(sources)} lines, but {own['target']} {len(targets)}"
            )
    found = Pairs(name=name, sources=sources, targets=targets)
    return _with_gold(found, own["gold"]) if "gold" in own else found


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"cannot read {path}: {reason}") from error


def _with_gold(pairs: Pairs, path: str) -> Pairs:
    with _reading(path):
        gold = load_gold(Path(path))
    if len(gold) != len(pairs.sources):
        raise UserError(f"{path} has {len(gold)} lines for {len(pairs.sources)} sentence pairs")
    for number, (one, (source, target)) in enumerate(zip(gold, pairs.words(), strict=True), 1):
        for i, j in sorted(one.possible):
            if i >= len(source) or j >= len(target):
                raise UserError(
                    f"{path}, line {number}: link {i + 1}-{j + 1} lies outside a pair of "
                    f"{len(source)} and {len(target)} words (links are source-target, from 1)"
                )
    return replace(pairs, gold=gold)


def embedded_pairs(split: str, translator: Translator, own: dict[str, str]) -> Pairs:
    """A split of the run's own data with the gold alignment that the embedded corpus has.

    Raises:
        UserError: there is no such split, no gold, or the corpus has changed since the training.
    """
    opened = translator.run
    folders = {key: value for key, value in own.items() if key.startswith("data.")}
    config = compose.with_values(opened.config, folders)
    prepared = prepare(config.data, config.tokenizer, report=lambda text: None)
    corpus = config.data.name
    if prepared.tokenizers.hash != opened.tokenizers.hash:
        raise UserError(
            f"{opened.path} was trained with another vocabulary than {corpus} gives now: the "
            "corpus has changed since; restore it, or give files with source= target= gold="
        )
    facts = prepared.gold(split)
    if facts is None:
        raise UserError(
            f"{split} of {corpus} has no gold alignments, only the embedded corpus has: give "
            "source=FILE and target=FILE (and gold=FILE to score)"
        )
    found = [frozenset((int(i), int(j)) for i, j in one["alignment"]) for one in facts]
    return Pairs(
        name=f"{split} of {corpus}",
        sources=prepared.sources(split),
        targets=prepared.references(split)[0],
        segment=grammar_words,
        gold=[Gold(one, one) for one in found],
    )
