"""Time and memory of self-attention alone, against the length of the sequence.

Queries, keys and values are given; what is measured is scores, weights and contexts, as the layers
of `nmt.models` compute them. Memory is the most bytes that PyTorch's allocator had handed out at
once during the call, its inputs aside: every allocation is in the profiler's record on a CPU and in
the allocator's own counter on CUDA. Before a length is tried its cost is foretold from the length
before, and a kind stops where it would pass a limit, so that nothing runs the machine down.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

import torch
import torch.nn.functional as F
from torch import Tensor

from nmt.errors import UserError
from nmt.evaluation.statistics import Interval, slope_interval
from nmt.models.attention import ScaledDot
from nmt.models.linear import LinearSelfAttention
from nmt.models.multihead import HeadSize, attend_heads
from nmt.models.sliding import SlidingSelfAttention

LENGTHS = (64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192)
GROWTH = {  # kind -> the powers of the length that time and memory end up growing with
    "explicit": (2, 2),
    "fused": (2, 1),
    "window": (1, 1),
    "linear": (1, 1),
    "linear_causal": (1, 1),
}
KINDS = tuple(GROWTH)
TOP_OCTAVES = 3
"""Doublings of the length over which an exponent is fitted: overheads have died away there."""

LONG_ENOUGH = 2.0
"""Seconds after which a length is not timed again."""

KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Environment in which glibc keeps what is released; others do not read it."""

METHODS = {
    "cpu": "most bytes allocated at once by PyTorch's CPU allocator, from its profiler's record of "
    "every allocation in one call; inputs not counted",
    "cuda": "most bytes allocated at once by PyTorch's CUDA allocator in one call; inputs not "
    "counted",
}


