"""Which word a piece belongs to: sub-words and words matched by their characters.

Shapes: P pieces, W words.
"""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def membership(pieces: Sequence[str], words: Sequence[str]) -> Tensor:
    """Which word each piece belongs to (P, W), as shares of its characters; rows sum to one.

    Pieces and words are matched character by character, white space and case aside, so that any
    tokenizer goes with any notion of a word. A piece without characters of its own (a lone space, a
    continuing byte, an unknown) goes with a neighbour.
    """
    said = list(_characters(pieces))
    wanted = [(c, w) for w, word in enumerate(words) for c in _plain(word)]
    counts = [[0.0] * len(words) for _ in pieces]
    for a, b in _matches([c for c, _ in said], [c for c, _ in wanted]):
        counts[said[a][1]][wanted[b][1]] += 1
    shares_PW = torch.tensor(counts).reshape(len(pieces), len(words))
    at_home = (shares_PW.sum(1) > 0).tolist()

    def adopt(place: int, neighbour: int) -> None:
        if not at_home[place] and at_home[neighbour]:
            shares_PW[place], at_home[place] = shares_PW[neighbour], True

    backwards = range(len(pieces) - 2, -1, -1)
    for place in backwards:
        if pieces[place] == "▁":
            adopt(place, place + 1)
    for place in range(1, len(pieces)):
        adopt(place, place - 1)
    for place in backwards:
        adopt(place, place + 1)
    return shares_PW / shares_PW.sum(1, keepdim=True).clamp(min=1e-12)


def _matches(said: list[str], wanted: list[str]) -> Iterator[tuple[int, int]]:
    """Places of equal characters, in order; nearly always the two are the same text."""
    if said == wanted:
        yield from ((place, place) for place in range(len(said)))
        return
    matcher = difflib.SequenceMatcher(None, said, wanted, autojunk=False)
    for block in matcher.get_matching_blocks():
        yield from ((block.a + i, block.b + i) for i in range(block.size))


_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def _characters(pieces: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The characters of the pieces, each with its piece; bytes are put together to characters."""
    places = iter(range(len(pieces)))
    for is_byte, run in itertools.groupby(pieces, key=lambda p: _BYTE.fullmatch(p) is not None):
        group = list(run)
        numbers = [next(places) for _ in group]
        if not is_byte:
            for piece, number in zip(group, numbers, strict=True):
                yield from ((c, number) for c in _plain(piece.replace("▁", " ")))
            continue
        raw = bytes(int(piece[3:5], 16) for piece in group)
        place = 0
        for character in raw.decode("utf-8", "surrogateescape"):
            yield from ((c, numbers[place]) for c in _plain(character))
            place += len(character.encode("utf-8", "surrogateescape"))


def _plain(text: str) -> list[str]:
    return [c.lower() for c in unicodedata.normalize("NFC", text) if not c.isspace()]
