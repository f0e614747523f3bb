"""From attention to word alignment, and how far that is from a gold alignment.

Attention is read off by forced decoding: the model is given source and target and says, for every
target token, what it looked at. Row t of a matrix is the row that *predicts* target token t, having
read the tokens before it; it is what Bahdanau et al. (2015) draw. A Transformer's row may say more
about the token it has just *read* (the next row); `View.row` chooses, best on held-out data.

Shapes: L layers, H heads, S source tokens (end included), T target tokens (end included), P pieces,
W words. Links are pairs (source word, target word), counted from 0 as in the Pharaoh format.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nmt.data.tokenizer import Tokenizers
from nmt.data.words import membership
from nmt.decoding.translate import Ids, batch_of, batches, check_known, inference
from nmt.errors import UserError
from nmt.models.seq2seq import Seq2Seq, Source

Link = tuple[int, int]
Rule = Literal["target", "source", "intersection", "union"]
Row = Literal["predicts", "reads"]
END = "</s>"
WINDOW = 512
"""Pairs that are sorted by length together and held at once."""


@dataclass(frozen=True, slots=True)
class Explained:
    """The attention of one pair, by layer and head; None where there is none, and why.

    Both token lists end in ``</s>``. ``cross`` is (L, H, T, S), ``encoder`` (L, H, S, S) and
    ``decoder`` (L, H, T, T), where row and column t of ``decoder`` stand for the token *read*: the
    start token, then the target without its end. ``norms`` says for each of them how large what its
    columns are read as is, (L, H, columns).
    """

    source: list[str]
    target: list[str]
    encoder: Tensor | None
    decoder: Tensor | None
    cross: Tensor | None
    missing: dict[str, str]
    norms: dict[str, Tensor] = field(default_factory=dict)

    def weighted(self, kind: str) -> Tensor:
        """Norm-weighted attention (L, H, rows, columns): weights times norms.

        Kobayashi et al. 2020, for each head. Scaled so that the heads of a layer together give each
        row a sum of one; a head that adds more has the larger share. A row to which nothing is
        added stays zero.

        Raises:
            UserError: there are no weights of that kind; says why.
        """
        weights_LHQK = {"encoder": self.encoder, "decoder": self.decoder, "cross": self.cross}[kind]
        if weights_LHQK is None:
            reason = self.missing.get(kind, "it has none")
            raise UserError(f"this model has no {kind} attention to weigh: {reason}")
        added_LHQK = weights_LHQK * self.norms[kind][:, :, None, :]
        return added_LHQK / added_LHQK.sum((1, 3), keepdim=True).clamp(min=1e-12)

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
    row: Row = "predicts"


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

    @classmethod
    def of_counts(
        cls, *, found: int, sure: int, hit_sure: int, hit_possible: int
    ) -> AlignmentScore:
        """AER = 1 - (|A & S| + |A & P|) / (|A| + |S|) with precision |A & P| / |A| and recall
        |A & S| / |S|, for found links A, sure S and possible P.
        """
        return cls(
            error_rate=1 - (hit_sure + hit_possible) / max(found + sure, 1),
            precision=hit_possible / max(found, 1),
            recall=hit_sure / max(sure, 1),
        )


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
            norms={
                kind: norms_LBHK[:, row, :, : t if kind == "decoder" else s].float().cpu()
                for kind, norms_LBHK in weights.norms.items()
            },
        )


def entropies(explained: Iterable[Explained]) -> dict[str, list[list[float]]]:
    """How spread each head looks, by kind, layer and head: the mean entropy of its rows in nats.

    0 is a row that looks at one place, ln n one that looks at n places alike. Rows are scaled to
    sum to one first, and rows that look at nothing are left out; so are kinds without a matrix.
    """
    sums: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for one in explained:
        kinds = {"encoder": one.encoder, "decoder": one.decoder, "cross": one.cross}
        for kind, weights_LHQK in kinds.items():
            if weights_LHQK is None:
                continue
            totals_LHQ = weights_LHQK.sum(-1)
            shares_LHQK = weights_LHQK / totals_LHQ.clamp(min=1e-12)[..., None]
            sums[kind] = sums.get(kind, 0) - torch.xlogy(shares_LHQK, shares_LHQK).sum((-2, -1))
            rows[kind] = rows.get(kind, 0) + (totals_LHQ > 0).sum(-1)
    return {kind: (sums[kind] / rows[kind].clamp(min=1)).tolist() for kind in sums}


# ---- tokens and words ----------------------------------------------------------------------------


def token_matrix(explained: Explained, view: View = View(), *, end: bool = False) -> Tensor:
    """Cross-attention by token: a row per target token, a column per source token.

    Without ``end`` the row and the column of the end token are dropped and what is left of each row
    is scaled to sum to one (a row that looked at nothing else stays zero).

    Raises:
        UserError: the model has no cross-attention, or no such layer or head.
    """
    return trimmed(seen(explained, [view])[0], view.row, end=end)


def seen(explained: Explained, views: Sequence[View]) -> Tensor:
    """Cross-attention as each view sees it (V, T, S), whatever its row.

    Raises:
        UserError: the model has no cross-attention, or no such layer or head.
    """
    if explained.cross is None:
        raise no_cross(explained)
    weights_LHTS = explained.cross
    layers, heads = weights_LHTS.shape[:2]
    for view in views:
        for name, number, size in (("layer", view.layer, layers), ("head", view.head, heads)):
            if number is not None and not 0 <= number < size:
                there = f"{name} 0 alone" if size == 1 else f"{name}s 0 to {size - 1}"
                raise UserError(f"there is no {name} {number}: this model has {there}")
    # One more layer and one more head: the means.
    weights_LHTS = torch.cat([weights_LHTS, weights_LHTS.mean(1, keepdim=True)], 1)
    weights_LHTS = torch.cat([weights_LHTS, weights_LHTS.mean(0, keepdim=True)], 0)
    return weights_LHTS[
        [layers if view.layer is None else view.layer for view in views],
        [heads if view.head is None else view.head for view in views],
    ]


def trimmed(weights_TS: Tensor, row: Row, *, end: bool) -> Tensor:
    """The rows that stand for target tokens, with or without the end token; see `token_matrix`.

    Args:
        weights_TS: (…, T, S).
    """
    if row == "reads":
        weights_TS = weights_TS[..., 1:, :]  # nothing reads the end token: it has no row either way
    elif not end:
        weights_TS = weights_TS[..., :-1, :]
    if end:
        return weights_TS
    weights_TS = weights_TS[..., :-1]
    sums_T1 = weights_TS.sum(-1, keepdim=True)
    return torch.where(sums_T1 > 0, weights_TS / sums_T1.clamp(min=1e-12), 0.0)


def no_cross(explained: Explained) -> UserError:
    """Why there is no alignment."""
    reason = explained.missing.get("cross", "it has no cross-attention")
    return UserError(f"this model has no alignment to show: {reason}")


def word_matrix(
    explained: Explained,
    source_words: Sequence[str],
    target_words: Sequence[str],
    view: View = View(),
    *,
    end: bool = False,
) -> Tensor:
    """Cross-attention by word (target words, source words): columns summed, rows averaged.

    The words are any segmentation of the two texts: ``text.split()``, or a finer one. With ``end``
    the end tokens are words of their own, as in `token_matrix`.
    """
    pieces = owners(explained, source_words, target_words, row=view.row, end=end)
    return by_word(token_matrix(explained, view, end=end), *pieces)


def owners(
    explained: Explained,
    source_words: Sequence[str],
    target_words: Sequence[str],
    *,
    row: Row = "predicts",
    end: bool = False,
) -> tuple[Tensor, Tensor]:
    """Which word each column and each row of `trimmed` weights belongs to: (P, W) of either side.

    With ``end`` the end tokens are words of their own, the last ones.
    """
    source_PW = membership(explained.source[:-1], source_words)
    target_PW = membership(explained.target[:-1], target_words)
    one = torch.ones(1, 1)
    if end:
        source_PW = torch.block_diag(source_PW, one)
    if end and row == "predicts":
        target_PW = torch.block_diag(target_PW, one)
    return source_PW, target_PW


def by_word(matrix_TS: Tensor, source_PW: Tensor, target_PW: Tensor) -> Tensor:
    """Weights (…, T, S) by piece as weights by word: columns summed, rows averaged."""
    sizes_W1 = target_PW.sum(0).clamp(min=1e-12)[:, None]
    return (target_PW.T / sizes_W1) @ matrix_TS @ source_PW


# ---- links ---------------------------------------------------------------------------------------


def links(matrix_TS: Tensor, rule: Rule = "target", *, threshold: float | None = None) -> set[Link]:
    """Links (source, target) from weights.

    ``target`` links every target word to its heaviest source word, ``source`` the other way round,
    ``intersection`` and ``union`` combine the two; a ``threshold`` instead takes every weight that
    reaches it. A word that nothing looks at gets no link.
    """
    linked = linked_by(matrix_TS, rule) if threshold is None else matrix_TS >= threshold
    return {(i, j) for j, i in linked.nonzero().tolist()}


def linked_by(matrix_TS: Tensor, rule: Rule) -> Tensor:
    """`links` as a boolean mask of the weights (…, target words, source words)."""
    by_target = _heaviest(matrix_TS, -1)
    if rule == "target":
        return by_target
    by_source = _heaviest(matrix_TS, -2)
    if rule == "source":
        return by_source
    return by_target & by_source if rule == "intersection" else by_target | by_source


def _heaviest(matrix_TS: Tensor, axis: int) -> Tensor:
    """True at the first of the largest weights along an axis, where it is above zero."""
    if matrix_TS.numel() == 0:
        return torch.zeros_like(matrix_TS, dtype=torch.bool)
    place = matrix_TS.argmax(axis, keepdim=True)
    mask = torch.zeros_like(matrix_TS, dtype=torch.bool).scatter_(axis, place, True)
    return mask & (matrix_TS > 0)


def diagonal(source_words: int, target_words: int) -> set[Link]:
    """Each target word linked to the source word at the same share of the sentence: a baseline."""
    if not source_words:
        return set()
    return {(int((j + 0.5) * source_words / target_words), j) for j in range(target_words)}


def diagonal_score(
    words: Iterable[tuple[Sequence[str], Sequence[str]]], gold: Sequence[Gold]
) -> AlignmentScore:
    """How well the diagonal agrees with gold alignments of pairs of these words."""
    return alignment_score([diagonal(len(source), len(target)) for source, target in words], gold)


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
    """How well found links agree with gold ones.

    Raises:
        UserError: not one gold alignment per sentence.
    """
    if len(found) != len(gold):
        raise UserError(f"{len(found)} alignments, but {len(gold)} gold ones")
    return AlignmentScore.of_counts(
        found=sum(len(a) for a in found),
        sure=sum(len(g.sure) for g in gold),
        hit_sure=sum(len(a & g.sure) for a, g in zip(found, gold, strict=True)),
        hit_possible=sum(len(a & g.possible) for a, g in zip(found, gold, strict=True)),
    )
