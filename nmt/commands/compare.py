"""`nmt compare`: runs side by side, from their own files; writes nothing."""

from __future__ import annotations

import statistics
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nmt.cli import Arguments
from nmt.commands import compare_views
from nmt.commands.compared import (
    Comparison,
    Mean,
    Row,
    Side,
    Worst,
    evaluate_command,
    find_tests,
    grouped,
    not_comparable,
    paired,
    read_side,
)
from nmt.errors import UserError, one_line
from nmt.evaluation.scores import METRICS
from nmt.evaluation.significance import Paired, largest_losses, paired_tests


def main(arguments: Arguments) -> int:
    form = arguments.choice("format")
    metrics = chosen_metrics(arguments.own.get("metric", "bleu,chrf"))
    tested = arguments.choice("significance") == "true"
    alone = arguments.choice("seeds") == "each"
    force = arguments.choice("force") == "true"
    count = whole_number("worst", arguments.own.get("worst", "0"))
    split = arguments.own.get("split", "test")
    sides, left_out = read_sides(arguments, split)
    rows = in_rows(sides, metrics, alone=alone, force=force)
    notes = [*left_out, *(note for side in sides for note in side.notes)]
    notes += missing_scores(rows, split)
    found = Comparison(split=split, metrics=metrics, rows=rows, notes=notes, tested=tested)
    if tested:
        notes += test(rows, metrics)
    sentence = "chrf" if "chrf" in metrics else metrics[0]
    found.worst = [one for row in rows[1:] if (one := worst_of(rows[0], row, sentence, count))]
    compare_views.show(found, form)
    return 1 if left_out else 0


def chosen_metrics(typed: str) -> list[str]:
    names = list(dict.fromkeys(typed.lower().split(",")))
    for name in names:
        if name not in METRICS:
            raise UserError(f"metric={typed}: {name!r} is none of {', '.join(METRICS)}")
    return names


def whole_number(key: str, typed: str) -> int:
    if not typed.isdecimal():
        raise UserError(f"{key}={typed}: a whole number is needed")
    return int(typed)


def read_sides(arguments: Arguments, split: str) -> tuple[list[Side], list[str]]:
    """The runs that can be read, the baseline first; and a line for each that cannot.

    Raises:
        UserError: fewer than two were named or can be read, or the baseline cannot.
    """
    named = [Path(name) for name in arguments.many]
    if "baseline" in arguments.own:
        named.insert(0, Path(arguments.own["baseline"]))
    known: dict[Path, Path] = {}
    for path in named:
        known.setdefault(path.resolve(), path)
    paths = list(known.values())
    if len(paths) < 2:
        raise UserError("nmt compare needs two runs or more: nmt compare runs/one runs/other")
    sides: list[Side] = []
    left_out: list[str] = []
    for path in paths:
        try:
            sides.append(read_side(path, split))
        except UserError as error:
            if path == paths[0] or len(paths) == 2:
                raise
            left_out.append(f"{path} is left out: {one_line(error)}")
            say(left_out[-1])
    if len(sides) < 2:
        raise UserError(f"there is nothing to compare {paths[0]} with: {'; '.join(left_out)}")
    find_tests(sides, split, arguments.own.get("data.cache"))
    return sides, left_out


def in_rows(
    sides: Sequence[Side], metrics: Sequence[str], *, alone: bool, force: bool
) -> list[Row]:
    """Rows with their scores, the baseline first.

    Raises:
        UserError: scores that may not stand side by side, unless ``force``.
    """
    groups = [[side] for side in sides] if alone else grouped(sides)
    base = next((side for side in groups[0] if side.measured is not None), groups[0][0])
    rows = []
    for number, group in enumerate(groups):
        letters = string.ascii_uppercase
        label = letters[number] if number < len(letters) else f"R{number + 1}"
        reasons = [reason for side in group if (reason := not_comparable(base, side, metrics))]
        if reasons and not force:
            raise UserError(f"{reasons[0]}; force=true shows them all the same, marked")
        row = Row(label=label, sides=group, mark="; ".join(reasons) or None)
        row.scores = {name: mean for name in metrics if (mean := mean_of(row, name))}
        rows.append(row)
    for row in rows[1:]:
        for name, mean in row.scores.items():
            if name in rows[0].scores:
                mean.difference = mean.score - rows[0].scores[name].score
    return rows


