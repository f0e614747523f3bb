"""Heat maps of attention and curves over length.

Colours (viridis) keep their order in grey print and for colour-blind readers. Labels may be in any
script: fonts are looked for glyph by glyph among those installed. Words of right-to-left scripts
read from the right, but the first word of a sentence is the leftmost column, as in any other, so
that columns are numbered alike. matplotlib is imported late, and without pyplot, so that nothing
here needs a display or is remembered between figures.
"""

from __future__ import annotations

import contextlib
import functools
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmt.evaluation.scores import Bucket

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    Matrix = np.ndarray | Tensor

COLOURS = "viridis"
CELL = 0.34  # inches a token gets while there is room
LARGEST = 14.0  # inches of the cells of one axis
FONT = 9.0  # points of a label while there is room
SMALLEST = 6.0  # points; beyond, labels are left out instead
LONGEST = 24  # characters of a label
NO_GLYPH = "□"
RTL = ("R", "AL")
JOINERS = "\u200c\u200d"
FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR"),
    *("Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC"),
    *("Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Noto Sans"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Arial Unicode MS", "Segoe UI"),
)
"""Fonts that are good to read, for what DejaVu Sans, which comes with matplotlib, lacks."""


def heat_map(
    matrix: Matrix,
    source: Sequence[str],
    target: Sequence[str],
    *,
    title: str = "",
    sure: Collection[tuple[int, int]] = (),
    possible: Collection[tuple[int, int]] = (),
) -> Figure:
    """Attention of one sentence pair: a row per target token, a column per source token.

    The picture grows with the sentences up to 14 inches; then labels shrink, then every second or
    third is left out.

    Args:
        matrix: weights (target, source).
        sure: gold links (source, target) to be framed.
        possible: gold links to be framed by dots.

    Raises:
        ValueError: the labels do not fit the matrix.
    """
    weights, source, target = _visible(_array(matrix, source, target), source, target)
    width, height = _extent(len(source)), _extent(len(target))
    figure = _figure(width + _room(target) + 1.7, height + _room(source) + 1.1)
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap=COLOURS, vmin=0.0, vmax=_largest(weights), aspect="auto")
    for found, style in ((sure, "solid"), (possible, "dotted")):
        _frame(axes, found, style)
    _label(axes, source, target, width, height)
    axes.set_xlabel("source")
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("target")
    bar = figure.colorbar(image, ax=axes, fraction=0.6 / (width + 2.6), pad=0.02, aspect=30)
    bar.set_label("attention weight")
    _title(figure, title)
    _footnote(figure, [*source, *target, title])
    return figure


def head_grid(
    weights: Matrix,
    source: Sequence[str],
    target: Sequence[str],
    *,
    title: str = "",
    layers: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
) -> Figure:
    """One small heat map for each layer (rows) and head (columns), on one colour scale.

    Args:
        weights: (layers, heads, target, source).
        layers: names of the rows; their numbers where None, as for ``heads``.

    Raises:
        ValueError: the labels do not fit the matrices.
    """
    values = np.asarray(weights, dtype=float)
    for matrix in (matrix for row in values for matrix in row):
        _array(matrix, source, target)
    values, source, target = _visible(values, source, target)
    rows = list(layers or map(str, range(values.shape[0])))
    columns = list(heads or map(str, range(values.shape[1])))
    width = min(_extent(len(source)) * 0.7, max(1.6, 18.0 / len(columns)))
    height = min(_extent(len(target)) * 0.7, max(1.6, 18.0 / len(rows)))
    figure = _figure(
        len(columns) * (width + 0.15) + _room(target) + 1.1,
        len(rows) * (height + 0.4) + _room(source) + 0.8,
    )
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    image = None
    for row, layer in enumerate(rows):
        for column, head in enumerate(columns):
            axes = grid[row][column]
            image = axes.imshow(
                values[row, column], cmap=COLOURS, vmin=0.0, vmax=_largest(values), aspect="auto"
            )
            _label(axes, source if row == 0 else (), target if column == 0 else (), width, height)
            name = f"layer {layer}, head {head}"
            axes.set_title(name, fontsize=FONT - 1, y=-0.16 / height, va="top")
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=min(1.0, 4.0 / (len(rows) * height)), pad=0.01)
    _title(figure, title)
    _footnote(figure, [*source, *target, title])
    return figure


def head_tiles(weights: Matrix, *, title: str = "") -> Figure:
    """Every layer (rows) and head (columns) as one picture without words, quick to draw.

    Args:
        weights: (layers, heads, target, source).
    """
    values = np.asarray(weights, dtype=float)
    layers, heads, rows, columns = values.shape
    gap = max(1, round(0.04 * max(rows, columns)))
    tiles = np.full((layers * (rows + gap) - gap, heads * (columns + gap) - gap), np.nan)
    for layer in range(layers):
        for head in range(heads):
            top, left = layer * (rows + gap), head * (columns + gap)
            tiles[top : top + rows, left : left + columns] = values[layer, head]
    tile = min(2.2, 16.0 / max(layers, heads))
    figure = _figure(heads * tile + 1.6, layers * tile + 0.8)
    axes = figure.add_subplot()
    image = axes.imshow(tiles, cmap=COLOURS, vmin=0.0, vmax=_largest(values), aspect="auto")
    for axis, count, cells in ((axes.xaxis, heads, columns), (axes.yaxis, layers, rows)):
        middles = [place * (cells + gap) + (cells - 1) / 2 for place in range(count)]
        axis.set_ticks(middles, [str(place) for place in range(count)])
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    _title(figure, title)
    return figure


