"""Start-up: processor seconds of small commands, beyond those of `import torch`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from decoding import trained_run
from harness import ROOT, Settings, spread

SENTENCE = "A man in an orange hat staring at something."


def cpu_seconds(words: list[str], threads: int) -> dict[str, float]:
    """Processor and wall-clock seconds of a Python process with these arguments.

    Raises:
        SystemExit: the command failed.
    """
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, *words],
        environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
    )
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(words)} failed")
    return {
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "seconds": time.perf_counter() - begin,
        "peak_bytes": 1024 * used.ru_maxrss,
    }


def measure(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """All commands in turns, after one of each that fills the caches."""
    run = trained_run(settings, report)
    commands = {
        "import torch": ["-c", "import torch"],
        "nmt --help": ["-m", "nmt", "--help"],
        "nmt train --help": ["-m", "nmt", "train", "--help"],
        "nmt translate": ["-m", "nmt", "translate", f"run={run}", f"text={SENTENCE}"],
    }
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    rounds = 1 if settings.quick else settings.rounds
    for number in range(rounds + 1):
        for name, words in commands.items():
            spent = cpu_seconds(words, settings.threads)
            if number:
                turns[name].append(spent)
        report(f"start-up, round {number} of {rounds}")
    found: dict[str, Any] = {
        name: {key: spread([turn[key] for turn in rows]) for key in rows[0]}
        for name, rows in turns.items()
    }
    beyond = zip(turns["nmt translate"], turns["import torch"], strict=True)
    found["nmt translate beyond import torch"] = {
        "cpu_seconds": spread([a["cpu_seconds"] - b["cpu_seconds"] for a, b in beyond])
    }
    return found
