"""What `nmt compare` knows of each run, read from the run's own files and its test set."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from nmt import compose, runs
from nmt.config import Config
from nmt.data.prepared import cache_folder, is_whole, open_prepared, prepared_folder
from nmt.data.tokenizer import Tokenizers
from nmt.errors import UserError
from nmt.evaluation.scores import Score
from nmt.evaluation.significance import SentenceDifference
from nmt.files import DamagedError, read_file
from nmt.models.build import count_parameters
from nmt.training.status import read_log

LARGEST_TRANSLATIONS = 2**30
"""Bytes."""

PLACES = ("run", "data.root", "data.cache", "data.hint", "data.show", "train.log_every")
"""Keys that say where a run was made and what it told meanwhile, not what it is."""

NUMBERS = ("parameters", "tokens_per_second", "minutes", "steps")


@dataclass(frozen=True)
class TestSet:
    """Sentences and references of a split; R references of N lines."""

    sources: list[str]
    references: list[list[str]]


@dataclass(kw_only=True)
class Measured:
    """The newest record of a run's scores.json for the split."""

    record: dict[str, Any]
    """As it is in the file."""
    data: str
    checkpoint: str
    scores: dict[str, Score]
    fingerprint: str
    hypotheses: list[str] | None
    """The kept translations; None where they are gone or damaged."""
    test: TestSet | None = None
    """What was translated; None where the prepared data is not on this machine (`find_tests`)."""


@dataclass(kw_only=True)
class Side:
    """One run; what could not be read is None and is in ``notes``."""

    run: Path
    config: Config
    settings: dict[str, Any]
    """The configuration by dotted keys, without `PLACES`; search as it was when scored."""
    measured: Measured | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    """Those of `NUMBERS` that are known; ``tokens_per_second`` is the median of the log."""
    notes: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def language(self) -> str:
        """The target language."""
        return self.config.data.languages.split("-")[0 if self.config.data.reverse else 1]


@dataclass(kw_only=True)
class Mean:
    """A metric of a row: of one run, or the mean of several seeds."""

    score: float
    n: int
    std: float | None
    """Sample standard deviation over seeds (n - 1); None for one run."""
    low: float | None
    high: float | None
    """The 95 % interval of one run; None for several."""
    signature: str
    difference: float | None = None
    bootstrap: float | None = None
    randomisation: float | None = None
    """Against the baseline; p-values of several seeds are the largest of the pairs,
    and 1 where seeds differ from it in opposite directions."""


