"""One job of a sweep: its name, its state, its record, and how it is run in whichever process."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from nmt import compose, runs
from nmt.commands import train
from nmt.config import Config
from nmt.errors import UserError, one_line
from nmt.files import DamagedError, locked, parsed, read_file
from nmt.training.checkpoint import STATE
from nmt.training.distributed import join
from nmt.training.index import read_index
from nmt.training.monitor import Monitor
from nmt.training.state import TrainState

LONGEST_NAME = 100
SECTIONS = (*compose.EXTRA_GROUPS, *compose.GROUPS, "seed")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of a sweep; ``config`` is None where it cannot be, for the reason ``problem``."""

    number: int
    values: dict[str, str]
    """What is swept, as ``{"seed": "1", …}``."""
    words: list[str]
    run: Path
    config: Config | None
    problem: str = ""


# --- names ---------------------------------------------------------------------------------------


def names_of(jobs: Sequence[Mapping[str, str]]) -> list[str]:
    """The folders of jobs, by their swept values alone: ``lstm-none-s1``, ``width_64``.

    Whatever the order of the keys, names are the same. A name that leaves something of the values
    out (other characters than letters, digits, ``.``, ``_``, ``-``; many digits), or that two
    jobs would have, ends in a hash of the values.
    """
    names = [_name(values) for values in jobs]
    often = Counter(name for name, _ in names)
    return [
        name if whole and often[name] == 1 else f"{name}-{hash_of(dict(values))}"
        for (name, whole), values in zip(names, jobs, strict=True)
    ]


def hash_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]


def _name(values: Mapping[str, str]) -> tuple[str, bool]:
    """A name, and whether it holds the values entirely."""
    order = list(compose.keys())

    def place(key: str) -> tuple[int, int, str]:
        section = key.partition(".")[0]
        first = SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)
        return first, order.index(key) if "." in key and key in order else -1, key

    keys = {key: key.lstrip("+~") for key in values}
    leaves = Counter(key.rpartition(".")[2] for key in keys.values())
    parts, whole = [], True
    for key in sorted(values, key=lambda key: place(keys[key])):
        text = values[key]
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_")
        if re.fullmatch(r"-?\d*\.\d{6,}(e-?\d+)?", plain):
            plain = f"{float(plain):.4g}"
        whole = whole and plain == text != ""
        bare = keys[key]
        if bare == "seed":
            parts.append(f"s{plain}")
        elif bare in SECTIONS:
            parts.append(plain)
        else:
            leaf = bare.rpartition(".")[2]
            parts.append(f"{leaf if leaves[leaf] == 1 else bare}_{plain}")
    name = "-".join(parts).lstrip(".-")
    return name[:LONGEST_NAME], whole and 0 < len(name) <= LONGEST_NAME and name == "-".join(parts)


# --- states --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a run is: ``finished``, ``stopped`` (it has a checkpoint) or ``waiting``."""

    word: str
    score: float | None = None
    """The best validation's, in ``train.metric``."""
    minutes: float | None = None


def state_of(config: Config, run: Path) -> State:
    """What a run's checkpoints say; reads two small files and imports nothing.

    A run that has ended by its old settings goes on if they now ask for more.
    """
    if not train.begun(run):
        return State(word="waiting")
    folder, options = run / "checkpoints", train.loop_options(config)
    try:
        index = read_index(folder)
        if index.last is None:
            return State(word="stopped")
        path = folder / index.last.name / STATE
        state = TrainState.parse(parsed(path, read_file(path)).get("state", {}))
    except (DamagedError, UserError):  # training takes care of it, and says what it did
        return State(word="stopped")
    best = index.best
    averaged = (
        options.average < 2
        or len(index.scored) < 2
        or (index.average is not None and index.average.step == index.last.step)
    )
    return State(
        word="finished" if state.end(options) and averaged else "stopped",
        score=best.scores[index.metric] if best else None,
        minutes=round(state.seconds / 60, 2),
    )


