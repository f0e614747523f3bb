"""`nmt evaluate`: a run, or a file of translations, against references."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmt import compose, runs
from nmt.cli import Arguments
from nmt.commands.files import read_file
from nmt.commands.share import together
from nmt.data.mixture import split_tag
from nmt.data.prepare import prepare
from nmt.errors import UserError
from nmt.evaluation.scores import (
    Bucket,
    Score,
    append_record,
    by_length,
    length_table,
    score,
    tok_bleu_lc,
)
from nmt.training.distributed import World, join
from nmt.translator import Translator

IDENTITY = ("data", "split", "checkpoint", "search", "masked_heads", "runs")
"""What makes two records of scores.json the same measurement."""


def main(arguments: Arguments) -> int:
    given = arguments.own.get("hypotheses")
    if given is not None and "run" in arguments.own:
        raise UserError("give run=… or hypotheses=…, not both")
    if given is not None:
        record = _of_files(arguments, given)
    else:
        with join() as world:
            found = _of_run(arguments, world)
        if found is None:
            return 0  # rank 0 has all results, and says them
        record = found
    if arguments.choice("format") == "json":
        print(json.dumps(record, ensure_ascii=False, indent=1))
    return 0


def _of_files(arguments: Arguments, given: str) -> dict[str, Any]:
    if "references" not in arguments.own:
        raise UserError("hypotheses=FILE needs references=FILE (several with commas between)")
    hypotheses = read_file(given)
    references = [read_file(path) for path in arguments.own["references"].split(",")]
    if arguments.choice("tokenized") == "true":
        found = {"tok_bleu_lc": tok_bleu_lc(hypotheses, references)}
    else:
        language = arguments.own.get("language", "")
        if not language:
            _say("language= is not given: BLEU uses the tokenizer 13a, wrong for zh, ja and ko")
        found = score(hypotheses, references, target_language=language or "en", report=_say)
    buckets = None
    if "source" in arguments.own:
        sources = read_file(arguments.own["source"])
        language = arguments.own.get("language", "en")
        buckets = by_length(sources, hypotheses, references, target_language=language)
    _show(arguments, found, buckets)
    return {"scores": {name: one.to_dict() for name, one in found.items()}}


def _of_run(arguments: Arguments, world: World) -> dict[str, Any] | None:
    paths = arguments.runs()
    run, home = paths[0], home_of(arguments, paths)
    translator = Translator.load(
        paths,
        checkpoint=arguments.own.get("checkpoint", "best"),
        words=arguments.words,
        report=_say,
    )
    opened = translator.run
    folders = {key: value for key, value in arguments.own.items() if key.startswith("data.")}
    config = compose.with_values(opened.config, folders)
    own = opened.tokenizers
    inherited = own if config.train.init_from else None
    prepared = prepare(config.data, config.tokenizer, report=lambda _: None, tokenizers=inherited)
    known = runs.read_json(run / "data.json", {}).get("fingerprint")
    if prepared.tokenizers.hash != own.hash and prepared.fingerprint != known:
        raise UserError(
            f"{run} was trained with another vocabulary than {config.data.name} gives now: the "
            "corpus has changed since; restore it, or score files with hypotheses= references="
        )
    split = arguments.own.get("split", "test")
    sources, references = prepared.sources(split), prepared.references(split)
    began = time.perf_counter()

    def work(lines: Sequence[str], before: int) -> list[str]:
        return [t.text for t in translator.translate(lines, first_line=before + 1)]

    hypotheses = together(world, sources, work)
    seconds = time.perf_counter() - began
    if not world.first:
        return None
    found = score(hypotheses, references, target_language=opened.target_language, report=_say)
    plain = [split_tag(source, config.data.tags)[1] for source in sources]
    buckets = by_length(plain, hypotheses, references, target_language=opened.target_language)
    record = {
        "data": config.data.name,
        "split": split,
        "checkpoint": opened.checkpoint,
        "search": dataclasses.asdict(config.search),
        "sentences": len(sources),
        "scores": {name: one.to_dict() for name, one in found.items()},
        "by_length": [dataclasses.asdict(bucket) for bucket in buckets],
        "seconds": round(seconds, 2),
        "data_fingerprint": prepared.fingerprint,
    }
    if config.attention.masked_heads:
        record["masked_heads"] = config.attention.masked_heads
    if translator.members:
        record["runs"] = [str(path) for path in paths]
        record["checkpoint"] = "+".join(member.checkpoint for member in translator.members)
    if home is not None:
        record["translations"] = str(_keep(home, record, hypotheses).relative_to(home))
        append_record(home / "scores.json", record, IDENTITY)
    _say(
        f"{config.data.name} {split}, {record['checkpoint']}, {len(sources):,} sentences in "
        f"{seconds:.1f} s, BLEU's references are in {opened.target_language}"
    )
    _show(arguments, found, buckets)
    return record


def home_of(arguments: Arguments, paths: Sequence[Path]) -> Path | None:
    """Where records go: the one run that was measured, or a folder that is no run's.

    Raises:
        UserError: ``output`` names a run, whose scores are its own.
    """
    if "output" not in arguments.own:
        return paths[0] if len(paths) == 1 else None
    home = Path(arguments.own["output"])
    if (home / "config.yaml").exists():
        raise UserError(f"output={home} is a run, and its scores are its own; name another folder")
    return home


def _keep(run: Path, record: dict[str, Any], hypotheses: Sequence[str]) -> Path:
    """Write the hypotheses beside their scores, under a name that says how they were made."""
    masked = {"masked_heads": record["masked_heads"]} if "masked_heads" in record else {}
    settings = record["search"] | masked
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    made = (record["data"], record["split"], record["checkpoint"], digest[:8])
    path = run / "translations" / f"{'.'.join(made)}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{h}\n" for h in hypotheses), encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def _show(arguments: Arguments, found: dict[str, Score], buckets: list[Bucket] | None) -> None:
    if arguments.own.get("format") == "json":
        return
    for one in found.values():
        print(one)
    if buckets:
        print(length_table(buckets))


def _say(text: str) -> None:
    print(f"nmt: {text}", file=sys.stderr)
