"""`nmt runs`: every run under a folder, and how it stands."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nmt.cli import Arguments
from nmt.commands.table import Table
from nmt.errors import UserError
from nmt.training.index import LOWER_IS_BETTER
from nmt.training.status import Status, is_run, status


def main(arguments: Arguments) -> int:
    form = arguments.choice("format")
    state = arguments.choice("state")
    order = arguments.choice("sort")
    folder = Path(arguments.own.get("folder", "runs"))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; nmt runs DIR looks below DIR, else below runs/")
    found = [one for one in every_status(folder) if state in ("all", one.state)]
    orders: dict[str, Callable[[Status], Any]] = {"age": _age, "score": _score, "path": _path}
    found.sort(key=orders[order])
    if form == "json":
        print(json.dumps([facts(one) for one in found], ensure_ascii=False, indent=1))
    elif form == "csv":
        print(as_csv(found))
    elif found:
        print(as_text(found))
    else:
        wanted = "" if state == "all" else f" that are {state}"
        print(f"no runs{wanted} under {folder}")
    return 0


def every_status(folder: Path) -> Iterator[Status]:
    """The runs at and under a folder. Inside a run no other is looked for.

    A link to a run is one; other links are not followed, they might lead back.
    """
    try:
        if is_run(folder):
            yield status(folder)
            return
        inside = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        yield Status(run=folder, state="damaged", reason=f"cannot be read: {error.strerror}")
        return
    for path in map(Path, inside):
        if not path.is_symlink():
            yield from every_status(path)
        elif is_run(path):
            yield status(path)


def facts(one: Status) -> dict[str, Any]:
    """A status as JSON has it: age in seconds, the time in ISO 8601."""
    said = one.changed
    moment = datetime.fromtimestamp(said, UTC).isoformat("T", "seconds") if said else None
    age = round(time.time() - said, 1) if said else None
    return {**asdict(one), "run": str(one.run), "changed": moment, "age": age}


def as_csv(found: list[Status]) -> str:
    rows = [facts(one) for one in found]
    headers = ("run", "state", "step", "total", "metric", "best", "age", "changed", "reason")
    cells = [["" if row[name] is None else str(row[name]) for name in headers] for row in rows]
    return Table(headers=headers, rows=cells).csv()


def as_text(found: list[Status]) -> str:
    rows = []
    for one in found:
        step = f"{one.step:,}/{one.total:,}" if one.total else f"{one.step:,}"
        best = f"{one.metric} {one.best:.4g}" if one.best is not None else "-"
        age = spoken(time.time() - one.changed) if one.changed else "-"
        why = "" if one.state == "finished" or not one.reason else f"\n  {one.reason}"
        rows.append([one.state, step, best, age, f"{one.run}{why}"])
    headers = ("state", "step", "best", "age", "run")
    return Table(
        headers=headers, rows=rows, numbers=("step", "age"), whole=("state", "best")
    ).text()


def spoken(seconds: float) -> str:
    """A duration in its largest unit: 40 s, 5 min, 3 h, 12 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _age(one: Status) -> float:
    """Newest first, unknown last."""
    return -(one.changed or 0.0)


def _path(one: Status) -> str:
    return str(one.run)


def _score(one: Status) -> tuple[bool, str, float]:
    """Best first, each metric apart, unscored last."""
    if one.best is None:
        return True, "", 0.0
    return False, one.metric, one.best if one.metric in LOWER_IS_BETTER else -one.best