@dataclass(frozen=True, slots=True)
class CostRow:
    """One kind at one length: the fastest of the calls in seconds, and peak memory in bytes."""

    kind: str
    length: int
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where a kind was not tried any more: ``reason`` is ``memory`` or ``time``.

    ``estimate`` is what it would have taken, in bytes or seconds.
    """

    kind: str
    length: int
    reason: str
    estimate: float


@dataclass(frozen=True, slots=True)
class CostReport:
    """What attention costs.

    Attributes:
        stopped: every length that was not tried.
        time_exponents, memory_exponents: kind -> the power of the length that the cost grows with
            over the top octaves, with its t interval; a kind of fewer than three lengths has none.
        fused_error: largest difference of fused from explicit attention, by the largest number.
        method: how memory was measured. memory_limit: in bytes; seconds_limit: a call.
    """

    rows: tuple[CostRow, ...]
    stopped: tuple[Stopped, ...]
    time_exponents: dict[str, Interval]
    memory_exponents: dict[str, Interval]
    fused_error: float
    method: str
    memory_limit: int
    seconds_limit: float


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of one sequence's heads, and how far a window reaches to each side."""

    heads: int = 4
    head_width: int = 64
    span: int = 64

    def inputs(self, length: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [1, H, T, d], from the length alone."""
        generator = torch.Generator().manual_seed(length)
        size = (3, 1, self.heads, length, self.head_width)
        return tuple(torch.randn(size, generator=generator).to(device).unbind(0))  # type: ignore[return-value]

    def call(self, kind: str, length: int, device: str) -> Callable[..., Tensor]:
        """What maps queries, keys and values to contexts, masks made beforehand."""
        size = HeadSize(
            width=self.heads * self.head_width,
            heads=self.heads,
            head_width=self.head_width,
            dropout=0.0,
        )
        score = ScaledDot(self.head_width, self.heads)
        keep_NT = torch.ones(1, length, dtype=torch.bool, device=device)
        if kind == "explicit":
            return lambda q, k, v: attend_heads(q, k, v, None, score=score, dropout=0.0, trace=[])
        if kind == "fused":
            return lambda q, k, v: F.scaled_dot_product_attention(
                score.queries(q), score.keys(k), v, scale=1.0
            )
        if kind == "window":
            window = SlidingSelfAttention(size, score, causal=False, span=self.span).to(device)
            mask = window.mask(keep_NT, 0)
            return lambda *heads: window.mix(heads, mask, None, None)
        layer = LinearSelfAttention(size, causal=kind == "linear_causal").to(device)
        kept = layer.mask(keep_NT, 0)
        return lambda *heads: layer.mix(heads, kept, None, None)


def attention_cost(
    kinds: Sequence[str] = KINDS,
    lengths: Sequence[int] = LENGTHS,
    *,
    memory_limit: int,
    seconds_limit: float = 20.0,
    shape: Shape = Shape(),
    repeats: int = 7,
    device: str = "cpu",
) -> CostReport:
    """Each kind at each length, without gradients, in the precision fp32.

    Args:
        memory_limit: bytes that a call may be foretold to take, such as half of what is free.
        seconds_limit: seconds that one call may be foretold to take.
        repeats: calls at each length, of which the fastest counts; fewer where they take seconds.

    Raises:
        UserError: an unknown kind, or a device whose memory cannot be measured.
    """
    for kind in kinds:
        if kind not in GROWTH:
            raise UserError(f"unknown attention {kind!r}: choose {', '.join(KINDS)}")
    if device not in METHODS:
        raise UserError(f"memory cannot be measured on {device!r}: choose {', '.join(METHODS)}")
    rows: list[CostRow] = []
    stopped: list[Stopped] = []
    for kind in kinds:
        last: CostRow | None = None
        for length in sorted(lengths):
            over = _over(kind, length, last, shape, memory_limit, seconds_limit)
            if over is None:
                last = _measure(kind, length, shape, repeats, device)
                rows.append(last)
            else:
                stopped.append(over)
    return CostReport(
        rows=tuple(rows),
        stopped=tuple(stopped),
        time_exponents=_exponents(rows, lambda row: row.seconds),
        memory_exponents=_exponents(rows, lambda row: float(row.peak_bytes)),
        fused_error=fused_error(shape, device=device),
        method=METHODS[device],
        memory_limit=memory_limit,
        seconds_limit=seconds_limit,
    )


def cost_with_memory_kept(
    lengths: Sequence[int] = LENGTHS,
    *,
    memory_limit: int,
    shape: Shape = Shape(),
    repeats: int = 7,
) -> CostReport:
    """`attention_cost` in a process of its own, which keeps released memory as a GPU's would be.

    glibc returns every block above 32 MiB to the system, and gets it back zeroed page by page. From
    the length on where scores are that large a call would be timed together with that, and seem to
    grow with more than the square of its length.
    """
    with (
        _environment(KEEPS_MEMORY),
        ProcessPoolExecutor(
            1,
            mp_context=get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(torch.get_num_threads(),),
        ) as apart,
    ):
        return apart.submit(
            attention_cost,
            lengths=lengths,
            memory_limit=memory_limit,
            shape=shape,
            repeats=repeats,
        ).result()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """What processes started inside find in their environment."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def fused_error(shape: Shape = Shape(), length: int = 500, device: str = "cpu") -> float:
    """The largest difference of fused from explicit contexts, by the largest of those."""
    heads = shape.inputs(length, device)
    with torch.no_grad():
        explicit, fused = (
            shape.call(kind, length, device)(*heads) for kind in ("explicit", "fused")
        )
    return float((fused - explicit).abs().max() / explicit.abs().max())


def _over(
    kind: str,
    length: int,
    last: CostRow | None,
    shape: Shape,
    memory_limit: int,
    seconds_limit: float,
) -> Stopped | None:
    """Why this length is not tried, foretold from the last one that was.

    Growth with the final power is an upper bound, for whatever grows slower weighs less and less.
    The inputs, and before the first length two matrices of explicit scores, are known sizes.
    """
    time_power, memory_power = GROWTH[kind]
    inputs = 3 * 4 * shape.heads * length * shape.head_width
    if last is None:
        pairs = length * (length if kind == "explicit" else 1)
        memory, seconds = 2.0 * 4 * shape.heads * pairs + inputs, 0.0
    else:
        ratio = length / last.length
        memory = last.peak_bytes * ratio**memory_power + inputs
        seconds = last.seconds * ratio**time_power
    if memory > memory_limit:
        return Stopped(kind, length, "memory", memory)
    return Stopped(kind, length, "time", seconds) if seconds > seconds_limit else None


def _measure(kind: str, length: int, shape: Shape, repeats: int, device: str) -> CostRow:
    heads = shape.inputs(length, device)
    run = shape.call(kind, length, device)
    with torch.no_grad():
        peak = _peak_cuda(run, heads) if device == "cuda" else _peak_cpu(run, heads)
        times: list[float] = []
        while len(times) < repeats and sum(times) < LONG_ENOUGH:
            start = time.perf_counter()
            run(*heads)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return CostRow(kind, length, min(times), peak)


def _peak_cpu(run: Callable[..., Tensor], heads: tuple[Tensor, ...]) -> int:
    """Most bytes live at once; what is released is recorded as less than none."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else it announces itself on stderr
    with torch.autograd.profiler.profile(profile_memory=True, use_kineto=False) as record:
        out = run(*heads)
        del out
    assert record.kineto_results is not None
    events = [e for e in record.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _peak_cuda(run: Callable[..., Tensor], heads: tuple[Tensor, ...]) -> int:
    run(*heads)  # kernels are loaded at the first call
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(*heads)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _exponents(rows: Sequence[CostRow], of: Callable[[CostRow], float]) -> dict[str, Interval]:
    """The slope of log cost on log length, kind by kind, over the top octaves of its lengths."""
    found = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        top = [row for row in mine if row.length * 2**TOP_OCTAVES >= mine[-1].length]
        if len(top) >= 3:
            found[kind] = slope_interval(
                [math.log(row.length) for row in top], [math.log(of(row)) for row in top]
            )
    return found
