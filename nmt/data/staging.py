"""Between reading and writing: cleaned training text on disk, its hashes in memory.

Training text is read and filtered once. It waits in a file while duplicates, overlap and the split
are decided on 64-bit hashes, then it trains the tokenizer and is tokenised, chunk by chunk. A pair
takes 17 bytes of memory until duplicates are gone and 9 from then on.
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
import pyarrow as pa

from nmt.data.cleaning import (
    Funnel,
    Rejects,
    among,
    clean,
    drop_repeated,
    pair_hashes,
    split_by_hash,
    text_hash,
)
from nmt.data.corpus import Corpus
from nmt.data.mixture import with_tag
from nmt.data.store import Store, StoreWriter
from nmt.data.tokenizer import UNK, Tokenizer, Tokenizers
from nmt.errors import UserError

Texts = tuple[list[str], list[str]]
"""Sources and targets of some pairs."""

_CHUNK = 8_192  # pairs tokenised and written at a time
_MANY_UNKNOWN = 0.001  # a larger share of unknown tokens is worth a warning
_ROUND_TRIPS = 1_000  # training pairs on which the tokenizer is tried
_TOKENIZER_PAIRS = 200_000  # drawn at random; more cost minutes and change little


_SCHEMA = pa.schema(
    [("number", pa.int64()), ("source", pa.large_string()), ("target", pa.large_string())]
)


@dataclass(slots=True)
class Staged:
    """Training text that passed the pair filters."""

    path: Path
    """Arrow file, a record batch for some thousand pairs: row among all rows read, both texts."""
    sources: np.ndarray
    """uint64 hashes of the source texts."""
    read: list[int]
    """Rows read of each corpus."""
    passed: list[int]
    """Pairs of each corpus that passed; they lie one corpus after the other."""
    part: np.ndarray
    """0 stays in training, k is the k-th part split off, -1 is removed."""

    def remove_repeated(self, hashes: np.ndarray) -> int:
        """Keep the first pair of those with the same hash; the number of pairs removed."""
        keep = self.part == 0
        removed = drop_repeated(hashes, keep)
        self.part[~keep] = -1
        return removed

    def overlap(self, rows: Sequence[tuple[str, ...]], hashes: np.ndarray) -> dict[str, int]:
        """How many training pairs share the source, and both sides, with one of `rows`.

        `hashes` are those of the staged pairs.
        """
        targets = _hashes([row[1] for row in rows])
        shared = (self.part == 0) & among(self.sources, _source_hashes(rows))
        both = shared & among(hashes, pair_hashes(_source_hashes(rows), targets))
        return {"sources": int(shared.sum()), "pairs": int(both.sum())}

    def remove_overlap(self, rows: Sequence[tuple[str, ...]]) -> int:
        """Remove the training pairs whose source is in `rows`; how many they were."""
        shared = (self.part == 0) & among(self.sources, _source_hashes(rows))
        self.part[shared] = -1
        return int(shared.sum())

    def split_off(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Move pairs to new parts, numbered from 1 in the order of `sizes`; what each got."""
        self.part = split_by_hash(self.sources, self.part == 0, sizes)
        numbers = enumerate(sizes, 1)
        return {name: int(np.count_nonzero(self.part == number)) for number, name in numbers}

    def counts(self) -> list[dict[str, int]]:
        """Pairs read of each corpus, and pairs of it that stay in training."""
        parts = np.split(self.part, np.cumsum(self.passed)[:-1])
        kept = [int(np.count_nonzero(part == 0)) for part in parts]
        return [{"read": r, "kept": k} for r, k in zip(self.read, kept, strict=True)]

    def numbered(self, part: int) -> Iterator[tuple[int, str, str]]:
        """Row among all rows read, source and target of each pair of one part, in order."""
        for chunk in self._batches(self.part == part):
            yield from zip(*(column.to_pylist() for column in chunk.columns), strict=True)

    def chunks(self, part: int, some: np.ndarray | None = None) -> Iterator[Texts]:
        """The texts of one part in the order of the corpus, all or where the mask `some` is set."""
        wanted = self.part == part
        if some is not None:
            wanted &= some
        for chunk in self._batches(wanted):
            yield chunk["source"].to_pylist(), chunk["target"].to_pylist()

    def _batches(self, wanted: np.ndarray) -> Iterator[pa.RecordBatch]:
        """Rows where the mask is set, read (not mapped) one record batch after the other."""
        start = 0
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                stop = start + batch.num_rows
                yield batch.filter(pa.array(wanted[start:stop]))
                start = stop


def stage(
    path: Path,
    corpora: Iterable[tuple[Corpus, str]],
    filters: Mapping[str, Rejects],
    funnel: Funnel,
    notes: Counter[str],
    *,
    drop_invalid: bool,
) -> tuple[Staged, np.ndarray]:
    """Read corpora, each with the tag of its sources; what passes the filters goes to `path`.

    Returns:
        It, and the uint64 hashes of its pairs, which nobody needs once duplicates and overlap
        are known.
    """
    sources, pairs = array("Q"), array("Q")
    read, passed = [], []
    with pa.ipc.new_file(str(path), _SCHEMA) as writer:
        for corpus, tag in corpora:
            read_before, passed_before = funnel.read, len(sources)
            kept = clean(corpus.rows(notes, drop_invalid=drop_invalid), filters, funnel)
            while chunk := list(islice(kept, _CHUNK)):
                numbers, source_texts, target_texts = zip(*chunk, strict=True)
                source_hashes = _hashes(source_texts)
                sources.frombytes(source_hashes.tobytes())
                pairs.frombytes(pair_hashes(source_hashes, _hashes(target_texts)).tobytes())
                tagged = [with_tag(text, tag) for text in source_texts]
                columns = [numbers, tagged, target_texts]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
            read.append(funnel.read - read_before)
            passed.append(len(sources) - passed_before)
    part = np.zeros(len(sources), np.int8)
    staged = Staged(path, np.frombuffer(sources, np.uint64), read, passed, part)
    return staged, np.frombuffer(pairs, np.uint64)


def _hashes(texts: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(text_hash, texts), np.uint64, len(texts))


def _source_hashes(rows: Sequence[tuple[str, ...]]) -> np.ndarray:
    return _hashes([row[0] for row in rows])


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
    source, target = _Tally(tokenizers.source), _Tally(tokenizers.target)
    pairs = 0
    with StoreWriter(path, max(tokenizers.source.size, tokenizers.target.size)) as writer:
        for sources, targets in chunks:
            writer.append(source.encode(sources), target.encode(targets), sources, targets)
            pairs += len(sources)
    return {"pairs": pairs, "source": source.numbers(pairs), "target": target.numbers(pairs)}


class _Tally:
    """Encodes one side of a split and counts its tokens on the way."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._counts = np.zeros(tokenizer.size, np.int64)
        self._longest = 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        rows = self._tokenizer.encode(texts)
        flat = np.fromiter(chain.from_iterable(rows), np.int64)
        self._counts += np.bincount(flat, minlength=len(self._counts))
        self._longest = max(self._longest, max(map(len, rows), default=0))
        return rows

    def numbers(self, rows: int) -> dict[str, float]:
        """For the manifest: shares are of all tokens."""
        tokens = int(self._counts.sum())
        return {
            "tokens": tokens,
            "mean_length": round(tokens / max(rows, 1), 2),
            "longest": self._longest,
            "unknown_share": float(self._counts[UNK] / max(tokens, 1)),
            "byte_share": float(self._counts[self._tokenizer.byte_ids()].sum() / max(tokens, 1)),
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
