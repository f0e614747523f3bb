"""`nmt info`: what a run is, from its own files; writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nmt import runs
from nmt.cli import Arguments
from nmt.data.tokenizer import Tokenizers
from nmt.errors import UserError
from nmt.models.build import count_parameters
from nmt.training.index import read_index


def main(arguments: Arguments) -> int:
    facts = gather(arguments.run())
    if arguments.choice("format") == "json":
        print(json.dumps(facts, ensure_ascii=False, indent=1))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        for number, line in enumerate(value if isinstance(value, list) else [value]):
            print(f"{name if number == 0 else '':{width}}  {line}")
    return 0


def gather(run: Path) -> dict[str, Any]:
    """Facts of a run by name; a list is one line each."""
    config = runs.stored_config(run)
    tokenizers = Tokenizers.load(run / "tokenizer")
    size = count_parameters(runs.outline(config, tokenizers))
    data = runs.read_json(run / "data.json", {})
    pairs = {name: split["pairs"] for name, split in data.get("splits", {}).items()}
    shape = f"{config.model.encoder_layers}+{config.model.decoder_layers} layers"
    joint = "joint" if tokenizers.joint else "separate"
    facts: dict[str, Any] = {
        "run": str(run),
        "model": f"{config.model.name} ({config.model.kind.value}), {shape} of width "
        f"{config.model.width}, attention {config.attention.preset}",
        "parameters": f"{size.total:,} ({size.body:,} without embeddings)",
        "data": f"{config.data.name}, {'-'.join(_languages(config.data))}, "
        + ", ".join(f"{name} {count:,}" for name, count in pairs.items()),
        "vocabulary": f"{config.tokenizer.type.value}, {joint}, {tokenizers.source.size:,} and "
        f"{tokenizers.target.size:,} pieces, {tokenizers.hash[:12]}",
        "seed": config.seed,
    }
    return facts | _checkpoints(run) | _scores(run)


def _languages(data: Any) -> list[str]:
    parts: list[str] = data.languages.split("-")
    return parts[::-1] if data.reverse else parts


def _checkpoints(run: Path) -> dict[str, Any]:
    try:
        index = read_index(run / "checkpoints")
    except UserError as error:
        return {"checkpoints": str(error)}
    best, last = index.best, index.last
    lines = []
    for entry in [*index.kept, *([index.average] if index.average else [])]:
        marks = [name for name, one in (("best", best), ("last", last)) if one == entry]
        scores = " ".join(f"{name} {value:.4g}" for name, value in entry.scores.items())
        lines.append(f"{entry.name}  {scores}{'  (' + ', '.join(marks) + ')' if marks else ''}")
    manifest = runs.read_json(run / "checkpoints" / lines[0].split()[0] / "manifest.json", {})
    versions = ", ".join(f"{k} {v}" for k, v in manifest.get("versions", {}).items())
    return {"checkpoints": lines, "versions": versions}


def _scores(run: Path) -> dict[str, Any]:
    lines = []
    for record in runs.read_json(run / "scores.json", []):
        head = f"{record['data']} {record['split']}, {record['checkpoint']}:"
        for one in record["scores"].values():
            interval = "" if one["low"] is None else f" [{one['low']:.1f}, {one['high']:.1f}]"
            lines.append(f"{head} {one['name']} {one['score']:.2f}{interval}  {one['signature']}")
    return {"scores": lines or "none yet: nmt evaluate run=" + str(run)}
