"""What `nmt align` shows of attention: pictures and matrices of a pair, scores of many."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nmt.commands.pairs import Pair
from nmt.decoding.align import (
    END,
    AlignmentScore,
    Row,
    Rule,
    View,
    by_word,
    links,
    owners,
    pharaoh,
    seen,
    trimmed,
    word_matrix,
)
from nmt.errors import UserError
from nmt.evaluation.plots import head_grid, heat_map, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

PICTURES = (".png", ".svg")
Axis = int | Literal["mean", "all"] | None
WITHOUT_SPACES = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts, as their characters' Unicode names begin, that do not part words by spaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How attention is looked at; ``words`` and ``end`` are None where the text decides.

    ``layer`` and ``head`` say what pictures show, ``view`` what aligns.
    """

    layer: Axis
    head: Axis
    rule: Rule
    words: bool | None
    end: bool | None
    view: View


# ---- one pair ------------------------------------------------------------------------------------


def links_of(pair: Pair, look: Look) -> str:
    """A Pharaoh line, by word."""
    return pharaoh(links(word_matrix(pair.explained, *pair.words, look.view), look.rule))


def has_no_spaces(text: str) -> bool:
    """Whether a text is in a script without spaces and was not cut into words."""
    letters = [c for c in text if c.isalpha()]
    without = sum(unicodedata.name(c, "").startswith(WITHOUT_SPACES) for c in letters)
    return 2 * without > len(letters) > 4 * len(text.split())


def matrices(pair: Pair, look: Look, views: Sequence[View]) -> tuple[list[str], list[str], Tensor]:
    """Labels of source and target, and weights (views, target, source), by word or sub-word."""
    explained, row = pair.explained, views[0].row
    whole = look.words
    if whole is None:
        whole = not (has_no_spaces(pair.source) or has_no_spaces(pair.target))
    end = not whole if look.end is None else look.end
    weights_VTS = trimmed(seen(explained, views), row, end=end)
    source, target = explained.source[:-1], explained.target[:-1]
    if whole:
        source, target = pair.words
        weights_VTS = by_word(weights_VTS, *owners(explained, source, target, row=row, end=end))
    if end:
        source = [*source, END]
        target = [*target, END] if row == "predicts" else target
    return list(source), list(target), weights_VTS


def record(pair: Pair, look: Look) -> dict[str, Any]:
    """A pair as JSON holds it: the view that was asked for, and every layer and head."""
    source, target, weights_VTS = matrices(pair, look, [look.view])
    return {
        "source": pair.source,
        "target": pair.target,
        "alignment": links_of(pair, look),
        "view": named(look.view),
        "source_labels": source,
        "target_labels": target,
        "weights": [[round(w, 4) for w in row] for row in weights_VTS[0].tolist()],
        "layers_and_heads": pair.explained.to_dict(),
    }


def figure(pair: Pair, look: Look) -> Figure:
    """One heat map, or a small one for every layer and head where ``all`` was asked for."""
    assert pair.explained.cross is not None
    layers, heads = pair.explained.cross.shape[:2]
    if "all" not in (look.layer, look.head):
        source, target, weights_VTS = matrices(pair, look, [look.view])
        title = describe(look.view) if layers * heads > 1 else ""
        by_gold_word = len(source) >= len(pair.words[0]) and look.words is not False
        sure = pair.gold.sure if pair.gold and by_gold_word else frozenset()
        possible = pair.gold.possible if pair.gold and by_gold_word else frozenset()
        return heat_map(
            weights_VTS[0], source, target, title=title, sure=sure, possible=possible - sure
        )
    rows, columns = _options(look.layer, layers), _options(look.head, heads)
    views = [View(layer, head, look.view.row) for layer in rows for head in columns]
    source, target, weights_VTS = matrices(pair, look, views)
    return head_grid(
        weights_VTS.unflatten(0, (len(rows), len(columns))),
        source,
        target,
        layers=["mean" if layer is None else str(layer) for layer in rows],
        heads=["mean" if head is None else str(head) for head in columns],
    )


def _options(axis: Axis, size: int) -> list[int | None]:
    if isinstance(axis, int):
        return [axis]
    return [None] if axis == "mean" else [*range(size)]


def write(pair: Pair, output: Path, look: Look) -> list[Path]:
    """Write one sentence: into the named file, or into files of a folder.

    Raises:
        UserError: several sentences for one file, or a place that cannot be written.
    """
    try:
        if output.suffix not in (*PICTURES, ".json"):
            output.mkdir(parents=True, exist_ok=True)
            stem = output / f"{pair.number:04d}"
            written = save(figure(pair, look), stem)
            return [*written, write_json(stem.with_suffix(".json"), record(pair, look))]
        if pair.number > 1:
            raise UserError(f"output={output} holds one sentence; name a folder for several")
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix == ".json":
            return [write_json(output, record(pair, look))]
        return save(figure(pair, look), output.with_suffix(""), formats=(output.suffix[1:],))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error


def write_json(path: Path, content: dict[str, Any]) -> Path:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path


# ---- views and scores ----------------------------------------------------------------------------


def describe(view: View) -> str:
    """A view as people read it."""
    layer = "mean of the layers" if view.layer is None else f"layer {view.layer}"
    head = "mean of the heads" if view.head is None else f"head {view.head}"
    return f"{layer}, {head}, the row that {view.row} a word"


def named(view: View) -> dict[str, int | str]:
    """A view as it is typed."""
    layer: int | str = "mean" if view.layer is None else view.layer
    head: int | str = "mean" if view.head is None else view.head
    row: Row = view.row
    return {"layer": layer, "head": head, "row": row}


def percents(score: AlignmentScore) -> str:
    rates = (score.error_rate, score.precision, score.recall)
    return "AER {:.1f} %  precision {:.1f} %  recall {:.1f} %".format(*(100 * r for r in rates))


def rates(score: AlignmentScore) -> dict[str, float]:
    return {
        "aer": round(score.error_rate, 4),
        "precision": round(score.precision, 4),
        "recall": round(score.recall, 4),
    }


def table(scores: Sequence[tuple[View, AlignmentScore]], used: View) -> list[str]:
    """Lines of a table by layer, head and row; a star marks the view that counts."""
    lines = ["  layer  head  row        AER  precision  recall"]
    for view, score in scores:
        name = named(view)
        numbers = [100 * r for r in (score.error_rate, score.precision, score.recall)]
        lines.append(
            f"{'*' if view == used else ' '} {name['layer']!s:>5}  {name['head']!s:>4}  "
            f"{view.row:8}  {numbers[0]:5.1f}  {numbers[1]:9.1f}  {numbers[2]:6.1f}"
        )
    return lines