def mean_of(row: Row, metric: str) -> Mean | None:
    """A row's score; None where no run of it has one."""
    scores = [
        side.measured.scores[metric]
        for side in row.sides
        if side.measured is not None and metric in side.measured.scores
    ]
    if not scores:
        return None
    values = [one.score for one in scores]
    single = scores[0] if len(row.sides) == 1 else None
    return Mean(
        score=statistics.fmean(values),
        n=len(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        low=single.low if single else None,
        high=single.high if single else None,
        signature=scores[0].signature,
    )


def missing_scores(rows: Sequence[Row], split: str) -> list[str]:
    """A line for each run that was not scored yet: what to type, searching as the others did."""
    measured = [side.measured for row in rows for side in row.scored]
    like = measured[0].record if measured and measured[0] else None
    return [
        f"{side.run}: no score for split {split}; {evaluate_command(side, split, like)} makes one"
        for row in rows
        for side in row.sides
        if side.measured is None
    ]


def test(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """Put both tests' p-values into the rows; those of several seeds are the largest ones.

    A p-value knows no direction: seeds that differ from the baseline in both have p = 1.

    Returns:
        A line for each run whose translations give another score than was written down.
    """
    pairs = [
        (row, pair) for row in rows[1:] for side in row.sides if (pair := paired(rows[0], side))
    ]
    if pairs:
        say(f"testing {len(pairs)} against {rows[0].label} (significance=false leaves it out)")
    results: dict[str, list[dict[str, Paired]]] = {}
    notes = []
    for base in rows[0].sides:
        ours = [(row, pair) for row, pair in pairs if pair.base is base]
        if not ours:
            continue
        found = paired_tests(
            ours[0][1].baseline,
            [pair.system for _, pair in ours],
            ours[0][1].test.references,
            target_language=base.language,
            metrics=metrics,
        )
        for (row, pair), one in zip(ours, found, strict=True):
            results.setdefault(row.label, []).append(one)
            notes += disagreeing(pair.side, one)
    for row in rows[1:]:
        for name, mean in row.scores.items():
            if tests := [one[name] for one in results.get(row.label, [])]:
                agree = len({one.difference > 0 for one in tests}) == 1
                mean.bootstrap = max(one.bootstrap for one in tests) if agree else 1.0
                mean.randomisation = max(one.randomisation for one in tests) if agree else 1.0
    return notes


def disagreeing(side: Side, found: Mapping[str, Paired]) -> list[str]:
    """Where the kept translations are not those that were scored."""
    stored = side.measured.scores if side.measured else {}
    return [
        f"{side.run}: its {name} is {stored[name].score:.2f} in scores.json, but its translations "
        f"give {one.score:.2f}: one of them was changed, or another sacreBLEU counted"
        for name, one in found.items()
        if name in stored and abs(stored[name].score - one.score) > 0.01
    ]


def worst_of(base: Row, row: Row, metric: str, count: int) -> Worst | None:
    """The sentences by which a row loses most: of its first run that can be paired."""
    pair = next((pair for side in row.sides if (pair := paired(base, side))), None)
    if pair is None or not count:
        return None
    losses = largest_losses(
        pair.baseline,
        pair.system,
        pair.test.references,
        target_language=pair.base.language,
        metric=metric,
        count=count,
    )
    return Worst(row=row, pair=pair, metric=metric, losses=losses)


def say(text: str) -> None:
    print(f"nmt: {text}", file=sys.stderr)