@dataclass(kw_only=True)
class Row:
    """A run, or several that differ only in their seeds."""

    label: str
    sides: list[Side]
    mark: str | None
    """Why its scores may not be compared with the baseline's."""
    scores: dict[str, Mean] = field(default_factory=dict)

    @property
    def scored(self) -> list[Side]:
        return [side for side in self.sides if side.measured is not None]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Translations of one test set by a run of the baseline and by another run."""

    base: Side
    side: Side
    baseline: list[str]
    system: list[str]
    test: TestSet


@dataclass(kw_only=True)
class Worst:
    """Where a row loses most against the baseline, worst first."""

    row: Row
    pair: Pair
    metric: str
    losses: list[SentenceDifference]


@dataclass(kw_only=True)
class Comparison:
    """All that is shown; the first row is the baseline."""

    split: str
    metrics: list[str]
    rows: list[Row]
    notes: list[str]
    tested: bool
    worst: list[Worst] = field(default_factory=list)


def read_side(run: Path, split: str) -> Side:
    """What can be read of a run; all but its configuration may be missing.

    Args:
        split: which records of scores.json are looked at.

    Raises:
        UserError: no run, or one whose configuration cannot be read.
    """
    config = runs.stored_config(run)
    settings = {key: value for key, value in compose.flat(config).items() if key not in PLACES}
    side = Side(run=run, config=config, settings=settings)
    try:
        records = records_of(run, split)
        if records:
            side.measured = measured(side, records[-1], split)
        if side.measured is not None and len(records) > 1:
            side.notes.append(
                f"{run}: the newest of {len(records)} records of split {split} is shown: "
                f"{side.measured.checkpoint}, beam {side.measured.record['search'].get('beam')}"
            )
    except UserError as error:
        side.notes.append(str(error))
    if side.measured is not None:
        record = side.measured.record
        side.settings |= {f"search.{key}": value for key, value in record["search"].items()}
        side.settings["attention.masked_heads"] = record.get("masked_heads", [])
    try:
        size = count_parameters(runs.outline(config, Tokenizers.load(run / "tokenizer")))
        side.numbers["parameters"] = size.total
    except UserError as error:
        side.notes.append(f"{run}: no size: {error}")
    try:
        read_speed(side)
    except UserError as error:
        side.notes.append(f"{run}: no speed: {error}")
    return side


def read_speed(side: Side) -> None:
    """Median of tokens per second, minutes of training and last step, from log.jsonl."""
    records = [r for r in read_log(side.run) if r.get("kind") == "train"]
    if not records:
        side.notes.append(f"{side.run}: its log has no step of training yet")
        return
    try:
        side.numbers |= {
            "tokens_per_second": statistics.median(float(r["tokens_per_second"]) for r in records),
            "minutes": float(records[-1]["seconds"]) / 60,
            "steps": int(records[-1]["step"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{side.run / 'log.jsonl'} is damaged: {error!r}") from error


def records_of(run: Path, split: str) -> list[dict[str, Any]]:
    """The records of scores.json for a split, oldest first.

    Raises:
        DamagedError: the file is no list of records.
    """
    records = runs.read_json(run / "scores.json", [])
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise DamagedError(f"{run / 'scores.json'} is damaged: not a list of records")
    return [record for record in records if record.get("split") == split]


def measured(side: Side, record: dict[str, Any], split: str) -> Measured:
    """A record with its translations, as far as they are there.

    Raises:
        DamagedError: it is no record of `nmt evaluate`.
    """
    try:
        if not isinstance(record["search"], dict):
            raise TypeError("search is no table")
        scores = {
            str(name): Score(
                name=str(one["name"]),
                score=float(one["score"]),
                signature=str(one["signature"]),
                low=None if one["low"] is None else float(one["low"]),
                high=None if one["high"] is None else float(one["high"]),
            )
            for name, one in record["scores"].items()
        }
        found = Measured(
            record=record,
            data=str(record["data"]),
            checkpoint=str(record["checkpoint"]),
            scores=scores,
            fingerprint=str(record["data_fingerprint"]),
            hypotheses=translations(side, record, split),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        path = side.run / "scores.json"
        raise DamagedError(f"{path} is damaged: a record of split {split}: {error!r}") from error
    return found


def translations(side: Side, record: dict[str, Any], split: str) -> list[str] | None:
    """The kept hypotheses; None, with a note, where they cannot be had."""
    name = PurePosixPath(str(record["translations"]))
    again = f"{evaluate_command(side, split, record)} makes them again"
    if name.is_absolute() or ".." in name.parts:
        side.notes.append(f"{side.run}: its translations are said to lie elsewhere; {again}")
        return None
    try:
        text = read_file(side.run / name, limit=LARGEST_TRANSLATIONS).decode("utf-8")
    except (UserError, UnicodeDecodeError) as error:
        side.notes.append(f"{side.run}: no significance, {error}; {again}")
        return None
    lines = text.removesuffix("\n").split("\n")
    if len(lines) != record["sentences"]:
        side.notes.append(
            f"{side.run}: no significance, {side.run / name} has {len(lines):,} lines for "
            f"{record['sentences']:,} sentences; {again}"
        )
        return None
    return lines


def find_tests(sides: Sequence[Side], split: str, cache: str | None) -> None:
    """Give each scored run its test set; a note where the prepared data is not on this machine.

    Args:
        cache: where to look; None looks where any of the runs had its data, and at the default.
    """
    places = [cache] if cache else [*(side.config.data.cache for side in sides), None]
    caches = list(dict.fromkeys(cache_folder(place) for place in places))
    sets: dict[tuple[str, str], TestSet] = {}
    for side in sides:
        ours = side.measured
        if ours is None:
            continue
        key = (ours.data, ours.fingerprint)
        folders = [prepared_folder(folder, *key) for folder in caches]
        problem = f"its references are not in {', '.join(map(str, folders))}"
        whole = next((folder for folder in folders if is_whole(folder)), None)
        try:
            if key not in sets and whole is not None:
                prepared = open_prepared(whole)
                sets[key] = TestSet(prepared.sources(split), prepared.references(split))
        except UserError as error:
            problem = str(error)
        found = sets.get(key)
        if found is not None and len(found.sources) == ours.record["sentences"]:
            ours.test = found
            continue
        side.notes.append(
            f"{side.run}: no significance, {problem}; data.cache= names the folder of prepared "
            f"data, or {evaluate_command(side, split, ours.record)} prepares it again"
        )


def evaluate_command(side: Side, split: str, like: Mapping[str, Any] | None) -> str:
    """What to type to score a run, with the checkpoint, search and masks of a record if given."""
    words = [f"run={side.run}", f"split={split}"]
    if like is not None:
        if str(like["checkpoint"]).startswith("average"):
            words.append("checkpoint=average")
        typed = {f"search.{key}": value for key, value in dict(like["search"]).items()}
        typed["attention.masked_heads"] = like.get("masked_heads", [])
        stored = compose.flat(side.config)
        for key, value in typed.items():
            if stored.get(key, value) != value:
                words.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return "nmt evaluate " + shlex.join(words)


def differing(sides: Sequence[Side]) -> list[str]:
    """Keys in which the runs differ, seeds apart, in the order of the configuration."""
    keys = dict.fromkeys(key for side in sides for key in side.settings)
    return [
        key
        for key in keys
        if key != "seed" and any(s.settings.get(key) != sides[0].settings.get(key) for s in sides)
    ]


def grouped(sides: Sequence[Side]) -> list[list[Side]]:
    """Runs that differ only in their seeds together, in the order of first appearance.

    Two runs of one seed are not two draws: the second one begins a group of its own.
    """
    groups: list[list[Side]] = []
    for side in sides:
        for group in groups:
            same = not differing([group[0], side])
            if same and side.seed not in [other.seed for other in group]:
                group.append(side)
                break
        else:
            groups.append([side])
    return groups


def not_comparable(base: Side, side: Side, metrics: Sequence[str]) -> str | None:
    """Why the scores of two runs may not stand side by side; None where they may."""
    one, other = base.measured, side.measured
    if one is None or other is None or other is one:
        return None
    if not same_test(one, other):
        told = one.test is not None and other.test is not None
        what = "has other sentences or references than" if told else "cannot be compared with"
        why = "" if told else ", as their prepared data is not all here (data.cache=)"
        return (
            f"{side.run}: its test set (of {other.data}) {what} that of {base.run} "
            f"(of {one.data}){why}"
        )
    for name in metrics:
        if name in one.scores and name in other.scores:
            ours, theirs = one.scores[name].signature, other.scores[name].signature
            if ours != theirs:
                return f"{side.run}: its {name} has the signature {theirs}, {base.run} has {ours}"
    return None


def same_test(one: Measured, other: Measured) -> bool:
    """Whether two records are of the same sentences with the same references."""
    if (one.data, one.fingerprint) == (other.data, other.fingerprint):
        return True
    return one.test is not None and one.test == other.test


def paired(base: Row, side: Side) -> Pair | None:
    """A run with the one of the baseline it is held against: of its seed, else the first scored.

    None where their translations cannot be paired.
    """
    ours = side.measured
    able = [one for one in base.scored if one.measured and one.measured.hypotheses]
    able.sort(key=lambda one: one.seed != side.seed)
    theirs = able[0].measured if able else None
    if ours is None or theirs is None or not ours.hypotheses or not theirs.hypotheses:
        return None
    test = theirs.test or ours.test
    if test is None or not same_test(theirs, ours):
        return None
    return Pair(
        base=able[0], side=side, baseline=theirs.hypotheses, system=ours.hypotheses, test=test
    )
