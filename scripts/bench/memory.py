"""Peak memory of training and decoding, each engine in a fresh process.

"work" is the peak while it computes; "beyond" is that less what was resident when it was ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import decoding
import training
from harness import Settings, Side


def peak_of(side: Side, request: dict[str, Any]) -> dict[str, Any]:
    """Bytes resident before the work and at most during it."""
    ready = side.worker.ask("forget_peak")["bytes"]
    side.worker.ask(**request)
    peak = side.worker.ask("memory")["peak_bytes"]
    return {**side.facts, "ready_bytes": ready, "work_bytes": peak, "beyond_bytes": peak - ready}


def measure(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """Training on so many batches that what is kept for their shapes counts; beam 5 by forties."""
    cycle, updates = (3, 1) if settings.quick else (60, 20)
    found: dict[str, Any] = {"training": {}}
    for name in training.CASES:
        report(f"memory, training {name}")
        sides = training.sides_of(settings, name, cycle, updates)
        found["training"][name] = {side.name: peak_of(side, side.request) for side in sides}
        for side in sides:
            side.worker.close()
    report("memory, decoding")
    run = decoding.trained_run(settings, report)
    material = decoding.read_material(settings, run)
    batches, _ = material.batches(decoding.MODES[0], 40 if settings.quick else 80)
    request = {"do": "decode", "batches": batches, "beam": 5, "limit": decoding.LIMIT}
    sides = decoding.sides_of(settings, run)
    found["decoding"] = {side.name: peak_of(side, request) for side in sides}
    for side in sides:
        side.worker.close()
    return found
