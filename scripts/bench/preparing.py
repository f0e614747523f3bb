"""Preparing: pairs a second and peak memory, from a text file to tokenised pairs.

The corpus is large.en-fr, over and over. So that cleaning has honest work, each repetition is made
distinct: both sides of the second one end in " (2)", and so on. Every filter of ``data=tsv`` is on,
exact duplicates included, which finds what the corpus itself repeats and has to hold all the hashes
to do so. Rates count pairs read. The time of training the vocabulary does not grow with the corpus;
the rate between two sizes leaves it out.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from harness import ROOT, Settings, spread

SIZES = (1_000_000, 5_000_000, 7_500_000)
SAMPLE_SECONDS = 0.05


def lines_of(folder: Path) -> Iterator[str]:
    """Lines of all files, over and over, each time distinct."""
    for repetition in count(1):
        mark = f" ({repetition})" if repetition > 1 else ""
        for file in sorted(folder.glob("*.tsv.gz")):
            with gzip.open(file, "rt", encoding="utf-8", newline="\n") as text:
                for line in text:
                    source, _, target = line.rstrip("\n").partition("\t")
                    yield f"{source}{mark}\t{target}{mark}\n"


def write_corpus(folder: Path, pairs: int, path: Path) -> None:
    """So many lines as a TSV file."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(islice(lines_of(folder), pairs))


class Tree:
    """Peak memory of a process with all its children, looked at every 0.05 s."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.peak = {"VmRSS": 0, "RssAnon": 0}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            family = self._family()
            for key in self.peak:
                self.peak[key] = max(self.peak[key], sum(one.get(key, 0) for one in family))

    def _family(self) -> list[dict[str, int]]:
        found: dict[int, dict[str, int]] = {}
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            except OSError:  # it ended meanwhile
                continue
            numbers = {
                key: fields[key].split()[0] for key in ("PPid", "VmRSS", "RssAnon") if key in fields
            }
            found[int(status.parent.name)] = {key: int(value) for key, value in numbers.items()}
        family, grown = {self.root} & found.keys(), True
        while grown:
            children = {pid for pid, one in found.items() if one["PPid"] in family} - family
            family, grown = family | children, bool(children)
        return [found[pid] for pid in family]

    def close(self) -> dict[str, int]:
        """Bytes: all resident (mapped files included), and what is in no file."""
        self._over.set()
        self._thread.join()
        return {
            "peak_bytes": 1024 * self.peak["VmRSS"],
            "peak_anonymous_bytes": 1024 * self.peak["RssAnon"],
        }


def watched(settings: Settings, words: list[str]) -> dict[str, Any]:
    """Run `nmt` with these words: seconds and peak memory.

    Raises:
        SystemExit: it failed.
    """
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(settings.threads)}
    command = [sys.executable, "-m", "nmt", *words]
    begin, before = time.perf_counter(), os.times()
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        tree = Tree(process.pid)
        try:
            out, _ = process.communicate()
        finally:
            peaks = tree.close()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {out.decode()[-2000:]}")
    after = os.times()
    used = after.children_user + after.children_system
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": used - before.children_user - before.children_system,
        **peaks,
        "report": out.decode().splitlines(),
    }


def measure_size(settings: Settings, pairs: int, rounds: int) -> dict[str, Any]:
    """Prepare so many pairs some times, then start a training on them."""
    work = settings.home / "preparing"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_corpus(settings.data / "large.en-fr", pairs, work / "corpus.tsv")
    words = [f"data.root={work}", f"data.cache={work / 'cache'}", "data=tsv"]
    words += ["data.train=corpus.tsv", "data.languages=en-fr", "data.max_removed=1"]
    turns = []
    for _ in range(rounds):
        shutil.rmtree(work / "cache", ignore_errors=True)
        turns.append(watched(settings, ["prepare", *words]))
    small = ["model=transformer_tiny", "train.max_steps=1", "train.validate_sentences=1"]
    started = watched(settings, ["train", f"run={work / 'run'}", *words, *small])
    shutil.rmtree(work)
    keys = ("seconds", "cpu_seconds", "peak_bytes", "peak_anonymous_bytes")
    return {
        "pairs_per_second": spread([pairs / turn["seconds"] for turn in turns]),
        **{key: spread([turn[key] for turn in turns]) for key in keys},
        "report": turns[-1]["report"],
        "one_update": {key: started[key] for key in keys},
    }


def measure(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """All sizes; the smallest one as often as there are rounds."""
    sizes = (10_000, 20_000) if settings.quick else SIZES
    rows: dict[int, Any] = {}
    for pairs in sizes:
        report(f"preparing {pairs:,} pairs")
        rounds = settings.rounds if pairs == sizes[0] and not settings.quick else 1
        rows[pairs] = measure_size(settings, pairs, rounds)
    first, *_, last = sizes

    def rise(key: str) -> float:
        return float(rows[last][key]["median"] - rows[first][key]["median"]) / (last - first)

    return {
        "sizes": rows,
        "pairs_per_second_between": 1 / rise("seconds"),
        "bytes_a_pair_between": rise("peak_bytes"),
        "anonymous_bytes_a_pair_between": rise("peak_anonymous_bytes"),
    }
