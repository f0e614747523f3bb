"""Lines done by all processes that torchrun started: the same lines out, in the same order."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from nmt.training.distributed import World

T = TypeVar("T")

Work = Callable[[Sequence[str], int], list[T]]
"""Results of lines, one each; the second argument is how many lines of the input come before."""


def together(world: World, lines: Sequence[str], work: Work[T], *, before: int = 0) -> list[T]:
    """The results of all lines, on rank 0; every rank does a run of lines of about equal length.

    All ranks call it with the same lines. What the work makes of a line may depend on the line and
    its number alone.
    """
    if world.size == 1:
        return work(lines, before)
    start, end = part(lines, rank=world.rank, size=world.size)
    gathered = world.gather(work(lines[start:end], before + start))
    return [result for results in gathered for result in results]


def part(lines: Sequence[str], *, rank: int, size: int) -> tuple[int, int]:
    """First line, and the one behind the last, of a rank's share."""
    ends = list(itertools.accumulate(len(line) + 8 for line in lines))
    cuts = [bisect_right(ends, ends[-1] * r / size) if ends else 0 for r in range(1, size)]
    return [0, *cuts][rank], [*cuts, len(lines)][rank]


def stream_together(
    world: World, chunks: Iterable[Sequence[str]], work: Work[T]
) -> Iterator[list[T]]:
    """`together` for each chunk that rank 0 reads; the other ranks' results are empty lists."""
    source = iter(chunks)
    before = 0
    while True:
        chunk = world.from_first(lambda: next(source, None))
        if chunk is None:
            return
        yield together(world, chunk, work, before=before)
        before += len(chunk)
