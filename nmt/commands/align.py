"""`nmt align`: what each target word looked at, as Pharaoh lines, heat maps or matrices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nmt.cli import Arguments
from nmt.commands.files import read_file
from nmt.decoding.align import (
    Explained,
    View,
    links,
    no_cross,
    pharaoh,
    token_matrix,
    word_matrix,
)
from nmt.errors import UserError
from nmt.evaluation.plots import head_grid, heat_map, save
from nmt.translator import Translator

PICTURES = (".png", ".svg")
Pair = tuple[str, str, Explained]


def main(arguments: Arguments) -> int:
    own = arguments.own
    run = arguments.run()
    form = arguments.choice("format", "pharaoh", "json")
    output = Path(own["output"]) if "output" in own else None
    if ("text" in own) == ("source" in own or "target" in own):
        raise UserError("nmt align needs text=SENTENCE, or source=FILE and target=FILE")
    view = View(_number(own, "layer"), _number(own, "head"))
    translator = Translator.load(
        run, checkpoint=own.get("checkpoint", "best"), words=arguments.words
    )
    for number, pair in enumerate(_pairs(translator, own), 1):
        if output is None:
            print(_line(pair, form, view, arguments))
        else:
            for path in _write(pair, output, number, view, arguments):
                print(path)
    return 0


def _pairs(translator: Translator, own: dict[str, str]) -> Iterator[Pair]:
    """Source, target and the attention between them, of each sentence asked for."""
    if "text" in own:
        translations = translator.translate([own["text"].replace("\n", " ")])
        for translation, found in zip(translations, translator.explain(translations), strict=True):
            yield translation.source, translation.text, found
        return
    if "source" not in own or "target" not in own:
        raise UserError("source=FILE and target=FILE go together: the target is what is explained")
    sources, targets = read_file(own["source"]), read_file(own["target"])
    yield from zip(sources, targets, translator.explain_pairs(sources, targets), strict=True)


def _number(own: dict[str, str], key: str) -> int | None:
    value = own.get(key)
    if value is None or value == "all":
        return None
    if not value.isdigit():
        raise UserError(f"{key}={value}: expected a number counted from 0, or all")
    return int(value)


def _matrix(pair: Pair, view: View, arguments: Arguments) -> tuple[list[str], list[str], Any]:
    """Labels of both sides and the weights (target, source), by word or by sub-word."""
    source, target, explained = pair
    if arguments.choice("words", "true", "false") == "true":
        words = source.split(), target.split()
        return *words, word_matrix(explained, *words, view)
    keeps_end = arguments.choice("eos", "keep", "drop") == "keep"
    labels = (explained.source, explained.target)
    if not keeps_end:
        labels = (labels[0][:-1], labels[1][:-1])
    return *labels, token_matrix(explained, view, end=keeps_end)


def _line(pair: Pair, form: str, view: View, arguments: Arguments) -> str:
    source, target, explained = pair
    if form == "json":
        return json.dumps(_record(pair, view, arguments), ensure_ascii=False)
    return pharaoh(links(word_matrix(explained, source.split(), target.split(), view)))


def _record(pair: Pair, view: View, arguments: Arguments) -> dict[str, Any]:
    source, target, explained = pair
    rows, columns, weights = _matrix(pair, view, arguments)
    return {
        "source": source,
        "target": target,
        "alignment": pharaoh(links(word_matrix(explained, source.split(), target.split(), view))),
        "source_labels": rows,
        "target_labels": columns,
        "weights": [[round(w, 4) for w in row] for row in weights.tolist()],
        "layers_and_heads": explained.to_dict(),
    }


def _write(pair: Pair, output: Path, number: int, view: View, arguments: Arguments) -> list[Path]:
    """Write one sentence: into the named file, or into files of a folder.

    Raises:
        UserError: several sentences for one file, or a place that cannot be written.
    """
    try:
        if output.suffix not in (*PICTURES, ".json"):
            output.mkdir(parents=True, exist_ok=True)
            stem = output / f"{number:04d}"
            written = save(_figure(pair, view, arguments), stem)
            written.append(_write_json(stem.with_suffix(".json"), pair, view, arguments))
            return written
        if number > 1:
            raise UserError(f"output={output} holds one sentence; name a folder for several")
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix == ".json":
            return [_write_json(output, pair, view, arguments)]
        figure = _figure(pair, view, arguments)
        return save(figure, output.with_suffix(""), formats=(output.suffix[1:],))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error


def _write_json(path: Path, pair: Pair, view: View, arguments: Arguments) -> Path:
    text = json.dumps(_record(pair, view, arguments), ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path


def _figure(pair: Pair, view: View, arguments: Arguments) -> Figure:
    """One heat map, or with ``head=all`` a small one for every layer and head."""
    explained = pair[2]
    if explained.cross is None:
        raise no_cross(explained)
    if arguments.own.get("head") == "all":
        return head_grid(explained.cross.numpy(), explained.source, explained.target)
    source, target, weights = _matrix(pair, view, arguments)
    return heat_map(weights, source, target, title=_title(view, explained))


def _title(view: View, explained: Explained) -> str:
    assert explained.cross is not None
    layers, heads = explained.cross.shape[:2]
    if layers * heads == 1:
        return ""
    layer = f"mean of {layers} layers" if view.layer is None else f"layer {view.layer}"
    head = f"mean of {heads} heads" if view.head is None else f"head {view.head}"
    return f"{layer}, {head}"