class Records:
    """``sweep.json``: what jobs a sweep's folder has; any of its processes may write."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sweep.json"
        self._lock = folder / ".sweep.lock"

    def read(self) -> dict[str, dict[str, Any]]:
        """Records by folder."""
        content = runs.read_json(self.path, {"jobs": {}})
        jobs = content.get("jobs") if isinstance(content, dict) else None
        if not isinstance(jobs, dict):
            raise DamagedError(f"{self.path} is no record of a sweep; move it away")
        return jobs

    def update(self, news: Mapping[str, Mapping[str, Any]]) -> None:
        """Set entries of some jobs' records; the file is replaced atomically."""
        with locked(self._lock, lambda: None):
            jobs = self.read()
            for name, entries in news.items():
                jobs.setdefault(name, {}).update(entries)
            runs.write_json(self.path, {"format": 1, "jobs": jobs})


# --- running -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """Trains jobs, each when it is called with it; goes to other processes as it is.

    Nothing that happens in a job gets out of it: how it ended is in ``sweep.json``.
    """

    folder: Path
    total: int
    threads: int | None
    """Of torch, where several jobs share a machine."""
    quiet: bool
    """Whether a job's own progress stays in its log.jsonl."""
    detached: bool
    """Whether jobs are a cluster's, which may stop one of them and leave the others."""
    parent: int | None = None
    """The process of the sweep, if its other processes shall stop once it was killed."""

    def __call__(self, job: Job) -> None:
        if stop_file(self.folder).exists():
            return
        assert job.config is not None
        title = f"job {job.number} of {self.total}: {job.run.name}"
        records = Records(self.folder)
        records.update({job.run.name: {"state": "running", "reason": ""}})
        say(title)
        word, reason = self.outcome(job, job.config)
        if word == "stopped" and not self.detached:
            stop_file(self.folder).touch()
        elif word == "stopped" and not stop_file(self.folder).exists():
            reason = "the cluster told it to stop"
        state = state_of(job.config, job.run)
        records.update({job.run.name: {"state": word, "reason": reason}})
        if state.score is not None and word == "finished":
            reason = f"best {job.config.train.metric.value} {state.score:.2f}"
        say(f"{title}: {word}{', ' if reason else ''}{reason}")

    def outcome(self, job: Job, config: Config) -> tuple[str, str]:
        """Train one job: ``finished``, ``stopped`` or ``failed``, and why it failed."""
        threads = torch.get_num_threads()
        try:
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            with (
                interruptible(stop_file(self.folder), self.parent),
                join() as world,
                runs.owned(job.run),
            ):
                world = world.on(config.train.device.value)
                if self.quiet:
                    with open(os.devnull, "w", encoding="utf-8") as nowhere:
                        monitor = Monitor(job.run, stream=nowhere, live=False)
                        ended = train.train_run(config, job.run, world, monitor)
                else:
                    ended = train.train_run(config, job.run, world)
            return ("finished", "") if ended.reason else ("stopped", "")
        except KeyboardInterrupt:
            return "stopped", ""
        except Exception as error:  # one job's trouble is not the others'
            if os.environ.get("NMT_DEBUG") or not isinstance(error, UserError | OSError):
                traceback.print_exc()
            return "failed", one_line(error) or type(error).__name__
        finally:
            torch.set_num_threads(threads)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # the next job's batches have other shapes


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def stop_file(folder: Path) -> Path:
    """Is there once a sweep was interrupted; its other processes look for it."""
    return folder / ".stop"


@contextmanager
def interruptible(stop: Path, parent: int | None = None) -> Iterator[None]:
    """Inside, SIGTERM, the file ``stop`` and the loss of the parent process are what Ctrl-C is."""
    done = threading.Event()
    child = parent not in (None, os.getpid())

    def watch() -> None:
        while not done.wait(1.0):
            if stop.exists() or (child and os.getppid() != parent):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    with handlers(signal.default_int_handler):
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextmanager
def stoppable(stop: Path) -> Iterator[None]:
    """Inside, a first SIGINT or SIGTERM makes the file ``stop``; a second one leaves at once."""

    def note(number: int, frame: FrameType | None) -> None:
        if stop.exists():
            signal.default_int_handler(number, frame)
        stop.touch()

    stop.unlink(missing_ok=True)
    with handlers(note):
        try:
            yield
        finally:
            stop.unlink(missing_ok=True)


@contextmanager
def handlers(handler: Any) -> Iterator[None]:
    """SIGINT and SIGTERM, where signals can be had at all: in a main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
