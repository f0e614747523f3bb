"""The trainings behind `nmt story`: each one an `nmt train` of its own, some at once.

A training runs in a process of its own, so that one that fails does not end the rest; `nmt train`
resumes it. What has finished is written to ``ladder.json`` and is not started again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from nmt import runs
from nmt.config import RecipeConfig, StoryConfig
from nmt.errors import UserError
from nmt.evaluation.claims import BY_NUMBER

TAIL = 4_096
"""Bytes at the end of a log that are looked at."""
QUIET = 60.0
"""Seconds between two lines of progress where there is no terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One run of the ladder: its words for `nmt train` without `run=`, and where it is."""

    name: str
    rung: str
    seed: int
    words: tuple[str, ...]
    path: Path
    steps: int
    after: str = ""
    """Name of the training that must have finished before."""


@dataclass(slots=True)
class State:
    """How a training stands: waiting, running, finished or failed (with the reason)."""

    status: str = "waiting"
    reason: str = ""
    seconds: float = 0.0
    step: int = 0
    seconds_left: float | None = None


Spawn = Callable[[Training, Path], subprocess.Popen[bytes]]
Show = Callable[[Mapping[str, State]], None]


class Stopped(Exception):
    """Somebody asked the ladder to stop; what runs has saved its state."""


def plan(config: StoryConfig, data: str, typed: Sequence[str], folder: Path) -> dict[str, Training]:
    """The trainings that the chosen claims need, by name, in the order of the preset.

    Args:
        data: name of the corpus, which may have recipes of its own.
        typed: words for every training, such as ``data=story_en_fr``.
        folder: the story's run directory.

    Raises:
        UserError: a rung with a recipe or a predecessor that the preset does not have for this
            corpus, or a typed word that would make a rung another one.
    """
    asked = [BY_NUMBER[number] for number in config.claims]
    wanted = {rung for claim in asked for rung in (*claim.needs, *claim.also)}
    wanted |= {config.rungs[name].after for name in wanted if name in config.rungs}
    found = {}
    for seed in config.seeds:
        for name, rung in config.rungs.items():
            elsewhere = (rung.only and data not in rung.only) or data in rung.except_for
            if name not in wanted or elsewhere:
                continue
            recipe = _recipe(config, data, rung.recipe, name)
            steps = max(1, round(recipe.steps * rung.times * config.scale))
            ends = [f"train.max_steps={steps}", f"optim.warmup={min(recipe.warmup, steps // 4)}"]
            own = [word.replace("{seed}", str(seed)) for word in rung.words]
            _refuse_typed(typed, name, own)
            words = [*recipe.words, *own, *typed, *ends, f"seed={seed}"]
            after = f"{rung.after}-s{seed}" if rung.after else ""
            if after:
                words.append(f"train.init_from={folder / 'runs' / after}")
            found[f"{name}-s{seed}"] = Training(
                name=f"{name}-s{seed}",
                rung=name,
                seed=seed,
                words=tuple(words),
                path=folder / "runs" / f"{name}-s{seed}",
                steps=steps,
                after=after,
            )
    for training in found.values():
        if training.after and training.after not in found:
            raise UserError(
                f"configs/story: rung {training.rung} starts from {training.after}, which is not "
                "trained here: give that rung to this corpus, and have a claim name it"
            )
    return found


def _refuse_typed(typed: Sequence[str], rung: str, own: Sequence[str]) -> None:
    """Refuse typed words that would take from a rung what makes it that rung.

    Raises:
        UserError: says which word, and what to do.
    """
    keys = {word.partition("=")[0] for word in own}
    for word in typed:
        key = word.partition("=")[0]
        if key in keys:
            raise UserError(
                f"{word}: rung {rung} of the story sets {key} itself; leave the word out, or the "
                "claims that read this rung (story.claims=)"
            )


def _recipe(config: StoryConfig, data: str, name: str, rung: str) -> RecipeConfig:
    for known in (f"{data}/{name}", name):
        if known in config.recipes:
            return config.recipes[known]
    raise UserError(f"configs/story: rung {rung} has recipe {name!r}, which is not there")


@dataclass(slots=True)
class Ladder:
    """Runs trainings, ``jobs`` at once, each with its share of the cores.

    Args:
        folder: the story's run directory; logs and ``ladder.json`` go there.
        spawn: starts one training with its output in a log file.
        show: is told how things stand, about once a second.
    """

    folder: Path
    trainings: dict[str, Training]
    jobs: int
    spawn: Spawn
    show: Show = lambda states: None
    pause: float = 1.0
    states: dict[str, State] = field(default_factory=dict)
    _running: dict[str, tuple[subprocess.Popen[bytes], float]] = field(default_factory=dict)

    def run(self) -> dict[str, State]:
        """Train whatever has not finished; the state of each training.

        Raises:
            Stopped: SIGINT, SIGTERM or SIGHUP came; the trainings have been stopped too.
        """
        known = runs.read_json(self.folder / "ladder.json", {})
        for name, training in self.trainings.items():
            done = known.get(name, {})
            self.states[name] = State()
            if done.get("words") == list(training.words) and finished(training.path):
                self.states[name] = State("finished", seconds=done["seconds"], step=training.steps)
        with _stoppable() as asked:
            while self._start() or self._running:
                if asked():
                    self._stop(asked)
                    raise Stopped
                self._look()
                self.show(self.states)
                time.sleep(self.pause)
        self.show(self.states)
        return self.states

    def _start(self) -> bool:
        """Fill the free places; whether anything still waits."""
        for name, training in self.trainings.items():
            if self.states[name].status != "waiting":
                continue
            before = self.states.get(training.after, State("finished"))
            if before.status == "failed":
                self.states[name] = State("failed", f"{training.after} failed before it")
            elif before.status == "finished" and len(self._running) < self.jobs:
                log = self.folder / "logs" / f"{name}.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                self._running[name] = self.spawn(training, log), time.monotonic()
                self.states[name].status = "running"
        return any(state.status == "waiting" for state in self.states.values())

    def _look(self) -> None:
        """Read the progress of what runs, and note what has ended."""
        for name, (process, began) in list(self._running.items()):
            state, training = self.states[name], self.trainings[name]
            state.seconds = time.monotonic() - began
            record = last_record(training.path / "log.jsonl")
            state.step = int(record.get("step", 0))
            state.seconds_left = record.get("seconds_left")
            code = process.poll()
            if code is None:
                continue
            del self._running[name]
            state.seconds_left = None
            if code == 0 and finished(training.path):
                state.status, state.step = "finished", training.steps
                self._note(training, state)
            else:
                log = self.folder / "logs" / f"{name}.log"
                state.status, state.reason = "failed", f"{last_line(log)} (status {code}; {log})"

    def _note(self, training: Training, state: State) -> None:
        path = self.folder / "ladder.json"
        known = runs.read_json(path, {})
        # Seconds of a run that was resumed are those of all its sittings, as its log has them.
        seconds = last_record(training.path / "log.jsonl").get("seconds", state.seconds)
        state.seconds = round(float(seconds), 1)
        known[training.name] = {"words": list(training.words), "seconds": state.seconds}
        runs.write_json(path, known)

    def _stop(self, asked: Callable[[], int]) -> None:
        """Let each training save itself; whoever asks a second time does not want to wait."""
        for process, _ in self._running.values():
            process.send_signal(signal.SIGTERM)
        while any(process.poll() is None for process, _ in self._running.values()):
            if asked() > 1:
                for process, _ in self._running.values():
                    process.kill()
            time.sleep(self.pause / 10)


@contextmanager
def _stoppable() -> Iterator[Callable[[], int]]:
    """Turn the signals that end a program into a question: how many came?"""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, note) for number in signals]
    try:
        yield lambda: len(came)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def train_process(threads: int) -> Spawn:
    """Starts `nmt train` in a session of its own: a Ctrl-C reaches it through the ladder alone."""

    def spawn(training: Training, log: Path) -> subprocess.Popen[bytes]:
        words = [*training.words, f"train.threads={threads}", f"run={training.path}"]
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "nmt", "train", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                start_new_session=True,
            )

    return spawn


def finished(run: Path) -> bool:
    """Whether a run directory has a checkpoint."""
    return (run / "checkpoints" / "index.json").exists()


def last_record(path: Path) -> dict[str, Any]:
    """The last training record of a log, or nothing."""
    for line in reversed(_tail(path)):
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if record.get("kind") == "train":
            return record
    return {}


def last_line(path: Path) -> str:
    lines = [line.strip() for line in _tail(path) if line.strip()]
    return lines[-1].removeprefix("nmt: ") if lines else "it said nothing"


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return []


# ---- what is shown -------------------------------------------------------------------------------


def time_left(states: Mapping[str, State], steps: Mapping[str, int], jobs: int) -> float | None:
    """Seconds until the last training ends, from the speed of those that run or have ended.

    None while nothing is known of any speed.
    """
    known = [(n, s) for n, s in states.items() if s.step and s.seconds and s.status != "failed"]
    if not known:
        return None
    pace = sum(s.seconds for _, s in known) / sum(s.step for _, s in known)
    left = [
        pace * (steps[n] - s.step) if s.seconds_left is None else s.seconds_left
        for n, s in states.items()
        if s.status == "running"
    ]
    waiting = [pace * steps[n] for n, s in states.items() if s.status == "waiting"]
    return max([*left, (sum(left) + sum(waiting)) / max(1, jobs)], default=0.0)


def clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def line_of(training: Training, state: State) -> str:
    """One training in words."""
    if state.status == "running":
        return f"step {state.step:,} of {training.steps:,}, {clock(state.seconds_left)} left"
    if state.status == "failed":
        return f"failed: {state.reason}"
    return f"finished in {clock(state.seconds)}" if state.status == "finished" else "waiting"


@contextmanager
def display(trainings: Mapping[str, Training], jobs: int) -> Iterator[Show]:
    """A table that is kept up to date on a terminal; plain lines elsewhere."""
    steps = {name: training.steps for name, training in trainings.items()}
    if not sys.stderr.isatty():
        yield _plain_lines(trainings, steps, jobs)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    with Live(console=Console(stderr=True), refresh_per_second=2) as live:

        def show(states: Mapping[str, State]) -> None:
            done = sum(s.status in ("finished", "failed") for s in states.values())
            left = clock(time_left(states, steps, jobs))
            table = Table(
                box=None,
                title=f"{done} of {len(states)} trainings done, about {left} left",
                title_justify="left",
            )
            table.add_column("training")
            table.add_column("state")
            for name, state in states.items():
                table.add_row(name, line_of(trainings[name], state))
            live.update(table)

        yield show


def _plain_lines(trainings: Mapping[str, Training], steps: Mapping[str, int], jobs: int) -> Show:
    before: dict[str, str] = {}
    said = [-QUIET]

    def show(states: Mapping[str, State]) -> None:
        for name, state in states.items():
            if before.get(name, "waiting") != state.status:
                print(f"nmt: {name}: {_news(trainings[name], state)}", file=sys.stderr, flush=True)
            before[name] = state.status
        running = [name for name, state in states.items() if state.status == "running"]
        if running and time.monotonic() - said[0] >= QUIET:
            said[0] = time.monotonic()
            done = sum(s.status in ("finished", "failed") for s in states.values())
            text = "; ".join(f"{n} {line_of(trainings[n], states[n])}" for n in running)
            left = clock(time_left(states, steps, jobs))
            print(
                f"nmt: {done} of {len(states)} trainings done, about {left} left: {text}",
                file=sys.stderr,
                flush=True,
            )

    return show


def _news(training: Training, state: State) -> str:
    return "started" if state.status == "running" else line_of(training, state)
