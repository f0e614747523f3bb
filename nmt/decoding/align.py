"""From attention to word alignment, and how far that is from a gold alignment.

Attention is read off by forced decoding: the model is given source and target and says, for every
target token, what it looked at. Row t of a matrix is the row that *predicts* target token t, having
read the tokens before it; it is what Bahdanau et al. (2015) draw. A Transformer's row may say more
about the token it has just *read* (the next row); `View.row` chooses, best on held-out data.

Shapes: L layers, H heads, S source tokens (end included), T target tokens (end included), P pieces,
W words. Links are pairs (source word, target word), counted from 0 as in the Pharaoh format.
"""

from __future__ import annotations

import difflib
import gzip
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nmt.data.tokenizer import Tokenizers
from nmt.decoding.translate import Ids, batch_of, batches, check_known, inference
from nmt.errors import UserError
from nmt.models.seq2seq import Seq2Seq, Source

Link = tuple[int, int]
Rule = Literal["target", "source", "intersection", "union"]
END = "</s>"
WINDOW = 512
"""Pairs that are sorted by length together and held at once."""


@dataclass(frozen=True, slots=True)
class Explained:
    """The attention of one pair, by layer and head; None where there is none, and why.

    Both token lists end in ``</s>``. ``cross`` is (L, H, T, S), ``encoder`` (L, H, S, S) and
    ``decoder`` (L, H, T, T), where row and column t of ``decoder`` stand for the token *read*: the
    start token, then the target without its end.
    """

    source: list[str]
    target: list[str]
    encoder: Tensor | None
    decoder: Tensor | None
    cross: Tensor | None
    missing: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for JSON, weights rounded to four digits."""
        weights = {"encoder": self.encoder, "decoder": self.decoder, "cross": self.cross}
        return {"source": self.source, "target": self.target, "missing": self.missing} | {
            name: None if w is None else torch.round(w.double(), decimals=4).tolist()
            for name, w in weights.items()
        }


@dataclass(frozen=True, slots=True)
class View:
    """Which attention aligns: a layer and a head, or their mean where None; rows as said above."""

    layer: int | None = None
    head: int | None = None
    row: Literal["predicts", "reads"] = "predicts"


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold alignment; every sure link is a possible one too."""

    sure: frozenset[Link]
    possible: frozenset[Link]


@dataclass(frozen=True, slots=True)
class AlignmentScore:
    """Rates between 0 and 1 over all sentences together (Och & Ney 2003, Section 6)."""

    error_rate: float
    precision: float
    recall: float


# ---- forced decoding -----------------------------------------------------------------------------


def explain_pairs(
    model: Seq2Seq,
    tokenizers: Tokenizers,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    batch_tokens: int = 4_096,
) -> Iterator[Explained]:
    """What the model attends to when it is made to translate each source as the given target.

    Raises:
        UserError: not as many targets as sources, or a sentence longer than the model knows.
    """
    if len(sources) != len(targets):
        raise UserError(f"{len(sources)} sources, but {len(targets)} targets: give one per source")
    rows = tokenizers.source.encode(sources), tokenizers.target.encode(targets)
    return explain_ids(model, tokenizers, *rows, batch_tokens=batch_tokens)


def explain_ids(
    model: Seq2Seq,
    tokenizers: Tokenizers,
    source_rows: Sequence[Ids],
    target_rows: Sequence[Ids],
    *,
    batch_tokens: int = 4_096,
) -> Iterator[Explained]:
    """`explain_pairs` for token ids without start and end, such as those of a `Translation`."""
    check_known(model, source_rows, target_rows)
    for start in range(0, len(source_rows), WINDOW):
        sources = source_rows[start : start + WINDOW]
        targets = target_rows[start : start + WINDOW]
        found: dict[int, Explained] = {}
        lengths = [len(s) + len(t) + 2 for s, t in zip(sources, targets, strict=True)]
        for places in batches(lengths, batch_tokens):
            rows = [(sources[i], targets[i]) for i in places]
            found |= zip(places, _explain_batch(model, tokenizers, rows), strict=True)
        yield from (found[i] for i in range(len(found)))


