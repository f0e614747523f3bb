"""From lengths to batches: the plan of an epoch, its updates, and the tensors.

The plan is a list of micro-batches (arrays of pair numbers) and a pure function of the lengths,
the budget, the pool, the seed and the epoch. It knows nothing of processes, so that any number of
them walks through the same plan, and a place in it is two numbers: see ``Cursor``.

Shape letters: B rows (sentence pairs), S source length, T target length, N kept target positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nmt.data.mixture import epoch_pairs
from nmt.data.store import Ragged
from nmt.errors import UserError

BLOCK = 1024  # pairs whose subword sampling shares one seed
EMPTY = np.empty(0, dtype=np.int64)


class Rows(Protocol):
    """Token ids of many sentences, without special ids; ``store.Ragged`` is one."""

    @property
    def lengths(self) -> np.ndarray:
        """Ids of each row."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> np.ndarray: ...


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; nearby numbers give unrelated seeds."""
    low, high = np.random.SeedSequence(parts).generate_state(2)
    return (int(high) << 32 | int(low)) & (2**63 - 1)


def oversized(
    source_lengths: np.ndarray, target_lengths: np.ndarray, *, batch_tokens: int
) -> np.ndarray:
    """The numbers of the pairs that exceed the budget alone (lengths as fed, with eos)."""
    return np.flatnonzero(np.asarray(source_lengths) + np.asarray(target_lengths) > batch_tokens)


def make_plan(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    *,
    batch_tokens: int,
    pool: int,
    seed: int,
    epoch: int,
    corpora: Sequence[tuple[int, float]] = (),
    skip_oversized: bool = False,
) -> list[np.ndarray]:
    """Cut one epoch into shuffled micro-batches of at most ``batch_tokens`` padded tokens.

    Args:
        source_lengths: tokens fed per source, end of sentence included.
        target_lengths: the same for targets.
        batch_tokens: bound on rows x (longest source + longest target) of a micro-batch.
        pool: how many shuffled pairs are sorted together; larger pads less, smaller mixes more.
        corpora: pairs and weight of each corpus, see ``epoch_pairs``; none is all once.
        skip_oversized: leave out pairs above the budget instead of refusing.

    Returns:
        Micro-batches of pair numbers; every pair (that is not skipped) is in as many as it is seen.

    Raises:
        UserError: a pair exceeds the budget alone and is not to be skipped.
    """
    source = np.asarray(source_lengths, dtype=np.int64)
    target = np.asarray(target_lengths, dtype=np.int64)
    large = oversized(source, target, batch_tokens=batch_tokens)
    if len(large) and not skip_oversized:
        worst = int((source + target)[large].max())
        raise UserError(
            f"{len(large)} of {len(source)} pairs do not fit into train.batch_tokens="
            f"{batch_tokens} (the longest needs {worst}, pair {int(large[0]) + 1} is the first); "
            f"raise train.batch_tokens or filter long pairs out"
        )
    seen = epoch_pairs(corpora or [(len(source), 1.0)], seed=seed, epoch=epoch)
    rng = np.random.default_rng([seed, epoch])
    order = seen[rng.permutation(len(seen))]
    if len(large):
        order = order[~np.isin(order, large)]
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        pairs = order[start : start + pool]
        pairs = pairs[_serpentine(source[pairs], target[pairs])]
        batches += _cut(pairs, source[pairs], target[pairs], batch_tokens)
    return [batches[number] for number in rng.permutation(len(batches))]


def _serpentine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Sort by source length; targets rise in one source length and fall in the next.

    A batch that spans two source lengths then meets the same end of the target lengths in both.
    """
    _, rank = np.unique(source, return_inverse=True)
    return np.lexsort((np.where(rank % 2, -target, target), source))


def _cut(
    pairs: np.ndarray, source: np.ndarray, target: np.ndarray, budget: int
) -> list[np.ndarray]:
    """Cut sorted pairs greedily; a step of the loop is a micro-batch, not a pair."""
    batches = []
    start = 0
    while start < len(pairs):
        end = start + budget // int(source[start] + target[start])
        width = source[start:end] + np.maximum.accumulate(target[start:end])
        rows = np.arange(1, len(width) + 1)
        count = int(np.searchsorted(width * rows, budget, side="right"))
        batches.append(pairs[start : start + count])
        start += count
    return batches


