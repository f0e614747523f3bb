"""`scripts/bench/run`: the parts that are asked for, one after the other."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

import tables
from harness import HERE, RESULTS, ROOT, Settings, machine, save

PARTS = ("training", "decoding", "preparing", "startup", "memory", "growth", "profile")
MODULES = {"profile": "profiling"}  # a module of the standard library is called profile


def parsed() -> tuple[list[str], Settings]:
    """What was typed."""
    parser = argparse.ArgumentParser(prog="scripts/bench/run", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--run", type=Path, help="a trained Multi30k Transformer, for decoding")
    parser.add_argument("--home", type=Path, default=os.environ.get("NMT_BENCH_HOME"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="tiny: is it right, not how fast")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    settings = Settings(
        home=(given.home or ROOT / ".bench").resolve(),
        data=given.data.resolve(),
        run=given.run.resolve() if given.run else None,
        rounds=given.rounds,
        threads=given.threads,
        quick=given.quick,
    )
    return given.parts or list(PARTS), settings


def main() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these parts are the CPU's; for a GPU there is gpu.py
    parts, settings = parsed()
    for part in parts:
        before = machine(settings.threads)
        module = importlib.import_module(MODULES.get(part, part))
        found = module.measure(settings, lambda line: print(line, file=sys.stderr, flush=True))
        save(part, settings, before, found)
    quick = settings.home / "quick"
    if settings.quick:
        (quick / "RESULTS.md").write_text("", "utf-8")
        tables.write(quick, quick / "RESULTS.md")
    else:
        tables.write(RESULTS, HERE / "RESULTS.md")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
