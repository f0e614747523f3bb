"""Estimates with their intervals: what a probe needs to say how sure it is.

Small and exact where a closed form exists; everything that draws at random does so from a seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

SAMPLES = 2_000
"""Bootstrap samples behind an interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate from ``n`` observations; unbounded (±inf) where they are too few to tell."""

    value: float
    low: float
    high: float
    n: int
    confidence: float = 0.95


def plain(result: Any) -> Any:
    """A result as plain dicts, lists and numbers; None where a number is not finite."""
    return _finite(asdict(result))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- Student's t ---------------------------------------------------------------------------------


def t_probability(t: float, df: int) -> float:
    """P(|T| < t) of Student's t (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    theta = math.atan2(t, math.sqrt(df))
    cos2 = math.cos(theta) ** 2
    odd = df % 2
    term = math.cos(theta) if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(3 if odd else 2, df, 2):
        term *= cos2 * (k - 1) / k
        total += term
    series = math.sin(theta) * total
    return 2 / math.pi * (theta + series) if odd else series


@functools.cache
def t_quantile(p: float, df: int) -> float:
    """The quantile of Student's t; from 2,000 degrees of freedom on the normal's, three digits off.

    Raises:
        ValueError: no degree of freedom, or ``p`` is no probability.
    """
    if df < 1 or not 0 < p < 1:
        raise ValueError(f"no quantile {p} of t with {df} degrees of freedom")
    if df >= 2_000:
        return NormalDist().inv_cdf(p)
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_probability(high, df) < 2 * p - 1:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        below = t_probability(middle, df) < 2 * p - 1
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The t interval of a mean, such as that of a few seeds.

    Raises:
        ValueError: no values.
    """
    x = _values(values)
    if len(x) == 1:
        return Interval(float(x[0]), -math.inf, math.inf, 1, confidence)
    error = float(x.std(ddof=1)) / math.sqrt(len(x))
    return _around(float(x.mean()), error, len(x), len(x) - 1, confidence)


def slope_interval(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> Interval:
    """The least-squares slope of y on x with its t interval (n - 2 degrees of freedom).

    Raises:
        ValueError: not one y per x, or all x are equal.
    """
    a, b = _values(x), _values(y)
    slope = _slope(a, b)
    if len(a) < 3:
        return Interval(slope, -math.inf, math.inf, len(a), confidence)
    rest = b - b.mean() - slope * (a - a.mean())
    variance = float(rest @ rest) / (len(a) - 2) / float(((a - a.mean()) ** 2).sum())
    return _around(slope, math.sqrt(variance), len(a), len(a) - 2, confidence)


def _around(value: float, error: float, n: int, df: int, confidence: float) -> Interval:
    reach = t_quantile((1 + confidence) / 2, df) * error
    return Interval(value, value - reach, value + reach, n, confidence)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} x, but {len(y)} y")
    away = x - x.mean()
    spread = float(away @ away)
    if spread == 0.0:
        raise ValueError("a slope needs two different x")
    return float(away @ y) / spread


# ---- bootstrap -----------------------------------------------------------------------------------


def bootstrap_mean(
    values: Sequence[float], samples: int = SAMPLES, seed: int = 1, confidence: float = 0.95
) -> Interval:
    """The percentile bootstrap of a mean (Efron 1979), such as that of paired differences.

    Raises:
        ValueError: no values.
    """
    x = _values(values)
    if len(x) == 1:
        return Interval(float(x[0]), -math.inf, math.inf, 1, confidence)
    means = [x[rows].mean(1) for rows in _draws(len(x), samples, seed)]
    return _percentiles(float(x.mean()), np.concatenate(means), len(x), confidence)


def bootstrap_slope(
    x: Sequence[float],
    y: Sequence[float],
    samples: int = SAMPLES,
    seed: int = 1,
    confidence: float = 0.95,
) -> Interval:
    """The least-squares slope of y on x; pairs are drawn, so no equal variance is assumed.

    Raises:
        ValueError: not one y per x, or all x are equal.
    """
    a, b = _values(x), _values(y)
    slope = _slope(a, b)
    if len(a) < 3:
        return Interval(slope, -math.inf, math.inf, len(a), confidence)
    slopes = []
    for rows in _draws(len(a), samples, seed):
        away = a[rows] - a[rows].mean(1, keepdims=True)
        spread = (away * away).sum(1)
        told = spread > 0  # a sample of one x alone has no slope
        slopes.append((away * b[rows]).sum(1)[told] / spread[told])
    return _percentiles(slope, np.concatenate(slopes), len(a), confidence)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    samples: int = SAMPLES,
    seed: int = 1,
    confidence: float = 0.95,
) -> Interval:
    """The percentile bootstrap of any function of the places of ``n`` observations.

    Raises:
        ValueError: no observations.
    """
    if n < 1:
        raise ValueError("a bootstrap needs observations")
    value = statistic(np.arange(n))
    if n == 1:
        return Interval(value, -math.inf, math.inf, 1, confidence)
    drawn = [statistic(row) for rows in _draws(n, samples, seed) for row in rows]
    return _percentiles(value, np.array(drawn), n, confidence)


def _draws(n: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Places drawn with replacement, (some samples, n) at a time, at most a million numbers."""
    rng = np.random.default_rng(seed)
    block = max(1, 1_000_000 // n)
    for start in range(0, samples, block):
        yield rng.integers(0, n, (min(block, samples - start), n))


def _percentiles(value: float, drawn: np.ndarray, n: int, confidence: float) -> Interval:
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(value, float(low), float(high), n, confidence)


# ---- shares and ranks ---------------------------------------------------------------------------


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """A share with Wilson's score interval (Wilson 1927); of nothing, anywhere from 0 to 1.

    Raises:
        ValueError: more successes than trials.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0, confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # A share of 0 or 1 is an end of its own interval, but for rounding.
    low, high = min(share, max(0.0, centre - reach)), max(share, min(1.0, centre + reach))
    return Interval(share, low, high, n, confidence)


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b (Kendall 1945), which allows for ties; None where one side is all ties.

    Raises:
        ValueError: not one y per x.
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} x, but {len(b)} y")
    first, second = np.triu_indices(len(a), 1)
    signs_a, signs_b = np.sign(a[first] - a[second]), np.sign(b[first] - b[second])
    untied = float(np.count_nonzero(signs_a)) * float(np.count_nonzero(signs_b))
    return None if untied == 0 else float(signs_a @ signs_b) / math.sqrt(untied)


def _values(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        raise ValueError("there are no values")
    return x