@dataclass(frozen=True)
class Cursor:
    """A place in training: the epoch (from 0) and the micro-batches consumed in its plan."""

    epoch: int = 0
    consumed: int = 0

    def after(self, plan: Sequence[np.ndarray], *, accumulate: int) -> Cursor:
        """The place after one more update."""
        consumed = self.consumed + accumulate
        return Cursor(self.epoch + 1) if consumed >= len(plan) else Cursor(self.epoch, consumed)


def update_of(
    plan: Sequence[np.ndarray], consumed: int, *, accumulate: int
) -> list[tuple[int, np.ndarray]]:
    """The ``accumulate`` micro-batches of the update at ``consumed``, as (position, pairs).

    The last update of an epoch is filled with empty micro-batches. Positions count micro-batches
    within the epoch; they seed dropout, so that it does not depend on the number of processes.
    """
    batches = list(plan[consumed : consumed + accumulate])
    batches += [EMPTY] * (accumulate - len(batches))
    return list(enumerate(batches, start=consumed))


def share(
    update: Sequence[tuple[int, np.ndarray]], *, rank: int, world: int
) -> list[tuple[int, np.ndarray]]:
    """Every ``world``-th micro-batch, from ``rank`` on; all ranks get equally many."""
    mine = list(update[rank::world])
    end = update[-1][0] + 1
    each = -(-len(update) // world)
    return mine + [(end + rank, EMPTY)] * (each - len(mine))


@dataclass(frozen=True)
class Batch:
    """One micro-batch as tensors; all ids are int64, masks are True where a token is.

    ``target_in`` starts with bos and ``target_out`` ends with eos: row t of the one predicts
    row t of the other. ``kept_N`` numbers the kept positions of the flattened target, known here
    without asking the device. The empty batch has one row that keeps no target position, so that
    every model can run it, and weighs nothing. ``aligned_BTS``, where there are alignments, is how
    much of each target token comes from each source token: rows sum to one, or are zero where a
    token is not aligned.
    """

    source_BS: Tensor
    source_keep_BS: Tensor
    target_in_BT: Tensor
    target_out_BT: Tensor
    target_keep_BT: Tensor
    kept_N: Tensor
    index_B: Tensor
    aligned_BTS: Tensor | None = None

    @property
    def rows(self) -> int:
        return len(self.index_B)

    @property
    def target_tokens(self) -> int:
        """Target tokens that count, end of sentence included."""
        return len(self.kept_N)

    def to(self, device: torch.device | str) -> Batch:
        """A copy on ``device``; the transfer to a GPU does not wait."""
        tensors = {part.name: getattr(self, part.name) for part in fields(self)}
        there = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        if torch.device(device).type == "cuda":
            pinned = {name: tensor.pin_memory() for name, tensor in there.items()}
            return Batch(**{name: t.to(device, non_blocking=True) for name, t in pinned.items()})
        return Batch(**{name: tensor.to(device) for name, tensor in there.items()})


def collate(
    source_rows: Sequence[Sequence[int] | np.ndarray],
    target_rows: Sequence[Sequence[int] | np.ndarray],
    *,
    pad: int,
    bos: int,
    eos: int,
    index: np.ndarray | None = None,
    links: Sequence[np.ndarray] | None = None,
) -> Batch:
    """Pad rows of ids (without special ids) into a ``Batch``; every source ends in eos.

    Args:
        index: the pair number of each row; 0, 1, … when not given.
        links: which target token of a row is linked with which source token, boolean [T, S].
    """
    if len(source_rows) != len(target_rows):
        raise ValueError(f"{len(source_rows)} source rows, {len(target_rows)} target rows")
    numbers = np.arange(len(source_rows)) if index is None else np.asarray(index)
    if not len(source_rows):
        source, source_keep = _padded([()], pad, eos)
        target = np.full((1, 1), pad)
        target_in, target_keep = np.full((1, 1), bos), np.zeros((1, 1), dtype=bool)
    else:
        source, source_keep = _padded(source_rows, pad, eos)
        target, target_keep = _padded(target_rows, pad, eos)
        target_in = np.full_like(target, pad)
        target_in[:, 0] = bos
        target_in[:, 1:] = np.where(target_keep[:, 1:], target[:, :-1], pad)
    return Batch(
        source_BS=torch.from_numpy(source),
        source_keep_BS=torch.from_numpy(source_keep),
        target_in_BT=torch.from_numpy(target_in),
        target_out_BT=torch.from_numpy(target),
        target_keep_BT=torch.from_numpy(target_keep),
        kept_N=torch.from_numpy(np.flatnonzero(target_keep)),
        index_B=torch.from_numpy(numbers.astype(np.int64)),
        aligned_BTS=None if links is None else torch.from_numpy(_aligned(links, target, source)),
    )


def _aligned(links: Sequence[np.ndarray], target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Links as shares of each target token, float32 [B, T, S]; end tokens are linked."""
    shares = np.zeros((*target.shape, source.shape[1]), dtype=np.float32)
    for matrix, linked in zip(shares, links, strict=False):  # the empty batch has a row, no links
        t, s = linked.shape
        matrix[:t, :s] = linked
        matrix[t, s] = 1.0
    shares /= shares.sum(-1, keepdims=True).clip(min=1.0)
    return shares


def _padded(
    rows: Sequence[Sequence[int] | np.ndarray], pad: int, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows + eos as one [B, longest] int64 array, and the mask of what is not padding."""
    lengths = np.fromiter((len(row) + 1 for row in rows), np.int64, len(rows))
    keep = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
    ids = np.full(keep.shape, pad, dtype=np.int64)
    last = np.arange(len(rows)), lengths - 1
    inner = keep.copy()
    inner[last] = False
    ids[inner] = np.concatenate(rows)
    ids[last] = eos
    return ids, keep


Links = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
"""(pair, source ids, target ids) -> which target token is linked with which source token [T, S]."""


@dataclass(frozen=True)
class Epoch:
    """One epoch's plan and what is needed to make its batches."""

    plan: list[np.ndarray]
    source: Rows
    target: Rows
    source_lengths: np.ndarray  # as fed, end of sentence included
    target_lengths: np.ndarray
    pad: int
    bos: int
    eos: int
    links: Links | None = None

    def batch(self, pairs: np.ndarray) -> Batch:
        """The pairs as tensors; none of them gives the empty batch."""
        numbers = pairs.tolist()
        source = [self.source[number] for number in numbers]
        target = [self.target[number] for number in numbers]
        links = None
        if self.links is not None:
            links = [self.links(*row) for row in zip(numbers, source, target, strict=True)]
        return collate(
            source, target, pad=self.pad, bos=self.bos, eos=self.eos, index=pairs, links=links
        )

    def target_tokens(self, pairs: np.ndarray) -> int:
        """How many target tokens count in these pairs, end of sentence included."""
        return int(self.target_lengths[pairs].sum())

    def tokens(self, pairs: np.ndarray) -> tuple[int, int]:
        """(real, padded) source plus target tokens of a micro-batch."""
        if not len(pairs):
            return 0, 0
        source, target = self.source_lengths[pairs], self.target_lengths[pairs]
        return int(source.sum() + target.sum()), len(pairs) * int(source.max() + target.max())


Sampler = Callable[[int], tuple[Rows, Rows]]


@dataclass(kw_only=True)
class TrainingPairs:
    """Where the loop gets its epochs from: stored ids, or ids sampled anew each epoch.

    Args:
        source, target: the stored ids.
        sample: epoch -> freshly segmented (source, target) ids, see ``subword_sampler``; a pair
            whose sampled ids are above the budget or the model's positions keeps its stored ids.
        max_source, max_target: positions the model knows, end (or begin) of sentence included.
        links: which tokens of a pair are linked, where batches are to say so.
        corpora: pairs and weight of each corpus, where they are not all seen once an epoch.
    """

    source: Rows
    target: Rows
    batch_tokens: int
    pool: int
    seed: int
    pad: int
    bos: int
    eos: int
    skip_oversized: bool = False
    sample: Sampler | None = None
    max_source: int | None = None
    max_target: int | None = None
    links: Links | None = None
    corpora: Sequence[tuple[int, float]] = ()
    _last: tuple[int, Epoch] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target):
            raise ValueError(f"{len(self.source)} sources, {len(self.target)} targets")
        if not len(self.source):
            raise UserError("there is no pair to train on; look at the funnel of nmt prepare")
        if self.corpora and not any(int(pairs * weight) for pairs, weight in self.corpora):
            raise UserError("the weights of data.train leave less than a pair an epoch; raise them")

    def epoch(self, number: int) -> Epoch:
        """The plan and the ids of epoch ``number`` (the last one asked for is remembered)."""
        if self._last is None or self._last[0] != number:
            self._last = (number, self._make(number))
        return self._last[1]

    def _make(self, number: int) -> Epoch:
        source, target = self.source, self.target
        if self.sample is not None:
            source, target = self._fitting(*self.sample(number))
        source_lengths = np.asarray(source.lengths, dtype=np.int64) + 1
        target_lengths = np.asarray(target.lengths, dtype=np.int64) + 1
        plan = make_plan(
            source_lengths,
            target_lengths,
            batch_tokens=self.batch_tokens,
            pool=self.pool,
            seed=self.seed,
            epoch=number,
            corpora=self.corpora,
            skip_oversized=self.skip_oversized,
        )
        if not plan:
            raise UserError(f"every pair is above train.batch_tokens={self.batch_tokens}; raise it")
        return Epoch(
            plan,
            source,
            target,
            source_lengths,
            target_lengths,
            self.pad,
            self.bos,
            self.eos,
            self.links,
        )

    def _fitting(self, source: Rows, target: Rows) -> tuple[Rows, Rows]:
        """Sampled ids where they fit, stored ids elsewhere: chance must not stop a long run."""
        source_lengths, target_lengths = source.lengths + 1, target.lengths + 1
        misfit = source_lengths + target_lengths > self.batch_tokens
        if self.max_source is not None:
            misfit |= source_lengths > self.max_source
        if self.max_target is not None:
            misfit |= target_lengths > self.max_target
        if not misfit.any():
            return source, target
        return _Either(source, self.source, misfit), _Either(target, self.target, misfit)


@dataclass(frozen=True)
class _Either:
    """Rows of ``first``, but of ``second`` where the mask is True."""

    first: Rows
    second: Rows
    use_second: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.where(self.use_second, self.second.lengths, self.first.lengths)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, row: int, /) -> np.ndarray:
        return self.second[row] if self.use_second[row] else self.first[row]


def subword_sampler(
    texts: Sequence[Callable[[int, int], list[str]]],
    encoders: Sequence[Callable[[list[str], int], list[list[int]]]],
    *,
    pairs: int,
    seed: int,
) -> Sampler:
    """Segment the corpus anew each epoch (Kudo 2018, subword regularisation).

    Each block of ``BLOCK`` pairs is encoded with a seed derived from (seed, epoch, side, block),
    so an epoch can be made again without the ones before it.

    Args:
        texts: for source and target, (start, end) -> the sentences of these pairs.
        encoders: for source and target, (sentences, seed) -> sampled ids; runs in one thread.
    """

    def side(epoch: int, number: int) -> Ragged:
        values: list[np.ndarray] = []
        counts: list[int] = []
        for block, start in enumerate(range(0, pairs, BLOCK)):
            sentences = texts[number](start, min(start + BLOCK, pairs))
            rows = encoders[number](sentences, derive_seed(seed, epoch, number, block))
            counts += [len(row) for row in rows]
            values.append(np.fromiter((i for row in rows for i in row), np.int32))
        lengths = np.array(counts, dtype=np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return Ragged(np.concatenate(values), offsets, lengths)

    return lambda epoch: (side(epoch, 0), side(epoch, 1))