def _explain_batch(
    model: Seq2Seq, tokenizers: Tokenizers, rows: list[tuple[Ids, Ids]]
) -> Iterator[Explained]:
    with inference(model) as device:
        batch = batch_of([s for s, _ in rows], [t for _, t in rows]).to(device)
        source = Source(batch.source_BS, batch.source_keep_BS)
        weights = model.explain(source, batch.target_in_BT)

    def part(weights_LBHQK: Tensor | None, row: int, queries: int, keys: int) -> Tensor | None:
        if weights_LBHQK is None:
            return None
        return weights_LBHQK[:, row, :, :queries, :keys].float().cpu()

    for row, (source_ids, target_ids) in enumerate(rows):
        s, t = len(source_ids) + 1, len(target_ids) + 1
        yield Explained(
            source=[*tokenizers.source.pieces(list(source_ids)), END],
            target=[*tokenizers.target.pieces(list(target_ids)), END],
            encoder=part(weights.encoder, row, s, s),
            decoder=part(weights.decoder, row, t, t),
            cross=part(weights.cross, row, t, s),
            missing=weights.missing,
        )


# ---- tokens and words ----------------------------------------------------------------------------


def token_matrix(explained: Explained, view: View = View(), *, end: bool = False) -> Tensor:
    """Cross-attention by token: a row per target token, a column per source token.

    Without ``end`` the row and the column of the end token are dropped and what is left of each row
    is scaled to sum to one (a row that looked at nothing else stays zero).

    Raises:
        UserError: the model has no cross-attention, or no such layer or head.
    """
    if explained.cross is None:
        raise no_cross(explained)
    weights_LHTS = explained.cross
    for axis, (name, number) in enumerate((("layer", view.layer), ("head", view.head))):
        size = weights_LHTS.shape[axis]
        if number is not None and not 0 <= number < size:
            raise UserError(f"there is no {name} {number}: this model has {name}s 0 to {size - 1}")
    by_head_HTS = weights_LHTS.mean(0) if view.layer is None else weights_LHTS[view.layer]
    matrix_TS = by_head_HTS.mean(0) if view.head is None else by_head_HTS[view.head]
    if view.row == "reads":
        matrix_TS = matrix_TS[1:]  # nothing reads the end token: its row is gone either way
    elif not end:
        matrix_TS = matrix_TS[:-1]
    if end:
        return matrix_TS
    matrix_TS = matrix_TS[:, :-1]
    sums_T1 = matrix_TS.sum(1, keepdim=True)
    return torch.where(sums_T1 > 0, matrix_TS / sums_T1.clamp(min=1e-12), 0.0)


def no_cross(explained: Explained) -> UserError:
    """Why there is no alignment."""
    reason = explained.missing.get("cross", "it has no cross-attention")
    return UserError(f"this model has no alignment to show: {reason}")


def word_matrix(
    explained: Explained,
    source_words: Sequence[str],
    target_words: Sequence[str],
    view: View = View(),
) -> Tensor:
    """Cross-attention by word (target words, source words): columns summed, rows averaged.

    The words are any segmentation of the two texts: ``text.split()``, or a finer one.
    """
    source_PW = membership(explained.source[:-1], source_words)
    target_PW = membership(explained.target[:-1], target_words)
    return _by_word(token_matrix(explained, view), source_PW, target_PW)


def _by_word(matrix_TS: Tensor, source_PW: Tensor, target_PW: Tensor) -> Tensor:
    sizes_W1 = target_PW.sum(0).clamp(min=1e-12)[:, None]
    return (target_PW.T / sizes_W1) @ matrix_TS @ source_PW


def membership(pieces: Sequence[str], words: Sequence[str]) -> Tensor:
    """Which word each piece belongs to (P, W), as shares of its characters; rows sum to one.

    Pieces and words are matched character by character, white space and case aside, so that any
    tokenizer goes with any notion of a word. A piece without characters of its own (a lone space, a
    continuing byte, an unknown) goes with a neighbour.
    """
    said = list(_characters(pieces))
    wanted = [(c, w) for w, word in enumerate(words) for c in _plain(word)]
    shares_PW = torch.zeros(len(pieces), len(words))
    for a, b in _matches([c for c, _ in said], [c for c, _ in wanted]):
        shares_PW[said[a][1], wanted[b][1]] += 1
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


# ---- links ---------------------------------------------------------------------------------------


def links(matrix_TS: Tensor, rule: Rule = "target", *, threshold: float | None = None) -> set[Link]:
    """Links (source, target) from weights.

    ``target`` links every target word to its heaviest source word, ``source`` the other way round,
    ``intersection`` and ``union`` combine the two; a ``threshold`` instead takes every weight that
    reaches it. A word that nothing looks at gets no link.
    """
    if matrix_TS.numel() == 0:
        return set()
    if threshold is not None:
        return {(i, j) for j, i in (matrix_TS >= threshold).nonzero().tolist()}
    by_target = {
        (i, j)
        for j, (i, weight) in enumerate(zip(*_heaviest(matrix_TS), strict=True))
        if weight > 0
    }
    if rule == "target":
        return by_target
    by_source = {
        (i, j)
        for i, (j, weight) in enumerate(zip(*_heaviest(matrix_TS.T), strict=True))
        if weight > 0
    }
    return {
        "source": by_source,
        "intersection": by_target & by_source,
        "union": by_target | by_source,
    }[rule]


