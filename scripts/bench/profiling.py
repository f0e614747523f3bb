"""The part called profile: what a training step and a translation are spent on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import decoding
import training
from harness import Settings, Worker

Report = Callable[[str], None]


def of_training(settings: Settings, report: Report) -> dict[str, Any]:
    """Every model and precision, with one thread and with all."""
    found = {}
    updates = 3 if settings.quick else 20
    for name, case in training.CASES.items():
        for precision in ("bf16", "fp32"):
            for threads in sorted({1, settings.threads}):
                here = replace(settings, threads=threads)
                words = [*training.common_words(here), *case.words, f"train.precision={precision}"]
                worker = Worker(here, "nmt", "engine_profile")
                request = {"words": words, "places": training.places(here), "updates": updates}
                row = {do: worker.ask(do, **request) for do in ("loop", "operations")}
                worker.close()
                label = f"{name}, {precision}, threads: {threads}"
                found[label] = row
                report(f"profile {label}: {row['loop']['shares']}")
    return found


def of_decoding(settings: Settings, report: Report) -> dict[str, Any]:
    """Every mode and precision; one thread: a profiler sees no batches side by side."""
    here = replace(settings, threads=1)
    found = {}
    run = decoding.trained_run(settings, report)
    material = decoding.read_material(settings, run)
    for mode in decoding.MODES:
        batches, _ = material.batches(mode, 40 if settings.quick else 400)
        for precision in ("fp32", "bf16"):
            worker = Worker(here, "nmt", "engine_profile")
            request = {"batches": batches, "beam": mode.beam, "limit": decoding.LIMIT}
            row = worker.ask("translating", run=str(run), precision=precision, **request)
            worker.close()
            found[f"{mode}, {precision}"] = row
            report(f"profile {mode}, {precision}: {row['shares']}")
    return found


def measure(settings: Settings, report: Report) -> dict[str, Any]:
    """Training, then decoding."""
    return {
        "training": of_training(settings, report),
        "decoding": of_decoding(settings, report),
    }
