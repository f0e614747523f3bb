"""Between reading and writing: cleaned training text on disk, its hashes in memory.

Training text is read and filtered once. It waits in a store without ids while duplicates, overlap
and the split are decided on 64-bit hashes (32 bytes a pair in memory), then it trains the
tokenizer and is tokenised, chunk by chunk.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from nmt.data.cleaning import (
    Funnel,
    Rejects,
    clean,
    drop_repeated,
    pair_hashes,
    split_by_hash,
    text_hash,
)
from nmt.data.corpus import Corpus
from nmt.data.mixture import with_tag
from nmt.data.store import Ragged, Store, StoreWriter, open_store
from nmt.data.tokenizer import UNK, Tokenizer, Tokenizers
from nmt.errors import UserError

Texts = tuple[list[str], list[str]]
"""Sources and targets of some pairs."""

_CHUNK = 8_192  # pairs tokenised and written at a time
_MANY_UNKNOWN = 0.001  # a larger share of unknown tokens is worth a warning
_ROUND_TRIPS = 1_000  # training pairs on which the tokenizer is tried
_TOKENIZER_PAIRS = 200_000  # drawn at random; more cost minutes and change little


@dataclass(slots=True)
class Staged:
    """Training text that passed the pair filters."""

    texts: Store
    numbers: np.ndarray
    """Row of each pair among all rows read."""
    sources: np.ndarray
    """uint64 hashes of the source texts."""
    pairs: np.ndarray
    """uint64 hashes of both sides."""
    read: list[int]
    """Rows read of each corpus."""
    part: np.ndarray
    """0 stays in training, k is the k-th part split off, -1 is removed."""

    def remove_repeated(self, hashes: np.ndarray) -> int:
        """Keep the first pair of those with the same hash; the number of pairs removed."""
        keep = self.part == 0
        removed = drop_repeated(hashes, keep)
        self.part[~keep] = -1
        return removed

    def overlap(self, rows: Sequence[tuple[str, ...]]) -> dict[str, int]:
        """How many training pairs share the source, and both sides, with one of `rows`."""
        targets = np.fromiter((text_hash(row[1]) for row in rows), np.uint64, len(rows))
        pairs = pair_hashes(_source_hashes(rows), targets)
        shared = (self.part == 0) & np.isin(self.sources, _source_hashes(rows))
        both = shared & np.isin(self.pairs, pairs)
        return {"sources": int(shared.sum()), "pairs": int(both.sum())}

    def remove_overlap(self, rows: Sequence[tuple[str, ...]]) -> int:
        """Remove the training pairs whose source is in `rows`; how many they were."""
        shared = (self.part == 0) & np.isin(self.sources, _source_hashes(rows))
        self.part[shared] = -1
        return int(shared.sum())

    def split_off(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Move pairs to new parts, numbered from 1 in the order of `sizes`; what each got."""
        self.part = split_by_hash(self.sources, self.part == 0, sizes)
        numbers = enumerate(sizes, 1)
        return {name: int(np.count_nonzero(self.part == number)) for number, name in numbers}

    def counts(self) -> list[dict[str, int]]:
        """Pairs read of each corpus, and pairs that stay in training, where they lie in a row."""
        ends = np.searchsorted(self.numbers[self.part == 0], np.cumsum(self.read))
        kept = np.diff(ends, prepend=0).tolist()
        return [{"read": r, "kept": k} for r, k in zip(self.read, kept, strict=True)]

    def numbered(self, part: int) -> Iterator[tuple[int, str, str]]:
        """Row among all rows read, source and target of each pair of one part, in order."""
        rows = iter(self.numbers[self.part == part].tolist())
        for texts in self.chunks(part):
            yield from zip(islice(rows, len(texts[0])), *texts, strict=True)

    def chunks(self, part: int, some: np.ndarray | None = None) -> Iterator[Texts]:
        """The texts of one part in the order of the corpus, all or where the mask `some` is set."""
        wanted = self.part == part
        if some is not None:
            wanted &= some
        for start in range(0, len(self.texts), _CHUNK):
            chosen = np.flatnonzero(wanted[start : start + _CHUNK]).tolist()
            sources = self.texts.source_texts(start, start + _CHUNK)
            targets = self.texts.target_texts(start, start + _CHUNK)
            yield [sources[i] for i in chosen], [targets[i] for i in chosen]


def stage(
    path: Path,
    corpora: Iterable[tuple[Corpus, str]],
    filters: Mapping[str, Rejects],
    funnel: Funnel,
    notes: Counter[str],
    *,
    drop_invalid: bool,
) -> Staged:
    """Read corpora, each with the tag of its sources; what passes the filters goes to `path`."""
    numbers, sources, targets = array("q"), array("Q"), array("Q")
    read = []
    with StoreWriter(path) as writer:
        for corpus, tag in corpora:
            before = funnel.read
            rows = corpus.rows(notes, drop_invalid=drop_invalid)
            passed = clean(rows, filters, funnel)
            while chunk := list(islice(passed, _CHUNK)):
                numbers.extend(number for number, _, _ in chunk)
                sources.extend(text_hash(source) for _, source, _ in chunk)
                targets.extend(text_hash(target) for _, _, target in chunk)
                nothing: list[list[int]] = [[]] * len(chunk)
                tagged = [with_tag(source, tag) for _, source, _ in chunk]
                writer.append(nothing, nothing, tagged, [target for _, _, target in chunk])
            read.append(funnel.read - before)
    source_hashes = np.frombuffer(sources, np.uint64)
    return Staged(
        open_store(path),
        np.frombuffer(numbers, np.int64),
        source_hashes,
        pair_hashes(source_hashes, np.frombuffer(targets, np.uint64)),
        read,
        np.zeros(len(numbers), np.int8),
    )


