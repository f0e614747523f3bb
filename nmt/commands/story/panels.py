"""Panels and tables of the report's figures as plain dictionaries, and names for people.

What a panel may hold, `nmt.evaluation.figures` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Interval = Mapping[str, Any]
"""``value``, ``low`` and ``high``; None where a number is not finite."""

NAMES = {
    "none": "no attention",
    "none_long": "no attention, 2× updates",
    "bahdanau": "Bahdanau",
    "luong_general": "Luong, general",
    "luong_dot": "Luong, dot",
    "transformer": "Transformer",
    "cosine_bare": "cosine, fixed temperature",
    "scaled": "scaled dot",
    "location": "location-aware",
    "general": "general, not fed",
    "previous_fed": "general, previous state asks",
    "previous": "general, previous state asks, not fed",
    "local_2": "local, 2 to each side",
    "local_4": "local, 4 to each side",
    "local_p": "local, predicted centre",
    "none_zeros": "no attention, from zeros",
    "none_last": "no attention, from the last state",
    "bahdanau_zeros": "Bahdanau, from zeros",
    "bahdanau_last": "Bahdanau, from the last state",
    "domain": "Transformer of the other domain",
}


HELD = {"width": "fixed width", "each": "fixed head width"}
"""What claim 9 holds fixed while heads grow in number."""


def name_of(rung: str) -> str:
    """A rung as the report calls it."""
    if rung.startswith("heads_"):
        kind, size, count = rung.split("_")[1:]
        return f"{count} {'head' if count == '1' else 'heads'}, {HELD[kind]}, {size} corpus"
    return NAMES.get(rung, rung.replace("_", " "))


def shown(interval: Interval, digits: int = 1) -> str:
    """``1.2 [0.9, 1.5]``, with a true minus."""
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    if low is not None and high is not None:
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return text.replace("-", "\u2212")


def times(interval: Interval, factor: float) -> dict[str, Any]:
    """An interval in other units, such as per cent."""
    ends = {key: interval[key] for key in ("value", "low", "high")}
    return dict(interval) | {k: None if v is None else factor * v for k, v in ends.items()}


def series_of(name: str, intervals: Sequence[Interval]) -> dict[str, Any]:
    """A series of a `points` panel."""
    return {"name": name} | {
        key: [one[key] for one in intervals] for key in ("value", "low", "high")
    }


def points(
    x_label: str,
    rows: Sequence[str],
    series: Mapping[str, Sequence[Interval]],
    *,
    title: str = "",
    marks: Sequence[float] = (),
) -> dict[str, Any]:
    """Values with intervals, a row each."""
    return {
        "kind": "points",
        "title": title,
        "x_label": x_label,
        "rows": list(rows),
        "marks": list(marks),
        "series": [series_of(name, intervals) for name, intervals in series.items()],
    }


def by_category(
    x_label: str,
    y_label: str,
    categories: Sequence[str],
    series: Sequence[Mapping[str, Any]],
    *,
    title: str = "",
    marks: Sequence[float] = (),
) -> dict[str, Any]:
    """Lines over named places."""
    return {
        "kind": "lines",
        "title": title,
        "x_label": x_label,
        "y_label": y_label,
        "categories": list(categories),
        "marks": list(marks),
        "series": list(series),
    }


def bars(
    x_label: str, rows: Sequence[str], values: Sequence[float], *, title: str = ""
) -> dict[str, Any]:
    """One value a row."""
    return {
        "kind": "bars",
        "title": title,
        "x_label": x_label,
        "rows": list(rows),
        "values": list(values),
    }


def whiskers(name: str, intervals: Sequence[Interval]) -> dict[str, Any]:
    """A series of a `lines` panel, with intervals."""
    return {
        "name": name,
        "y": [one["value"] for one in intervals],
        "low": [one["low"] for one in intervals],
        "high": [one["high"] for one in intervals],
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"columns": list(columns), "rows": [list(row) for row in rows]}
