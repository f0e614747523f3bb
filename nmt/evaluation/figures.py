"""Figures of the report, drawn from plain numbers and from nothing else.

A figure is a list of panels, one under the other, each a dictionary that goes into the report's
JSON as it is; so every number of a figure is there. Kinds of panels:

- ``lines``: series over numbers ``x`` or over named ``categories``, with or without intervals;
- ``points``: values with intervals, a row each, for one or several series;
- ``bars``: one value a row;
- ``histogram``: counts between edges;
- ``heat``: a matrix of percentages with the numbers written in.

Series differ by marker, line style and hatch, so that colour is not needed. Figures are five
inches wide: they keep readable letters on a phone.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Mapping[str, Any]

WIDTH = 5.0  # inches
FONT = 9.0  # points
LINE = 48  # characters of a line of a title
LABELLED = 38  # where labels of rows stand beside the panel
LEGEND_ROW = 1.4 * FONT  # points
MARKERS = "osD^vPX*"
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)), (0, (3, 3)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo", "---")
# Okabe & Ito (2008): told apart by colour-blind readers, and of different lightness.
COLOURS = (
    *("#000000", "#0072b2", "#d55e00", "#009e73"),
    *("#cc79a7", "#56b4e9", "#b07d00", "#7f7f7f"),
)
RC: Any = {
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "nmt",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": FONT,
    "axes.unicode_minus": True,
}


def draw(panels: Sequence[Panel]) -> Figure:
    """The figure of the panels, one under the other.

    Raises:
        KeyError: a panel of another kind.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(RC):
        heights = [_height(panel) for panel in panels]
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
        for panel, axes in zip(panels, grid[:, 0], strict=True):
            KINDS[panel["kind"]](axes, panel)
            axes.set_xlabel(panel.get("x_label", ""))
            axes.set_ylabel(panel.get("y_label", ""))
            title = textwrap.fill(panel.get("title", ""), _line(panel))
            legend = axes.get_legend()
            names = len(legend.get_texts()) if legend else 0
            above = 7.0 + math.ceil(names / _columns(panel)) * LEGEND_ROW
            axes.set_title(
                title, fontsize=FONT, loc="left", fontweight="bold", pad=above, parse_math=False
            )
    return figure