def length_curve(systems: Mapping[str, Sequence[Bucket]], *, title: str = "") -> Figure:
    """BLEU against source length, one line a system (see `nmt.evaluation.scores.by_length`).

    Compare lines, not points of one line: long sentences are also rarer and harder.
    """
    figure = _figure(7.0, 4.2)
    axes = figure.add_subplot()
    rows = {b.low: b for buckets in systems.values() for b in buckets}
    places = {low: place for place, low in enumerate(sorted(rows))}
    for (name, buckets), marker in zip(systems.items(), "osD^vPX*" * len(systems), strict=False):
        points = [(places[b.low], b.bleu) for b in buckets]
        axes.plot(*zip(*points, strict=True), marker=marker, label=name)
    names = [
        f"{b.low}+\nn={b.sentences}" if b.high is None else f"{b.low}-{b.high}\nn={b.sentences}"
        for _, b in sorted(rows.items())
    ]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("source words (n: sentences)")
    axes.set_ylabel("BLEU")
    axes.grid(alpha=0.3)
    axes.legend()
    _title(figure, title)
    return figure


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Writes ``stem.png`` and ``stem.svg``; the same figure gives the same bytes."""
    from matplotlib import rc_context

    paths = [stem.with_name(f"{stem.name}.{name}") for name in formats]
    for path, name in zip(paths, formats, strict=True):
        date = {"Date": None} if name == "svg" else None
        with rc_context({"svg.hashsalt": "nmt"}):
            figure.savefig(path, format=name, dpi=150, metadata=date)
    return paths


def as_rgb(figure: Figure, dpi: int = 80) -> np.ndarray:
    """The figure as bytes (height, width, 3), for TensorBoard."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


# ---- parts of a figure ---------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(max(width, 3.5), max(height, 2.5)), layout="constrained")


