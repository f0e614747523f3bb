"""Intervals against printed tables, loops and simulation."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest

from nmt.evaluation.statistics import (
    Interval,
    bootstrap,
    bootstrap_mean,
    bootstrap_slope,
    kendall_tau,
    mean_interval,
    plain,
    slope_interval,
    t_quantile,
    wilson,
)


@pytest.mark.parametrize(
    ("p", "df", "printed"),
    [
        *((0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776)),
        *((0.975, 10, 2.228), (0.975, 29, 2.045), (0.975, 120, 1.980), (0.95, 5, 2.015)),
        *((0.995, 7, 3.499), (0.9, 30, 1.310), (0.975, 5_000, 1.960), (0.025, 10, -2.228)),
        (0.5, 3, 0.0),
    ],
)
def test_quantiles_are_those_of_the_printed_table(p: float, df: int, printed: float) -> None:
    assert t_quantile(p, df) == pytest.approx(printed, abs=6e-4)


def test_there_is_no_quantile_without_freedom() -> None:
    for p, df in ((0.5, 0), (0.0, 3), (1.0, 3)):
        with pytest.raises(ValueError, match="no quantile"):
            t_quantile(p, df)


def test_mean_of_three_seeds() -> None:
    """30, 31, 32: mean 31, standard error 1 / sqrt 3, t(2) = 4.303."""
    found = mean_interval([30, 31, 32])
    assert (found.value, found.n) == (31, 3)
    assert found.high - found.value == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_one_seed_says_nothing() -> None:
    assert mean_interval([3.0]) == Interval(3.0, -math.inf, math.inf, 1)
    assert bootstrap(lambda rows: 3.0 + rows.sum(), 1) == bootstrap_mean([3.0])
    assert bootstrap_mean([3.0]) == Interval(3.0, -math.inf, math.inf, 1)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_slope_of_a_textbook_regression() -> None:
    """x 1…5, y 2 4 5 4 5: slope 0.6, residual sum of squares 2.4, standard error sqrt(0.08)."""
    found = slope_interval([1, 2, 3, 4, 5], [2, 4, 5, 4, 5])
    assert found.value == pytest.approx(0.6)
    assert found.high == pytest.approx(0.6 + 3.1824 * math.sqrt(0.08), abs=1e-4)
    assert found.low == pytest.approx(0.6 - 3.1824 * math.sqrt(0.08), abs=1e-4)
    with pytest.raises(ValueError, match="different x"):
        slope_interval([1, 1], [2, 3])
    with pytest.raises(ValueError, match="but 3 y"):
        bootstrap_slope([1, 2], [2, 3, 4])


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = random.Random(1)
    held = dict.fromkeys(("t", "bootstrap", "slope", "slopes", "share"), 0)
    runs = 200
    for run in range(runs):
        x = [rng.uniform(0, 10) for _ in range(40)]
        y = [2.0 + 0.3 * a + rng.gauss(0, 1) for a in x]
        noise = [rng.gauss(5, 2) for _ in range(40)]
        hits = sum(rng.random() < 0.9 for _ in range(40))
        found = {
            "t": (mean_interval(noise), 5),
            "bootstrap": (bootstrap_mean(noise, 200, run), 5),
            "slope": (slope_interval(x, y), 0.3),
            "slopes": (bootstrap_slope(x, y, 200, run), 0.3),
            "share": (wilson(hits, 40), 0.9),
        }
        for name, (interval, truth) in found.items():
            held[name] += interval.low <= truth <= interval.high
    assert all(0.88 <= count / runs <= 0.995 for count in held.values()), held


def test_bootstrap_repeats_by_seed() -> None:
    rng = random.Random(2)
    values = [rng.gauss(0, 1) for _ in range(30)]
    assert bootstrap_mean(values, 100, 3) == bootstrap_mean(values, 100, 3)
    assert bootstrap_mean(values, 100, 3) != bootstrap_mean(values, 100, 4)
    found = bootstrap(lambda rows: float(np.array(values)[rows].mean()), len(values), 100, 3)
    assert found == bootstrap_mean(values, 100, 3)


def test_wilson_of_a_printed_example() -> None:
    """15 of 148 (Newcombe 1998, Table I, method 3): 0.0624 to 0.1605; 0 of 20: 0 to 0.1611."""
    found = wilson(15, 148)
    assert (found.low, found.high) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert (wilson(0, 20).low, wilson(0, 20).high) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def tau_by_loop(x: list[int], y: list[int]) -> float | None:
    """Tau-b as it is written: (C - D) / sqrt((n0 - n1) (n0 - n2))."""
    both = one = other = balance = 0
    for i in range(len(x)):
        for j in range(i):
            both += 1
            one += x[i] == x[j]
            other += y[i] == y[j]
            product = (x[i] - x[j]) * (y[i] - y[j])
            balance += (product > 0) - (product < 0)
    below = (both - one) * (both - other)
    return balance / math.sqrt(below) if below else None


def test_tau_is_that_of_the_definition() -> None:
    rng = random.Random(4)
    for _ in range(60):
        n = rng.randint(2, 9)
        x, y = ([rng.randint(0, 4) for _ in range(n)] for _ in range(2))
        expected = tau_by_loop(x, y)
        assert kendall_tau(x, y) == (None if expected is None else pytest.approx(expected))
    assert kendall_tau([1, 2, 3], [2, 4, 9]) == 1.0
    assert kendall_tau([1, 2, 3], [9, 4, 2]) == -1.0
    assert kendall_tau([1, 1], [1, 2]) is None
    with pytest.raises(ValueError, match="but 1 y"):
        kendall_tau([1, 2], [1])


def test_an_interval_of_a_share_holds_the_share_to_the_last_bit() -> None:
    for n in range(1, 1000):
        assert wilson(n, n).high == 1.0
        assert wilson(0, n).low == 0.0


def test_plain_results_are_json() -> None:
    @dataclass(frozen=True)
    class Result:
        interval: Interval
        by_name: dict[str, tuple[float, ...]]

    found = plain(Result(mean_interval([1.0]), {"a": (1.0, math.nan)}))
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "interval": {"value": 1.0, "low": None, "high": None, "n": 1, "confidence": 0.95},
        "by_name": {"a": [1.0, None]},
    }
