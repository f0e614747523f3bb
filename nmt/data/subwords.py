"""Segmentations drawn at random, by a generator that is the same in every process.

SentencePiece can draw too, but since 0.2.1 its generator is salted anew in every process: the same
seed gave another segmentation after a restart, and another on every rank. Here SentencePiece finds
the best segmentation, and its stretches of ordinary pieces (a word each, where words are written
apart) are segmented anew: exactly, since no piece reaches over a word's end.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from random import Random

Draw = Callable[[Random], list[int]]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces in a SentencePiece model (sentencepiece_model.proto)."""

_SPACE = "▁"
_CACHED = 32
"""Ids of a stretch whose distribution is kept; longer ones are rarely met twice."""
_LARGEST_CACHE = 200_000


Piece = tuple[str, float, int]
"""Text, score (unigram: log-probability; BPE: the higher, the earlier merged) and type."""


def read_pieces(proto: bytes) -> tuple[list[Piece], bool]:
    """The pieces of a SentencePiece model by id, and whether it merges (BPE)."""
    pieces, bpe = [], False
    for number, value in _fields(proto):
        if number == 1 and isinstance(value, bytes):  # ModelProto.pieces
            parts = dict(_fields(value))
            text, score, kind = parts.get(1, b""), parts.get(2, bytes(4)), parts.get(3, NORMAL)
            assert isinstance(text, bytes)
            assert isinstance(score, bytes)
            assert isinstance(kind, int)
            pieces.append((text.decode(), float(struct.unpack("<f", score)[0]), kind))
        elif number == 2 and isinstance(value, bytes):  # ModelProto.trainer_spec.model_type
            bpe = dict(_fields(value)).get(3) == 2
    return pieces, bpe


def add_symbols(proto: bytes, symbols: Sequence[str]) -> bytes:
    """A SentencePiece model with further user-defined symbols, those it does not have yet.

    They get the ids behind all others, so that what was encoded before stays right. A field that
    may repeat may stand anywhere in a protocol buffer: the new pieces go to the end.
    """
    known = {text for text, _, _ in read_pieces(proto)[0]}
    for symbol in dict.fromkeys(symbols):
        text = symbol.replace(" ", _SPACE).encode()
        if text.decode() not in known:
            body = b"\x0a" + _varint(len(text)) + text  # piece
            body += b"\x15" + bytes(4) + b"\x18" + bytes([USER_DEFINED])  # score 0, type
            proto += b"\x0a" + _varint(len(body)) + body
    return proto


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol buffer; 4 and 8 byte numbers as bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield key >> 3, data[place : place + size]
        place += size


class SubwordSampler:
    """Draws segmentations; what is known of a word is kept between calls.

    Args:
        proto: a SentencePiece model.
    """

    def __init__(self, proto: bytes) -> None:
        pieces, self._bpe = read_pieces(proto)
        self._texts = [text for text, _, _ in pieces]
        self._fixed = [kind != NORMAL for _, _, kind in pieces]
        self._begins = [text.startswith(_SPACE) for text in self._texts]
        normal = [(i, p) for i, p in enumerate(pieces) if p[2] == NORMAL]
        self._known = {text: (i, score) for i, (text, score, _) in normal}
        self._longest = max((len(text) for text in self._known), default=1)
        self._cache: dict[tuple[float, tuple[int, ...]], Draw] = {}

    def draw(self, best: Sequence[int], *, alpha: float, random: Random) -> list[int]:
        """Another segmentation of the text whose best one is given.

        Unigram: drawn from P(x)^alpha, normalised over all segmentations x (Kudo 2018, Eq. 9 with
        l = infinity; 0 is uniform). BPE: merges are left out with probability alpha (Provilkov et
        al. 2020, Algorithm 1). Unknown characters, bytes and the user's symbols stay.
        """
        drawn: list[int] = []
        for stretch in self._stretches(best):
            if len(stretch) == 1 and self._fixed[stretch[0]]:
                drawn.append(stretch[0])
            else:
                drawn += self._distribution(tuple(stretch), alpha)(random)
        return drawn

    def _stretches(self, ids: Sequence[int]) -> Iterator[Sequence[int]]:
        start = 0
        for place, i in enumerate(ids):
            if self._fixed[i] or self._begins[i]:
                if place > start:
                    yield ids[start:place]
                start = place
            if self._fixed[i]:
                yield ids[place : place + 1]
                start = place + 1
        if start < len(ids):
            yield ids[start:]

    def _distribution(self, ids: tuple[int, ...], alpha: float) -> Draw:
        found = self._cache.get((alpha, ids))
        if found is None:
            text = "".join(self._texts[i] for i in ids)
            if not self._bpe:
                found = self._lattice(text, alpha)
            elif self._known.keys() >= set(text):
                found = self._merging(text, alpha)
            else:  # no vocabulary that nmt made: characters that are no pieces
                found = lambda random: list(ids)  # noqa: E731
            if len(ids) <= _CACHED and len(self._cache) < _LARGEST_CACHE:
                self._cache[alpha, ids] = found
        return found

    def _lattice(self, text: str, alpha: float) -> Draw:
        """Forward filtering once, backward sampling at each call."""
        total = [0.0]  # log of the summed weight of all segmentations of text[:end]
        ways: list[tuple[list[float], list[tuple[int, int]]]] = [([], [])]
        for end in range(1, len(text) + 1):
            arcs, logs = [], []
            for start in range(max(0, end - self._longest), end):
                piece = self._known.get(text[start:end])
                if piece is not None and total[start] > -math.inf:
                    arcs.append((start, piece[0]))
                    logs.append(total[start] + alpha * piece[1])
            top = max(logs, default=-math.inf)
            sums, mass = [], 0.0
            for log in logs:
                mass += math.exp(log - top)
                sums.append(mass)
            total.append(top + math.log(mass) if sums else -math.inf)
            ways.append((sums, arcs))

        def draw(random: Random) -> list[int]:
            ids, end = [], len(text)
            while end:
                sums, arcs = ways[end]
                place = 0
                if len(arcs) > 1:
                    place = min(bisect(sums, random.random() * sums[-1]), len(arcs) - 1)
                end, piece = arcs[place]
                ids.append(piece)
            return ids[::-1]

        return draw

    def _merging(self, text: str, alpha: float) -> Draw:
        known = self._known

        def draw(random: Random) -> list[int]:
            parts = list(text)
            while True:
                merges = [
                    (-known[pair][1], place)
                    for place, pair in enumerate(map(str.__add__, parts, parts[1:]))
                    if pair in known and random.random() >= alpha
                ]
                if not merges:
                    return [known[part][0] for part in parts]
                place = min(merges)[1]
                parts[place : place + 2] = [parts[place] + parts[place + 1]]

        return draw
