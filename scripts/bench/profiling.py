"""The part called profile: what a training step is spent on, one thread and all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import training
from harness import Settings, Worker


def measure(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """Shares for every model and precision."""
    found: dict[str, Any] = {}
    updates = 3 if settings.quick else 30
    for name, case in training.CASES.items():
        for precision in ("bf16", "fp32"):
            for threads in sorted({1, settings.threads}):
                here = replace(settings, threads=threads)
                words = [*training.common_words(here), *case.words, f"train.precision={precision}"]
                worker = Worker(here, "nmt", "engine_profile")
                request = {"words": words, "places": training.places(here), "updates": updates}
                row = {do: worker.ask(do, **request) for do in ("loop", "operations")}
                worker.close()
                label = f"{name}, {precision}, {threads} threads"
                found[label] = row
                report(f"profile {label}: {row['loop']['shares']}")
    return found
