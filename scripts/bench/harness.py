"""Engines side by side: their processes, turns, medians, and what machine it was.

Speed is a ratio. All sides of a comparison take turns on one machine, one computes at a time, each
round runs all of them (in alternating order, so that a drift cancels), and the ratio of two sides
is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""What a processor can do that matters here, if it says so."""
PAUSE = 0.3
"""Seconds between turns: OpenMP's threads spin for 0.2 s after their last work."""


@dataclass(frozen=True)
class Settings:
    """What `scripts/bench/run` was told."""

    home: Path  # environments, prepared data, exported models
    data: Path
    run: Path | None
    rounds: int
    threads: int
    quick: bool

    def python(self, environment: str) -> Path:
        """The interpreter of an environment; this program's own is "nmt".

        Raises:
            SystemExit: the environment was not made.
        """
        if environment == "nmt":
            return Path(sys.executable)
        python = self.home / environment / "bin" / "python"
        if not python.exists():
            raise SystemExit(f"{python} is not there: scripts/bench/run makes it")
        return python


class Worker:
    """An engine in a process of its own; see worker.py."""

    def __init__(
        self,
        settings: Settings,
        environment: str,
        engine: str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        environ = {
            **os.environ,
            "OMP_NUM_THREADS": str(settings.threads),
            "MKL_NUM_THREADS": str(settings.threads),
            "PYTHONPATH": str(ROOT) if environment == "nmt" else "",
            "HF_HUB_OFFLINE": "1",
            **(variables or {}),
        }
        settings.home.mkdir(parents=True, exist_ok=True)
        self.log = settings.home / f"{engine}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(settings.python(environment)), str(HERE / f"{engine}.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environ,
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The engine's answer.

        Raises:
            RuntimeError: what went wrong there.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{do}: the engine is gone, see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{do}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Side:
    """One side of a comparison: an engine, ready, and what to ask of it each turn."""

    name: str
    worker: Worker
    request: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)  # versions, parameters, precision
    turns: list[dict[str, Any]] = field(default_factory=list)

    def turn(self) -> None:
        """One measurement."""
        time.sleep(PAUSE)
        self.turns.append(self.worker.ask(**self.request))


def alternate(sides: Sequence[Side], rounds: int, report: Any = print) -> None:
    """A warm-up of every side, then ``rounds`` turns each."""
    for side in sides:
        side.worker.ask(**side.request)
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            side.turn()
        shown = "  ".join(f"{side.name} {side.turns[-1]['seconds']:.2f} s" for side in sides)
        report(f"  round {number + 1} of {rounds}: {shown}", file=sys.stderr, flush=True)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, extremes and how many."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def rates(side: Side, unit: str) -> dict[str, float]:
    """``unit`` a second of wall-clock time, over the turns."""
    return spread([turn[unit] / turn["seconds"] for turn in side.turns])


def ratio(first: Side, second: Side, unit: str) -> dict[str, float]:
    """How many times faster the first is, over the rounds."""
    pairs = zip(first.turns, second.turns, strict=True)
    return spread([a[unit] / a["seconds"] * b["seconds"] / b[unit] for a, b in pairs])


def table(sides: Sequence[Side], units: Sequence[str], first: str) -> dict[str, Any]:
    """Rates of all sides, and how many times faster than each the side called ``first`` is."""
    by_name = {side.name: side for side in sides}
    return {
        side.name: {
            **side.facts,
            **{f"{unit}_per_second": rates(side, unit) for unit in units},
            "cpu_seconds": spread([turn["cpu_seconds"] for turn in side.turns]),
            "times_slower": ratio(by_name[first], side, units[0]),
        }
        for side in sides
    }


def busy(seconds: float = 2.0) -> float:
    """Share of all cores' time that somebody else uses, looked at for some seconds."""

    def ticks() -> tuple[int, int]:
        first = Path("/proc/stat").read_text("utf-8").split("\n", 1)[0]
        numbers = [int(number) for number in first.split()[1:]]
        return sum(numbers), numbers[3] + numbers[4]  # idle and waiting for a disk

    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_after, idle_after = ticks()
    return 1 - (idle_after - idle_before) / max(1, all_after - all_before)


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on; call it before measuring, for how busy it is."""
    info = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = [flag for flag in fields.get("flags", "").split() if flag in FLAGS]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": fields.get("model name", platform.processor()),
        "flags": flags,
        "cores": os.cpu_count(),
        "threads": threads,
        "busy": busy(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": commit.stdout.strip(),
    }


def save(
    part: str, settings: Settings, before: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """Write results/PART.json; a quick pass goes to the home folder, for its times mean nothing."""
    folder = settings.home / "quick" if settings.quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    content = {"part": part, "quick": settings.quick, "machine": before, "found": found}
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (folder / f"{part}.json").write_text(f"{text}\n", "utf-8")
