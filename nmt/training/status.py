"""How a run stands, from its lock, its log and its index; loads no torch and writes nothing.

A process that trains holds the run's ``.lock`` from before it writes anything until after its last
word, the ``end`` record of ``log.jsonl``; the system frees the lock when the process ends, however
it ends. So a held lock is a running run. Where it is free, the log's last ``start`` or ``end``
record tells the rest: an ``end`` says how it ended, a ``start`` without one was killed (SIGKILL,
out of memory, power).

Lock and log are read one after the other, and a run may start or end in between. Therefore the log
is looked at before the lock and after it has been read: when it has not changed meanwhile, what was
read is what the log held at the moment at which the lock was asked for, and so the two belong
together.
"""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nmt.errors import UserError, one_line
from nmt.files import DamagedError, held, read_file
from nmt.training.index import Index, read_index
from nmt.training.monitor import LARGEST_LOG

STATES = ("running", "finished", "stopped", "failed", "damaged")

PARTS = frozenset(
    {
        *(".lock", "config.yaml", "log.jsonl", "checkpoints", "data.json", "tensorboard"),
        *("scores.json", "translations"),
    }
)
"""Names in a run directory; two of them make a folder one (a folder of presets may have one)."""

ATTEMPTS = 20
"""How often lock and log are read again because the log grew meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a run stands."""

    run: Path
    state: str
    """One of `STATES`."""
    reason: str
    """Why it ended, or what is damaged; empty while it runs."""
    step: int = 0
    total: int | None = None
    """The last step as far as it is known."""
    metric: str = ""
    best: float | None = None
    changed: float | None = None
    """Time of the last sign of life, in seconds since 1970."""


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, whole or damaged, or one that only its lock was made of so far.

    Raises:
        OSError: it cannot be looked into.
    """
    names = set(os.listdir(folder))
    return len(names & PARTS) >= 2 or (".lock" in names and names <= PARTS | {"tokenizer"})


def status(run: Path) -> Status:
    """How a run stands. A damaged one is a status too; nothing is raised for it."""
    running, reason = False, ""
    records: list[dict[str, Any]] = []
    train: dict[str, Any] = {}
    index = Index(metric="")
    try:
        running, records = lock_and_log(run)
        train = settings(run)
        if os.path.lexists(run / "checkpoints" / "index.json"):
            index = read_index(run / "checkpoints")
        state, reason = ("running", "") if running else ended(run, records, train)
    except (UserError, OSError) as error:
        state, reason = "running" if running else "damaged", one_line(error)
    best = index.best
    steps = [int(_number(record.get("step"))) for record in records]
    return Status(
        run=run,
        state=state,
        reason=reason,
        step=max([*steps, index.last.step if index.last else 0]),
        total=last_step(records, train),
        metric=index.metric if best else "",
        best=best.scores[index.metric] if best else None,
        changed=last_sign(run, records),
    )


def lock_and_log(run: Path) -> tuple[bool, list[dict[str, Any]]]:
    """Whether a process trains the run, and its log of that moment; see the module's docstring."""
    for _ in range(ATTEMPTS):
        before = _mark(run / "log.jsonl")
        running = held(run / ".lock")
        records = read_log(run)
        if running or before == _mark(run / "log.jsonl"):
            break
        time.sleep(0.01)
    return running, records


def _mark(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
    except FileNotFoundError:
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns


def read_log(run: Path) -> list[dict[str, Any]]:
    """The records of ``log.jsonl``, without lines that were cut short; none where there is no log.

    Raises:
        DamagedError: it is no file of this program.
    """
    path = run / "log.jsonl"
    if not os.path.lexists(path):
        return []
    records = []
    for line in read_file(path, limit=LARGEST_LOG).split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def ended(run: Path, records: list[dict[str, Any]], train: dict[str, Any]) -> tuple[str, str]:
    """State and reason of a run that no process trains; ``train`` is that of its configuration."""
    turns = [record for record in records if record.get("kind") in ("start", "end")]
    if not turns:
        return ended_before(records, train)
    last = turns[-1]
    if last["kind"] == "start":
        return "stopped", "killed: its log has no last word"
    if len(turns) > 1 and last.get("state") == "failed" and turns[-2].get("state") == "finished":
        last = turns[-2]  # a later attempt that failed before its start took nothing away
    if last.get("state") not in STATES:
        raise DamagedError(f"{run / 'log.jsonl'} is damaged: {last.get('state')!r} is no state")
    return str(last["state"]), str(last.get("reason", ""))


def ended_before(records: list[dict[str, Any]], train: dict[str, Any]) -> tuple[str, str]:
    """`ended`, of a log from before there were start and end records: by what it was to reach."""
    if not records:
        return "stopped", "nothing is written yet"
    for record in reversed(records):
        if record.get("kind") != "train":
            continue
        for key, name, unit in (
            ("max_steps", "step", 1),
            ("max_epochs", "epoch", 1),
            ("max_minutes", "seconds", 60),
        ):
            limit = _number(train.get(key))
            if limit and _number(record.get(name)) >= limit * unit:
                return "finished", f"{key}={limit:g}"
        break
    return "stopped", "its log has no last word"


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's in C, where it has it."""


def settings(run: Path) -> dict[str, Any]:
    """The section ``train`` of the run's config.yaml, unchecked; empty where there is no file.

    (`nmt.compose.load` checks everything, and takes a hundred times as long.)

    Raises:
        DamagedError: it is there and is no configuration.
    """
    path = run / "config.yaml"
    if not os.path.lexists(path):
        return {}
    try:
        content = yaml.load(read_file(path), Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: {one_line(error)}") from error
    train = content.get("train") if isinstance(content, dict) else None
    if not isinstance(train, dict):
        raise DamagedError(f"{path} is damaged: not the configuration of a run")
    return train


def last_step(records: list[dict[str, Any]], train: dict[str, Any]) -> int | None:
    """The step at which training ends, as it was known when it last started."""
    starts = [record for record in records if record.get("kind") == "start"]
    total = starts[-1].get("total") if starts else train.get("max_steps")
    return total if isinstance(total, int) else None


def last_sign(run: Path, records: list[dict[str, Any]]) -> float | None:
    """When training last wrote: by its log, which survives copying, else by its files."""
    if records and (said := _number(records[-1].get("time"))):
        return said
    times = []
    for name in ("log.jsonl", "config.yaml", ".lock"):
        with suppress(OSError):
            times.append((run / name).stat().st_mtime)
    return max(times, default=None)


def _number(value: Any) -> float:
    """A number of a file, 0 for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
