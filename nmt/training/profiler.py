"""Where the time of an update goes: a trace for the browser and a table of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED, WARMED = 5, 2
"""Updates before the traced ones: memory is taken and kernels are chosen, the profiler starts."""
ROWS = 15
"""Operators in the table, the most expensive ones first."""


@contextmanager
def profiled(
    steps: int, folder: Path | None, device: torch.device
) -> Iterator[Callable[[], object]]:
    """Trace some updates of what runs inside; yields what is to be called after each update.

    Args:
        steps: how many updates; 0 is off.
        folder: takes ``trace.json`` (Chrome's trace format: https://ui.perfetto.dev,
            chrome://tracing) and ``operators.txt``, the table that is printed at the end;
            None, for ranks other than the first, is off.
    """
    if not steps or folder is None:
        yield bool
        return
    tables: list[str] = []
    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"

    def keep(done: profile) -> None:
        folder.mkdir(exist_ok=True)
        done.export_chrome_trace(str(folder / "trace.json"))
        averages = done.key_averages()
        tables.append(averages.table(sort_by=order, row_limit=ROWS, max_name_column_width=45))
        (folder / "operators.txt").write_text(tables[-1], encoding="utf-8", newline="\n")

    plan = schedule(skip_first=SKIPPED, wait=0, warmup=WARMED, active=steps, repeat=1)
    with profile(activities=kinds, schedule=plan, on_trace_ready=keep) as profiler:
        yield profiler.step
    if tables:
        print(tables[-1])
        print(f"{steps} updates: open {folder / 'trace.json'} in https://ui.perfetto.dev")
    else:
        print(
            f"no profile: training ended within {SKIPPED + WARMED} updates; raise train.max_steps"
        )