def _source_hashes(rows: Sequence[tuple[str, ...]]) -> np.ndarray:
    return np.fromiter((text_hash(row[0]) for row in rows), np.uint64, len(rows))


def in_chunks(rows: Sequence[tuple[str, ...]], tags: Sequence[str]) -> Iterator[Texts]:
    """Rows in memory, each with its tag, in the form of `Staged.chunks`."""
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        tagged = zip(chunk, tags[start : start + _CHUNK], strict=True)
        yield [with_tag(row[0], tag) for row, tag in tagged], [row[1] for row in chunk]


def train_tokenizers(
    staged: Staged,
    *,
    joint: bool,
    model_type: str,
    vocab_size: int,
    character_coverage: float,
    byte_fallback: bool,
    user_symbols: Sequence[str],
) -> Tokenizers:
    """Train on the training part, on 200,000 pairs drawn from it if there are more."""
    train = np.flatnonzero(staged.part == 0)
    some = None
    if len(train) > _TOKENIZER_PAIRS:
        some = np.zeros(len(staged.part), bool)
        some[np.random.default_rng(0).choice(train, _TOKENIZER_PAIRS, replace=False)] = True

    def trained(texts: Iterator[str], what: str) -> Tokenizer:
        try:
            return Tokenizer.train(
                texts,
                model_type=model_type,
                vocab_size=vocab_size,
                character_coverage=character_coverage,
                byte_fallback=byte_fallback,
                user_symbols=user_symbols,
            )
        except UserError as error:
            raise UserError(f"{what}: {error}") from None

    if joint:
        both = (text for texts in staged.chunks(0, some) for text in chain(*texts))
        tokenizer = trained(both, "tokenizer")
        return Tokenizers(tokenizer, tokenizer)
    sources = (text for texts in staged.chunks(0, some) for text in texts[0])
    targets = (text for texts in staged.chunks(0, some) for text in texts[1])
    return Tokenizers(
        trained(sources, "tokenizer of the source"), trained(targets, "tokenizer of the target")
    )


def write_split(path: Path, chunks: Iterable[Texts], tokenizers: Tokenizers) -> dict[str, Any]:
    """Tokenise one split into a store; its numbers for the manifest."""
    with StoreWriter(path, max(tokenizers.source.size, tokenizers.target.size)) as writer:
        for sources, targets in chunks:
            writer.append(
                tokenizers.source.encode(sources),
                tokenizers.target.encode(targets),
                sources,
                targets,
            )
    store = open_store(path)
    return {
        "pairs": len(store),
        "source": _numbers(store.source, tokenizers.source),
        "target": _numbers(store.target, tokenizers.target),
    }


def _numbers(side: Ragged, tokenizer: Tokenizer) -> dict[str, float]:
    counts = np.zeros(tokenizer.size, np.int64)
    for start in range(0, len(side.values), 2**24):
        counts += np.bincount(side.values[start : start + 2**24], minlength=tokenizer.size)
    tokens = int(counts.sum())
    return {
        "tokens": tokens,
        "mean_length": round(tokens / max(len(side), 1), 2),
        "longest": int(side.lengths.max(initial=0)),
        "unknown_share": float(counts[UNK] / max(tokens, 1)),
        "byte_share": float(counts[tokenizer.byte_ids()].sum() / max(tokens, 1)),
    }


def warnings(splits: Mapping[str, Any], train: Store, tokenizers: Tokenizers) -> Iterator[str]:
    """What the vocabulary cannot write: unknown tokens, and texts that do not come back.

    Spaces and the composition of characters (NFC) do not count.
    """
    for name, numbers in splits.items():
        for side in ("source", "target"):
            unknown = numbers[side]["unknown_share"]
            if unknown > _MANY_UNKNOWN:
                yield (
                    f"{unknown:.2%} of the {side} tokens of {name} are unknown; "
                    "tokenizer.byte_fallback=true spells them"
                )
    rows = np.linspace(0, len(train) - 1, min(len(train), _ROUND_TRIPS)).astype(int).tolist()
    for side, tokenizer, text_of in (
        ("source", tokenizers.source, train.source_text),
        ("target", tokenizers.target, train.target_text),
    ):
        texts = [text_of(row) for row in rows]
        back = map(tokenizer.decode, tokenizer.encode(texts))
        changed = [text for text, b in zip(texts, back, strict=True) if _plain(text) != _plain(b)]
        if changed:
            yield (
                f"{len(changed)} of {len(texts)} {side} texts do not come back from the tokenizer "
                f"as they were, for example {changed[0][:80]!r}"
            )


def _plain(text: str) -> str:
    return " ".join(word for word in unicodedata.normalize("NFC", text).split(" ") if word)
