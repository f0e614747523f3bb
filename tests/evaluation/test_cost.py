"""What attention costs: bytes that can be written down, powers of the length, and limits."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys

import pytest

from nmt.errors import UserError
from nmt.evaluation.probes import cost
from nmt.evaluation.probes.cost import (
    KINDS,
    CostReport,
    CostRow,
    Shape,
    Stopped,
    attention_cost,
    cost_with_memory_kept,
    fused_error,
)

SHAPE = Shape(heads=2, head_width=8, span=16)
LENGTHS = (64, 128, 256, 512)


@pytest.fixture(scope="module")
def report() -> CostReport:
    return attention_cost(lengths=LENGTHS, memory_limit=2**30, shape=SHAPE, repeats=1)


def test_explicit_attention_holds_two_matrices(report: CostReport) -> None:
    """Scores and weights at once, and the scaled queries: 4 (2 H T T + H T d) bytes."""
    for row in report.rows:
        if row.kind == "explicit":
            expected = 4 * (2 * 2 * row.length**2 + 2 * row.length * 8)
            assert row.peak_bytes == expected


def test_memory_grows_with_the_square_or_not(report: CostReport) -> None:
    powers = {kind: found.value for kind, found in report.memory_exponents.items()}
    assert powers["explicit"] == pytest.approx(2.0, abs=0.1)
    for kind, slack in (("fused", 0.4), ("window", 0.2), ("linear_causal", 0.2)):
        assert powers[kind] == pytest.approx(1.0, abs=slack), kind
    assert powers["linear"] < 1.1
    assert list(report.time_exponents) == list(KINDS)
    assert report.stopped == ()
    assert report.fused_error < 1e-5


def test_all_kinds_hold_their_contexts(report: CostReport) -> None:
    assert all(row.peak_bytes >= 4 * 2 * row.length * 8 for row in report.rows)
    assert all(row.seconds > 0 for row in report.rows)
    assert len(report.rows) == len(KINDS) * len(LENGTHS)


def test_exponents_are_those_of_the_top_octaves() -> None:
    """Eight lengths, cubic from the fifth on: three doublings are the last four lengths."""
    rows = [CostRow("made up", 2**k, 8.0 ** max(k, 4), 3 * 2**k) for k in range(8)]
    found = cost._exponents(rows, lambda row: row.seconds)["made up"]
    assert (found.value, found.n) == (pytest.approx(3.0), 4)
    assert cost._exponents(rows[:2], lambda row: row.seconds) == {}


def test_a_kind_stops_before_the_limit() -> None:
    """At 256 two matrices of scores take 1 MiB; the fused kind goes on."""
    found = attention_cost(
        ("explicit", "fused"),
        LENGTHS,
        memory_limit=2**20,
        shape=SHAPE,
        repeats=1,
    )
    assert [row.length for row in found.rows if row.kind == "explicit"] == [64, 128]
    assert [row.length for row in found.rows if row.kind == "fused"] == list(LENGTHS)
    assert [(s.kind, s.length, s.reason) for s in found.stopped] == [
        ("explicit", 256, "memory"),
        ("explicit", 512, "memory"),
    ]
    assert found.stopped[1].estimate == pytest.approx(4 * 2 * 2 * 512**2, rel=0.1)
    assert "explicit" not in found.memory_exponents


def test_nothing_is_tried_that_could_not_fit() -> None:
    found = attention_cost(("explicit",), (2**20,), memory_limit=2**30, shape=SHAPE)
    [stopped] = found.stopped
    assert (found.rows, stopped.reason) == ((), "memory")
    assert stopped.estimate == pytest.approx(4 * 2 * 2 * 2.0**40, rel=0.01)


def test_a_kind_stops_where_it_would_take_too_long() -> None:
    last = CostRow("fused", 100, 1.0, 10)
    over = cost._over("fused", 200, last, SHAPE, 2**30, 3.9)
    assert over == Stopped("fused", 200, "time", 4.0)
    assert cost._over("fused", 200, last, SHAPE, 2**30, 4.1) is None
    assert cost._over("window", 200, CostRow("window", 100, 1.0, 10), SHAPE, 2**30, 2.1) is None


def test_unknown_kinds_and_devices() -> None:
    with pytest.raises(UserError, match="unknown attention 'quadratic': choose explicit, fused"):
        attention_cost(("quadratic",), memory_limit=1)
    with pytest.raises(UserError, match="memory cannot be measured on 'mps': choose cpu, cuda"):
        attention_cost(memory_limit=1, device="mps")


def test_fused_is_explicit_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fused_error(SHAPE, 100) < 1e-5
    monkeypatch.setattr(cost, "ScaledDot", cost.ScaledDot)
    wrong = Shape(heads=2, head_width=8)
    call = Shape.call

    def off(self: Shape, kind: str, length: int, device: str) -> object:
        run = call(self, kind, length, device)
        return (lambda q, k, v: run(q / math.sqrt(8), k, v)) if kind == "fused" else run

    monkeypatch.setattr(Shape, "call", off)
    assert fused_error(wrong, 100) > 1e-2


def test_a_process_of_its_own_finds_the_same_bytes(report: CostReport) -> None:
    before = dict(os.environ)
    found = cost_with_memory_kept(LENGTHS[:2], memory_limit=2**30, shape=SHAPE, repeats=1)
    assert [(row.kind, row.length, row.peak_bytes) for row in found.rows] == [
        (row.kind, row.length, row.peak_bytes) for row in report.rows if row.length in LENGTHS[:2]
    ]
    assert dict(os.environ) == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_that_was_released_is_not_zeroed_again() -> None:
    """The second block of 64 MiB takes the pages of the first."""
    code = (
        "import resource\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "a = bytearray(b'x') * 2**26; del a; before = faults(); a = bytearray(b'x') * 2**26\n"
        "print(faults() - before)"
    )
    with cost._environment(cost.KEEPS_MEMORY):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) < 100
