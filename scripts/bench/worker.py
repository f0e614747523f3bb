"""One engine as a long-lived process: a line of JSON asks, a line of JSON answers.

Imported by every engine in its own environment, so nothing but the standard library is used here.
An engine is a file with functions and, at its end, ``serve({"train": train, …})``; it is spoken to
by `harness.Worker`. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def serve(handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests ``{"do": name, **arguments}`` until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    known = {"memory": memory, "forget_peak": forget_peak, **handlers}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = known[request.pop("do")](**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


@contextmanager
def clock() -> Iterator[dict[str, float]]:
    """Wall-clock and processor seconds of the block, in the dictionary, after it."""
    spent: dict[str, float] = {}
    wall, processor = time.perf_counter(), time.process_time()
    yield spent
    spent["seconds"] = time.perf_counter() - wall
    spent["cpu_seconds"] = time.process_time() - processor


def memory() -> dict[str, Any]:
    """Bytes resident now and at most since `forget_peak` (or the start)."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    now, peak = (1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return {"bytes": now, "peak_bytes": peak, "since_start": _whole_peak()}


def forget_peak() -> dict[str, Any]:
    """Start measuring the peak anew (Linux, where /proc/self/clear_refs can be written)."""
    CLEAR.write_text("5")
    return memory()


def _whole_peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
