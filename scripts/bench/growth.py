"""Growth: how the time of our own training step rises with width, length, batch and corpus size.

Every row is one setting; rows of an axis take turns. `exponent` is the slope of the logarithms:
1 is linear growth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from harness import Settings, Side, Worker, alternate, rates, spread

AXES: dict[str, tuple[str, list[int]]] = {
    "width": ("seconds an update of 4,096 tokens, FFN 4 x width", [128, 256, 512, 1024]),
    "length": ("seconds for 4,096 tokens in sentences of this length", [16, 32, 64, 128, 256, 512]),
    "batch": ("seconds an update of so many tokens", [1024, 2048, 4096, 8192, 16384]),
    "corpus": ("seconds to plan an epoch of so many pairs", [10**5, 10**6, 5 * 10**6]),
}


def request_of(axis: str, value: int) -> dict[str, Any]:
    """What the engine is asked to build; see engine_growth.py."""
    width = value if axis == "width" else 256
    length = value if axis == "length" else 16
    tokens = value if axis == "batch" else 4_096
    if axis == "corpus":
        return {"do": "begin_plan", "pairs": value}
    return {"do": "begin_step", "width": width, "length": length, "tokens": tokens}


def exponent(values: list[int], medians: list[float]) -> float:
    """Slope of a least-squares line through the logarithms."""
    x, y = [math.log(v) for v in values], [math.log(m) for m in medians]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def measure_axis(settings: Settings, axis: str, values: list[int]) -> dict[str, Any]:
    """All settings of one axis in turns."""
    sides = []
    for value in values:
        worker = Worker(settings, "nmt", "engine_growth")
        facts = worker.ask(**request_of(axis, value))
        sides.append(Side(f"{value}", worker, {"do": "step"}, facts))
    alternate(sides, 1 if settings.quick else settings.rounds)
    rows: dict[str, Any] = {}
    for side in sides:
        rows[side.name] = {
            **side.facts,
            "seconds": spread([turn["seconds"] for turn in side.turns]),
            "tokens_per_second": rates(side, "tokens"),
        }
        side.worker.close()
    medians = [row["seconds"]["median"] for row in rows.values()]
    return {"what": AXES[axis][0], "rows": rows, "exponent": exponent(values, medians)}


def measure(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """All axes."""
    found = {}
    for axis, (_, values) in AXES.items():
        report(f"growth with {axis}")
        found[axis] = measure_axis(settings, axis, values[:2] if settings.quick else values)
    return found
