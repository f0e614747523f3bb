"""Heat maps of attention and curves over length.

Colours (viridis) keep their order in grey print and for colour-blind readers. Labels may be in any
script: fonts are looked for glyph by glyph among those installed. matplotlib is imported late, and
without pyplot, so that nothing here needs a display or is remembered between figures.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Mapping, Sequence
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
RTL = ("R", "AL", "AN")


def heat_map(
    matrix: Matrix, source: Sequence[str], target: Sequence[str], *, title: str = ""
) -> Figure:
    """Attention of one sentence pair: a row per target token, a column per source token.

    The picture grows with the sentences up to 14 inches; then labels shrink, then every second or
    third is left out.

    Args:
        matrix: weights (target, source).

    Raises:
        ValueError: the labels do not fit the matrix.
    """
    weights = _array(matrix, source, target)
    width, height = _extent(len(source)), _extent(len(target))
    figure = _figure(width + 2.6, height + 2.0)
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap=COLOURS, vmin=0.0, vmax=_largest(weights), aspect="auto")
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
    weights: Matrix, source: Sequence[str], target: Sequence[str], *, title: str = ""
) -> Figure:
    """One small heat map for each layer (rows) and head (columns), on one colour scale.

    Args:
        weights: (layers, heads, target, source).

    Raises:
        ValueError: the labels do not fit the matrices.
    """
    values = np.asarray(weights, dtype=float)
    for matrix in values.reshape(-1, *values.shape[2:]):
        _array(matrix, source, target)
    layers, heads = values.shape[:2]
    width = min(_extent(len(source)) * 0.7, max(1.6, 18.0 / heads))
    height = min(_extent(len(target)) * 0.7, max(1.6, 18.0 / layers))
    figure = _figure(heads * (width + 0.15) + 2.2, layers * (height + 0.4) + 2.0)
    grid = figure.subplots(layers, heads, squeeze=False)
    image = None
    for layer in range(layers):
        for head in range(heads):
            axes = grid[layer][head]
            image = axes.imshow(
                values[layer, head], cmap=COLOURS, vmin=0.0, vmax=_largest(values), aspect="auto"
            )
            _label(axes, source if layer == 0 else (), target if head == 0 else (), width, height)
            axes.set_title(
                f"layer {layer}, head {head}", fontsize=FONT - 1, y=-0.16 / height, va="top"
            )
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=min(1.0, 4.0 / (layers * height)), pad=0.01)
    _title(figure, title)
    _footnote(figure, [*source, *target, title])
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


def _extent(tokens: int) -> float:
    """Inches for the cells of an axis."""
    return min(LARGEST, max(tokens, 2) * CELL)


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


def _title(figure: Figure, title: str) -> None:
    if title:
        [text], fonts = _readable([title], longest=100)
        figure.suptitle(text, fontsize=FONT + 1, fontfamily=fonts, parse_math=False)


def _footnote(figure: Figure, texts: Sequence[str]) -> None:
    """Says what the boxes mean, where there are any."""
    if any(NO_GLYPH in text for text in _readable(texts)[0]):
        note = f"{NO_GLYPH}: no font on this machine has the character (Noto Sans has most)"
        figure.supxlabel(note, fontsize=SMALLEST + 1, x=0.01, ha="left")


# ---- text ----------------------------------------------------------------------------------------


def _readable(labels: Sequence[str], longest: int = LONGEST) -> tuple[list[str], list[str]]:
    """Labels that can be drawn, and the fonts to draw them with, in order of preference."""
    shown = [_printable(label, longest) for label in labels]
    fonts, missing = _fonts(frozenset("".join(shown)))
    boxes = str.maketrans(dict.fromkeys(missing, NO_GLYPH))
    return [label.translate(boxes) for label in shown], list(fonts)


def _printable(label: str, longest: int) -> str:
    """Without control characters, which SVG may not hold; long labels are cut."""
    shown = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in label)
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return shown if _shapes_text() else _visual(shown)


def _shapes_text() -> bool:
    """Since 3.11 matplotlib lays out right-to-left and joined scripts itself."""
    import matplotlib

    return tuple(map(int, matplotlib.__version__.split(".")[:2])) >= (3, 11)


def _visual(label: str) -> str:
    """A word of a right-to-left script in the order in which it is drawn from the left."""
    if any(unicodedata.bidirectional(c) in RTL for c in label):
        return label[::-1]
    return label


@functools.lru_cache(maxsize=256)
def _fonts(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Font families that together have the characters, and the characters that none has."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    default = font_manager.findfont("DejaVu Sans")
    missing = {c for c in characters if not c.isspace() and ord(c) not in _glyphs(default)}
    others = font_manager.fontManager.ttflist if missing else []
    # sans-serif first, then by name, so that the choice does not depend on the order on disk
    for font in sorted(others, key=lambda f: ("Sans" not in f.name, f.name, f.fname)):
        if not missing or font.name.startswith("Last Resort"):
            continue
        found = {c for c in missing if ord(c) in _glyphs(font.fname)}
        if found:
            families.append(font.name)
            missing -= found
    return tuple(families), frozenset(missing)


@functools.lru_cache(maxsize=1024)
def _glyphs(path: str) -> frozenset[int]:
    """The characters a font file has; none where it cannot be read."""
    from matplotlib import ft2font

    try:
        charmap: dict[int, Any] = ft2font.FT2Font(path).get_charmap()
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(charmap)