def _heaviest(matrix: Tensor) -> tuple[list[int], list[float]]:
    best = matrix.max(1)
    return best.indices.tolist(), best.values.tolist()


def pharaoh(found: set[Link]) -> str:
    """Links as text, ``0-0 1-2``: source-target, from 0, ordered."""
    return " ".join(f"{i}-{j}" for i, j in sorted(found))


def read_links(line: str, *, first: int = 0) -> Gold:
    """Links of one line: ``i-j`` sure, ``ipj`` (or ``i?j``) possible, counted from ``first``.

    Raises:
        UserError: anything else.
    """
    sure, possible = set(), set()
    for word in line.split():
        match = re.fullmatch(r"(\d+)([-p?])(\d+)", word)
        if not match or min(int(match[1]), int(match[3])) < first:
            raise UserError(f"{word!r} is no link: expected 3-4 or 3p4, counted from {first}")
        link = (int(match[1]) - first, int(match[3]) - first)
        possible.add(link)
        if match[2] == "-":
            sure.add(link)
    return Gold(frozenset(sure), frozenset(possible))


def load_gold(path: Path, *, first: int = 1) -> list[Gold]:
    """Gold alignments, a sentence a line, plain or .gz; counted from 1 in the Hansards.

    Raises:
        UserError: a line is malformed.
    """
    gold = []
    for number, line in enumerate(_read(path), 1):
        try:
            gold.append(read_links(line, first=first))
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return gold


def load_bitext(path: Path) -> list[tuple[str, str]]:
    """Pairs of a file with ``source ||| target`` lines, plain or .gz.

    Raises:
        UserError: a line without exactly one separator.
    """
    pairs = []
    for number, line in enumerate(_read(path), 1):
        sides = line.split("|||")
        if len(sides) != 2:
            raise UserError(f"{path}, line {number}: expected 'source ||| target'")
        pairs.append((sides[0].strip(), sides[1].strip()))
    return pairs


def _read(path: Path) -> list[str]:
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as file:
        return [line.rstrip("\r\n") for line in file]


def alignment_score(found: Sequence[set[Link]], gold: Sequence[Gold]) -> AlignmentScore:
    """AER = 1 - (|A & S| + |A & P|) / (|A| + |S|) with precision |A & P| / |A| and recall
    |A & S| / |S|, for found links A, sure S and possible P.

    Raises:
        UserError: not one gold alignment per sentence.
    """
    if len(found) != len(gold):
        raise UserError(f"{len(found)} alignments, but {len(gold)} gold ones")
    links_found = sum(len(a) for a in found)
    sure = sum(len(g.sure) for g in gold)
    hit_sure = sum(len(a & g.sure) for a, g in zip(found, gold, strict=True))
    hit_possible = sum(len(a & g.possible) for a, g in zip(found, gold, strict=True))
    return AlignmentScore(
        error_rate=1 - (hit_sure + hit_possible) / max(links_found + sure, 1),
        precision=hit_possible / max(links_found, 1),
        recall=hit_sure / max(sure, 1),
    )


def best_view(
    explained: Sequence[Explained],
    words: Sequence[tuple[Sequence[str], Sequence[str]]],
    gold: Sequence[Gold],
    rule: Rule = "target",
) -> tuple[View, AlignmentScore]:
    """The layer, head (or mean of a layer's heads) and row with the lowest error rate.

    Choose on development data and report on other sentences: the best of many is lucky.

    Raises:
        UserError: nothing to choose from, or a model without cross-attention.
    """
    if not explained:
        raise UserError("there are no aligned sentences to choose a layer and head on")
    if (cross := explained[0].cross) is None:
        raise no_cross(explained[0])
    layers, heads = cross.shape[:2]
    rows: tuple[Literal["predicts", "reads"], ...] = ("predicts", "reads")
    views = [View(None, None, row) for row in rows]
    for layer in range(layers):
        views += [View(layer, head, row) for head in (None, *range(heads)) for row in rows]
    owners = [
        (membership(item.source[:-1], source), membership(item.target[:-1], target))
        for item, (source, target) in zip(explained, words, strict=True)
    ]
    scored = []
    for view in views:
        found = [
            links(_by_word(token_matrix(item, view), *pair), rule)
            for item, pair in zip(explained, owners, strict=True)
        ]
        scored.append((view, alignment_score(found, gold)))
    return min(scored, key=lambda item: item[1].error_rate)