def _array(matrix: Matrix, source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    weights = np.asarray(matrix, dtype=float)
    if weights.shape != (len(target), len(source)):
        raise ValueError(
            f"{len(target)} target and {len(source)} source labels for a matrix of {weights.shape}"
        )
    return weights


def _visible(
    weights: np.ndarray, source: Sequence[str], target: Sequence[str]
) -> tuple[np.ndarray, Sequence[str], Sequence[str]]:
    """An empty sentence as one without a name, since a picture needs a cell."""
    if weights.size == 0:
        source, target = source or [""], target or [""]
        weights = np.zeros((*weights.shape[:-2], len(target), len(source)))
    return weights, source, target


def _extent(tokens: int) -> float:
    """Inches for the cells of an axis."""
    return min(LARGEST, max(tokens, 2) * CELL)


def _room(labels: Sequence[str]) -> float:
    """Inches that the longest label takes; letters of East Asia are twice as wide."""
    widths = (
        sum(0.13 if unicodedata.east_asian_width(c) in "WF" else 0.08 for c in label[:LONGEST])
        for label in labels
    )
    return max(widths, default=0.0)


def _largest(weights: np.ndarray) -> float:
    """The weight that gets the brightest colour."""
    return max(float(weights.max(initial=0.0)), 1e-6)


def _label(
    axes: Axes, source: Sequence[str], target: Sequence[str], width: float, height: float
) -> None:
    """Tokens on both axes, as many as stay readable; an axis without tokens has no ticks."""
    axes.xaxis.tick_top()
    for axis, labels, extent in ((axes.xaxis, source, width), (axes.yaxis, target, height)):
        cell = extent / max(len(labels), 1) * 72  # points
        size = min(FONT, max(SMALLEST, cell * 0.8))
        every = max(1, math.ceil(size * 1.1 / cell))
        places = range(0, len(labels), every)
        texts, fonts = _readable([labels[place] for place in places])
        axis.set_ticks(list(places), texts, fontsize=size, fontfamily=fonts, parse_math=False)
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(length=0, pad=2)


def _frame(axes: Axes, found: Collection[tuple[int, int]], style: str) -> None:
    """Frames around the cells of links (source, target)."""
    from matplotlib.patches import Rectangle

    for column, row in found:
        corner = (column - 0.42, row - 0.42)
        axes.add_patch(
            Rectangle(corner, 0.84, 0.84, fill=False, edgecolor="red", lw=1.2, linestyle=style)
        )


def _title(figure: Figure, title: str) -> None:
    if title:
        width, height = figure.get_size_inches()
        figure.set_size_inches(max(width, 0.08 * min(len(title), 100) + 0.2), height)
        [text], fonts = _readable([title], longest=100)
        figure.suptitle(text, fontsize=FONT + 1, fontfamily=fonts, parse_math=False)


def _footnote(figure: Figure, texts: Sequence[str]) -> None:
    """Says what the boxes mean, where there are any."""
    if _fonts(frozenset("".join(_printable(text, LONGEST) for text in texts)))[1]:
        note = f"{NO_GLYPH}: no font on this machine has the character"
        figure.supxlabel(note, fontsize=SMALLEST + 1, x=0.01, ha="left")


# ---- text ----------------------------------------------------------------------------------------


def lacking(texts: Sequence[str]) -> str:
    """What to install for characters that would be drawn as boxes; "" where there are none."""
    _, missing = _fonts(frozenset("".join(_printable(text, len(text)) for text in texts)))
    if not missing:
        return ""
    wide = {c for c in missing if unicodedata.east_asian_width(c) in "WF" and c.isalpha()}
    packages = ["Noto Sans CJK (Debian: fonts-noto-cjk)"] if wide else []
    packages += ["Noto Sans (Debian: fonts-noto-core)"] if missing - wide else []
    some = " ".join(sorted(missing)[:8]) + (" …" if len(missing) > 8 else "")
    return (
        f"no installed font has {some}: pictures show {NO_GLYPH} instead; "
        f"install {' and '.join(packages)}"
    )


def _readable(labels: Sequence[str], longest: int = LONGEST) -> tuple[list[str], list[str]]:
    """Labels that can be drawn, and the fonts to draw them with, in order of preference."""
    shown = [_printable(label, longest) for label in labels]
    fonts, missing = _fonts(frozenset("".join(shown)))
    boxes = str.maketrans(dict.fromkeys(missing, NO_GLYPH))
    shown = [label.translate(boxes) for label in shown]
    return [label if _shapes_text() else _visual(label) for label in shown], list(fonts)


def _printable(label: str, longest: int) -> str:
    """Without control characters, which SVG may not hold, and marks that no font draws; cut."""
    kinds = ((c, unicodedata.category(c)) for c in label)
    shown = "".join(
        "\ufffd" if kind in ("Cc", "Cs") else c for c, kind in kinds if kind != "Cf" or c in JOINERS
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _shapes_text() -> bool:
    """Since 3.11 matplotlib lays out right-to-left and joined scripts itself."""
    import matplotlib

    return tuple(map(int, matplotlib.__version__.split(".")[:2])) >= (3, 11)


def _visual(label: str) -> str:
    """A word of a right-to-left script in the order in which it is drawn from the left.

    What a library that draws from the left needs: the letters turned round, each with its marks,
    and numbers and Latin letters among them as they are. Letters stay unjoined.
    """
    if not any(unicodedata.bidirectional(c) in RTL for c in label):
        return label
    clusters: list[str] = []
    for c in label:
        if clusters and unicodedata.bidirectional(c) == "NSM":
            clusters[-1] += c
        else:
            clusters.append(c)
    kinds = [unicodedata.bidirectional(cluster[0]) for cluster in clusters]
    runs: list[str] = []
    was_forward = False
    for place, (cluster, kind) in enumerate(zip(clusters, kinds, strict=True)):
        beside = {*kinds[max(place - 1, 0) : place], *kinds[place + 1 : place + 2]}
        inside = kind in ("CS", "ES") and beside and beside <= {"EN", "AN"}
        forward = kind in ("L", "EN", "AN") or bool(inside)
        if forward and was_forward:
            runs[-1] += cluster
        else:
            runs.append(cluster)
        was_forward = forward
    return "".join(reversed(runs))


@functools.lru_cache(maxsize=256)
def _fonts(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Font families that together have the characters, and the characters that none has."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    default = font_manager.findfont("DejaVu Sans")
    missing = {c for c in characters if not c.isspace() and c not in JOINERS}
    missing -= {c for c in missing if ord(c) in _glyphs(default)}
    for known in (True, False):
        if missing and not known:
            _add_new_fonts()
        for font in sorted(font_manager.fontManager.ttflist, key=_preference) if missing else []:
            if font.name in families or font.name.startswith("Last Resort"):
                continue
            found = {c for c in missing if ord(c) in _glyphs(font.fname)}
            if found:
                families.append(font.name)
                missing -= found
    return tuple(families), frozenset(missing)


def _preference(font: Any) -> tuple[Any, ...]:
    """Known good fonts, then sans-serif ones, by name and not by their order on disk."""
    known = FONTS.index(font.name) if font.name in FONTS else len(FONTS)
    return known, "Sans" not in font.name, font.name, font.fname


@functools.cache
def _add_new_fonts() -> None:
    """Fonts that were installed after matplotlib wrote down its list."""
    from matplotlib import font_manager

    listed = {font.fname for font in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - listed):
        with contextlib.suppress(OSError, RuntimeError):
            font_manager.fontManager.addfont(path)


@functools.lru_cache(maxsize=1024)
def _glyphs(path: str) -> frozenset[int]:
    """The characters a font file has; none where it cannot be read."""
    from matplotlib import ft2font

    try:
        charmap: dict[int, Any] = ft2font.FT2Font(path).get_charmap()
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(charmap)