def svg(panels: Sequence[Panel], prefix: str, label: str) -> str:
    """The figure as an ``<svg>`` element that can stand in a page beside others.

    Args:
        prefix: goes before each id, so that those of two figures are not the same.
        label: what the picture shows, for who does not see it.
    """
    from html import escape

    from matplotlib import rc_context

    figure = draw(panels)
    buffer = io.StringIO()
    with rc_context(RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", text).replace("xlink:href=", "href=")
    text = re.sub(r'\b(id="|href="#)', rf"\1{prefix}-", text)
    text = text.replace("url(#", f"url(#{prefix}-")
    head = re.compile(r'<svg\b([^>]*?) width="[^"]*"([^>]*)>')
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return head.sub(
        rf'<svg\1\2 role="img" aria-label="{escape(label, quote=True)}">'.replace("\\\\", "\\"),
        text,
        count=1,
    ).strip()


def _line(panel: Panel) -> int:
    """Characters that fit over a panel."""
    return LABELLED if "rows" in panel else LINE


def _columns(panel: Panel) -> int:
    """Columns of the legend, each of which takes a sign of six characters beside the name."""
    names = sorted(len(series.get("name", "")) for series in panel.get("series", ()))
    return 2 if sum(names[-2:]) + 12 <= _line(panel) + 4 else 1


def _height(panel: Panel) -> float:
    """Inches."""
    if panel["kind"] in ("points", "bars"):
        series = len(panel.get("series", [0]))
        return 0.9 + len(panel["rows"]) * max(0.26, 0.17 * series) + 0.18 * (series > 1) * series
    if panel["kind"] == "heat":
        return 1.1 + 0.26 * len(panel["rows"])
    return 2.6 + 0.17 * len(panel["series"])


# ---- kinds of panels -----------------------------------------------------------------------------


def _lines(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    categories = panel.get("categories")
    for number, series in enumerate(panel["series"]):
        x = list(range(len(categories))) if categories else series["x"]
        y = [math.nan if value is None else value for value in series["y"]]
        style = _style(number)
        if "low" in series:
            ends = _reach(y, series["low"], series["high"])
            axes.errorbar(x, y, ends, capsize=3, label=series["name"], **style)
        else:
            axes.plot(x, y, label=series["name"], **style)
    if categories:
        axes.set_xticks(range(len(categories)), categories)
    if panel.get("x_log"):
        ticks = sorted({value for series in panel["series"] for value in series["x"]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], rotation=45)
        axes.minorticks_off()
    if panel.get("y_log"):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        within = (1, 2, 5) if high < 100 * low else (1,)  # numbers stand where they do not crowd
        axes.yaxis.set_major_locator(LogLocator(subs=within))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    _finish(axes, panel)


def _points(axes: Axes, panel: Panel) -> None:
    rows, series = panel["rows"], panel["series"]
    step = 0.7 / max(1, len(series))
    for number, one in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * step
        for row, (value, low, high) in enumerate(
            zip(one["value"], one["low"], one["high"], strict=True)
        ):
            if value is None:
                continue
            axes.errorbar(
                [value],
                [row + shift],
                xerr=_reach([value], [low], [high]),
                capsize=3,
                label=one["name"] if row == 0 else None,
                **_style(number) | {"linestyle": "none"},
            )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _finish(axes, panel, vertical=True)


def _reach(
    values: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None]
) -> list[list[float]]:
    """How far intervals reach down and up; not at all where an end is missing."""
    down = zip(values, lows, strict=True)
    up = zip(values, highs, strict=True)
    return [
        [0.0 if low is None else max(0.0, value - low) for value, low in down],
        [0.0 if high is None else max(0.0, high - value) for value, high in up],
    ]


def _bars(axes: Axes, panel: Panel) -> None:
    axes.barh(
        range(len(panel["rows"])),
        [value or 0.0 for value in panel["values"]],
        color="#d9d9d9",
        edgecolor="black",
        hatch="///",
        height=0.6,
    )
    axes.set_yticks(range(len(panel["rows"])), panel["rows"], parse_math=False)
    axes.set_ylim(len(panel["rows"]) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    _finish(axes, panel, vertical=True)


def _histogram(axes: Axes, panel: Panel) -> None:
    edges = panel["edges"]
    for number, series in enumerate(panel["series"]):
        axes.stairs(
            series["counts"],
            edges,
            fill=False,
            label=series["name"],
            color=COLOURS[number % len(COLOURS)],
            linestyle=STYLES[number % len(STYLES)],
            hatch=HATCHES[number % len(HATCHES)],
            linewidth=1.3,
        )
    _finish(axes, panel, vertical=True)


def _heat(axes: Axes, panel: Panel) -> None:
    matrix = np.asarray(panel["matrix"], dtype=float)
    # Light colours only, so that black numbers stay readable in print too.
    # Cells are drawn, not a picture of them, so that the figure stays sharp and small.
    axes.pcolormesh(
        np.arange(matrix.shape[1] + 1) - 0.5,
        np.arange(matrix.shape[0] + 1) - 0.5,
        matrix,
        cmap="Greys",
        vmin=0.0,
        vmax=200.0,
    )
    axes.set_ylim(matrix.shape[0] - 0.5, -0.5)
    for row, column in np.ndindex(*matrix.shape):
        if matrix[row, column] >= 0.5:
            text = f"{matrix[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=FONT - 2)
    places = range(len(panel["columns"]))
    axes.set_xticks(places, panel["columns"], rotation=90, parse_math=False)
    axes.set_yticks(range(len(panel["rows"])), panel["rows"], parse_math=False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)


KINDS: dict[str, Callable[[Axes, Panel], None]] = {
    "lines": _lines,
    "points": _points,
    "bars": _bars,
    "histogram": _histogram,
    "heat": _heat,
}


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": STYLES[number % len(STYLES)],
        "markersize": 5,
        "linewidth": 1.3,
    }


def _finish(axes: Axes, panel: Panel, *, vertical: bool = False) -> None:
    """Grid, lines that mean something, and the legend below the panel's title."""
    axes.grid(alpha=0.3, axis="x" if vertical else "both")
    for value in panel.get("marks", ()):
        line = axes.axvline if vertical else axes.axhline
        line(value, color="black", linewidth=1.0, linestyle=(0, (2, 2)), zorder=0)
    names = [series.get("name", "") for series in panel.get("series", ())]
    if len(names) > 1 or panel.get("legend"):
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=_columns(panel),
            frameon=False,
            fontsize=FONT - 1,
            handlelength=4,
        )
