"""Word alignments of training pairs: read once, kept in step, and turned into links of tokens.

Links are counted from 0, (source word, target word), in the direction of training. Shapes: P pieces
of a sentence, W its words, K links, S and T source and target pieces.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from nmt.data.corpus import read_lines
from nmt.data.store import Ragged, Store
from nmt.data.tokenizer import UNK, Tokenizer, Tokenizers
from nmt.errors import UserError

_SPACE_BYTES = (0xC2, 0xE1, 0xE2, 0xE3)  # first bytes of the white space beyond ASCII, among others
_UNKNOWN = -(2**40)  # characters: any number of such pieces never has as many as the words
_LINK = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class WordLinks:
    """Which words of each training pair translate each other."""

    pairs: Ragged
    """Row i holds the links of pair i, [K, 2]: source word, target word."""
    words: Callable[[str], list[str]]
    """The words of a text in which the links count."""


def ragged_links(rows: Iterable[Sequence[Sequence[int]]]) -> Ragged:
    """Links of many pairs after each other."""
    values, counts = array("i"), array("i")
    for links in rows:
        counts.append(len(links))
        values.extend(place for link in links for place in link)
    lengths = np.frombuffer(counts, np.int32) if counts else np.empty(0, np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    flat = np.frombuffer(values, np.int32) if values else np.empty(0, np.int32)
    return Ragged(flat.reshape(-1, 2), offsets, lengths)


# --- Pharaoh files -------------------------------------------------------------------------------


def keep_alignments(
    folder: Path,
    file: Path,
    kept: Iterable[tuple[int, str, str]],
    *,
    rows: int,
    reverse: bool,
    tag: str,
) -> None:
    """Write the alignments of the pairs that are left of a corpus.

    Args:
        folder: where they go, in the form of `open_alignments`.
        file: a line ``0-0 1-2`` for each pair of the corpus, plain or .gz; empty lines are fine.
        kept: number, source and target of each pair that is left, in the order of the corpus.
        rows: pairs of the corpus before any was removed.
        reverse: the corpus is trained on from target to source, so links are turned around.
        tag: what was put before each source; its words shift those of the links.

    Raises:
        UserError: another number of lines, something that is no link, a word that is not there.
    """
    lines = sum(1 for _ in read_lines(file, Counter()))
    if lines != rows:
        raise UserError(
            f"data.alignments: {file} has {lines:,} lines, but the training corpus has {rows:,} "
            "pairs: it needs a line for each, empty where nothing is aligned"
        )
    links = ragged_links(_kept_links(file, iter(kept), reverse, len(tag.split())))
    folder.mkdir()
    np.save(folder / "links.npy", links.values)
    np.save(folder / "offsets.npy", links.offsets)


def open_alignments(folder: Path) -> WordLinks:
    """Memory-map what `keep_alignments` wrote; its words are what stands between spaces.

    Raises:
        UserError: missing or damaged.
    """
    try:
        values = np.load(folder / "links.npy", mmap_mode="r")
        offsets = np.load(folder / "offsets.npy", mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read prepared data {folder}: {error}; prepare again") from None
    return WordLinks(Ragged(values, offsets, np.diff(offsets).astype(np.int32)), str.split)


def _kept_links(
    file: Path, kept: Iterator[tuple[int, str, str]], reverse: bool, shift: int
) -> Iterator[list[tuple[int, int]]]:
    awaited = next(kept, None)
    for number, line in enumerate(read_lines(file, Counter())):
        links = [_parsed(word, file, number) for word in (line or "").split()]
        if awaited is None or awaited[0] != number:
            continue  # this pair was removed, or went to another split
        sizes = [len(awaited[1].split()) - shift, len(awaited[2].split())]
        sizes = sizes[::-1] if reverse else sizes
        for link in links:
            if link[0] >= sizes[0] or link[1] >= sizes[1]:
                raise UserError(
                    f"{file}, line {number + 1}: the link {link[0]}-{link[1]} is outside the "
                    f"sentences, which have {sizes[0]} and {sizes[1]} words (they are counted "
                    "from 0 and stand between spaces)"
                )
        turned = [link[::-1] for link in links] if reverse else links
        yield [(i + shift, j) for i, j in turned]
        awaited = next(kept, None)


def _parsed(word: str, file: Path, number: int) -> tuple[int, int]:
    match = _LINK.fullmatch(word)
    if match is None:
        raise UserError(
            f"{file}, line {number + 1}: {word!r} is no link; a line looks like 0-0 1-2 "
            "(source word, target word, counted from 0)"
        )
    return int(match[1]), int(match[2])


# --- links of tokens -----------------------------------------------------------------------------


class TokenLinks:
    """Links of tokens for any segmentation of training pairs.

    All pieces of a word are linked with all pieces of the words that it is linked with.
    """

    def __init__(self, links: WordLinks, texts: Store, tokenizers: Tokenizers) -> None:
        self._links = links
        self._texts = texts
        self._source = _Pieces(tokenizers.source)
        self._target = self._source if tokenizers.joint else _Pieces(tokenizers.target)

    def __call__(self, pair: int, source_ids: np.ndarray, target_ids: np.ndarray) -> np.ndarray:
        """A boolean matrix [T, S] for the training pair with this number, cut into these ids."""
        words, texts = self._links.words, self._texts
        source = self._source.of_words(source_ids.tolist(), words(texts.source_text(pair)))
        target = self._target.of_words(target_ids.tolist(), words(texts.target_text(pair)))
        width = len(source_ids)
        linked = np.zeros((len(target_ids), width), dtype=bool)
        places = [
            t * width + s
            for i, j in self._links.pairs[pair].tolist()
            for t in target[j]
            for s in source[i]
        ]
        linked.ravel()[places] = True
        return linked


class _Pieces:
    """The pieces of a vocabulary, and how many characters each stands for (spaces aside)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        pieces = tokenizer.pieces(range(tokenizer.size))
        self._sizes = [sum(not c.isspace() for c in p.replace("▁", " ")) for p in pieces]
        self._space = pieces.index("▁") if "▁" in pieces else None
        for byte, number in enumerate(tokenizer.byte_ids()):
            continues = 0x80 <= byte < 0xC0
            self._sizes[number] = int(not continues and not chr(byte).isspace())
            if byte in _SPACE_BYTES:
                self._sizes[number] = _UNKNOWN
        self._sizes[UNK] = _UNKNOWN

    def of_words(self, ids: Sequence[int], words: Sequence[str]) -> list[list[int]]:
        """The numbers of the pieces that have characters of each word.

        A piece lies from one character to another and so does a word. Where that cannot be told
        (unknown tokens, bytes that may spell a space, words that part what is one character in the
        text) characters are compared.
        """
        ends = list(accumulate(len(unicodedata.normalize("NFC", word)) for word in words))
        if not words or sum(self._sizes[i] for i in ids) != ends[-1]:
            from nmt.data.words import membership  # late: it needs torch, preparing does not

            owned_PW = membership(self._tokenizer.pieces(ids), words) > 0
            return [column_P.nonzero().flatten().tolist() for column_P in owned_PW.T]
        spans: list[range | None] = []  # the words of each piece
        at = word = 0
        for i in ids:
            start, at = at, at + self._sizes[i]
            if start == at:
                spans.append(None)
                continue
            while ends[word] <= start:
                word += 1
            last = word
            while ends[last] < at:
                last += 1
            spans.append(range(word, last + 1))
        self._adopt(spans, ids)
        pieces: list[list[int]] = [[] for _ in words]
        for number, span in enumerate(spans):
            for word in span or ():
                pieces[word].append(number)
        return pieces

    def _adopt(self, spans: list[range | None], ids: Sequence[int]) -> None:
        """A lone space goes with the piece after it, any other empty piece with the one before.

        In the order in which `words.membership` does it.
        """
        backwards = range(len(spans) - 2, -1, -1)
        for place in backwards:
            if ids[place] == self._space and spans[place] is None:
                spans[place] = spans[place + 1]
        for place in range(1, len(spans)):
            if spans[place] is None:
                spans[place] = spans[place - 1]
        for place in backwards:
            if spans[place] is None:
                spans[place] = spans[place + 1]
