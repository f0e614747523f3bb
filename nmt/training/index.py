"""``checkpoints/index.json``: which checkpoints a run has, and which of them is the best.

What is not in the index does not exist. It is replaced in one rename, with a checksum of its own.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nmt.errors import UserError
from nmt.files import DamagedError, replace_file, sealed, unsealed

FORMAT = 1
INDEX = "index.json"
NAME = re.compile(r"(step|average)-\d{8}")
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "ter"})


@dataclass(frozen=True)
class Entry:
    """One checkpoint in the index."""

    name: str
    step: int
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """What ``index.json`` says. ``kept`` is in order of steps; ``metric`` decides what is best."""

    metric: str
    kept: tuple[Entry, ...] = ()
    average: Entry | None = None

    @property
    def last(self) -> Entry | None:
        return self.kept[-1] if self.kept else None

    @property
    def best(self) -> Entry | None:
        """The best scored checkpoint (the earlier one of equals)."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    @property
    def scored(self) -> list[Entry]:
        return [entry for entry in self.kept if self.metric in entry.scores]

    def ranked(self) -> list[Entry]:
        """The scored checkpoints, best first."""
        sign = 1 if self.metric in LOWER_IS_BETTER else -1
        return sorted(self.scored, key=lambda e: (sign * e.scores[self.metric], e.step))

    def entry(self, which: str) -> Entry | None:
        """The entry that ``best`` (the last one while none is scored), ``last``, … names."""
        if which == "best":
            return self.best or self.last
        if which == "last":
            return self.last
        if which == "average":
            return self.average
        return next((e for e in self.kept if which in (e.name, f"step-{e.step}")), None)

    def trimmed(self, *, keep_best: int, keep_last: int) -> Index:
        """Without what is neither the newest, nor among the best, nor among the last scored ones.

        Unscored checkpoints (of an interruption) displace no other: a run that was interrupted
        keeps, and averages, what an uninterrupted one does.
        """
        stay = {entry.name for entry in self.kept[-1:]}
        stay |= {entry.name for entry in self.ranked()[: max(1, keep_best)]}
        stay |= {entry.name for entry in self.scored[-max(1, keep_last) :]}
        return replace(self, kept=tuple(entry for entry in self.kept if entry.name in stay))


def read_index(folder: Path) -> Index:
    """The verified index of RUN/checkpoints.

    Raises:
        UserError: there is none. DamagedError: it is not what was written.
    """
    path = folder / INDEX
    if not os.path.lexists(path):
        raise UserError(f"no checkpoint in {folder}: nmt train run={folder.parent} makes one")
    if folder.is_symlink():
        raise DamagedError(f"{folder} is a link; links inside a run are not followed")
    content = unsealed(path)
    try:
        average = content["average"]
        return Index(
            metric=str(content["metric"]),
            kept=tuple(_entry(item) for item in content["kept"]),
            average=_entry(average) if average is not None else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error!r}") from error


def find_entry(folder: Path, which: str) -> Entry:
    """The index entry that ``best``, ``last``, ``average`` or ``step-N`` names.

    Raises:
        UserError: there is none of that name; says which there are.
    """
    index = read_index(folder)
    entry = index.entry(which)
    if entry is None:
        names = [f"step-{kept.step}" for kept in index.kept]
        have = [*(["best", "last"] if names else []), *(["average"] if index.average else [])]
        raise UserError(
            f"no checkpoint={which} in {folder}; there are {', '.join(have + names) or 'none'}"
        )
    return entry


def write_index(folder: Path, index: Index) -> None:
    """Replace the index of RUN/checkpoints."""
    content = {
        "format": FORMAT,
        "metric": index.metric,
        "best": index.best.name if index.best else None,
        "last": index.last.name if index.last else None,
        "average": asdict(index.average) if index.average else None,
        "kept": [asdict(entry) for entry in index.kept],
    }
    replace_file(folder / INDEX, sealed(content))


def _entry(item: Any) -> Entry:
    name, step = item["name"], item["step"]
    if not isinstance(name, str) or not NAME.fullmatch(name) or type(step) is not int:
        raise ValueError(f"no checkpoint name: {name!r}")
    if int(name.rpartition("-")[2]) != step:
        raise ValueError(f"{name} is not step {step}")
    return Entry(name, step, scores_of(item["scores"]))


def scores_of(item: Any) -> dict[str, float]:
    """Scores as a file has them; raises TypeError or ValueError for anything else."""
    return {str(key): float(value) for key, value in dict(item).items()}
