"""`nmt translate`: lines in, as many lines out, in the same order."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from nmt.cli import Arguments
from nmt.commands.files import read_file
from nmt.commands.share import stream_together
from nmt.decoding.align import links, pharaoh, word_matrix
from nmt.decoding.lines import read_chunks
from nmt.decoding.translate import Translation
from nmt.errors import UserError
from nmt.training.distributed import join
from nmt.translator import Translator


def main(arguments: Arguments) -> int:
    paths = arguments.runs()
    form = arguments.choice("format")
    with join() as world:
        translator = Translator.load(
            paths,
            checkpoint=arguments.own.get("checkpoint", "best"),
            words=arguments.words,
            tag=arguments.own.get("tag", ""),
        )
        if form == "text" and translator.options.n_best > 1:
            raise UserError("search.n_best above 1 gives several lines a line: add format=jsonl")
        prefixes: list[str] | None = None

        def work(lines: Sequence[str], before: int) -> list[str]:
            forced = None if prefixes is None else prefixes[before : before + len(lines)]
            found = translator.translate(lines, prefixes=forced, first_line=before + 1)
            return [t.text if form == "text" else _record(translator, t) for t in found]

        chunks = _chunks(arguments.own) if world.first else iter(())
        if "prefix" in arguments.own:
            lines = world.from_first(lambda: _all(chunks))
            prefixes = world.from_first(lambda: read_file(arguments.own["prefix"]))
            if len(prefixes) != len(lines):
                raise UserError(f"{len(lines)} lines, but {len(prefixes)} prefixes: one per line")
            chunks = iter([lines])
        with _output(arguments.own.get("output") if world.first else os.devnull) as out:
            for results in stream_together(world, chunks, work):
                for line in results:
                    print(line, file=out)
                out.flush()
    return 0


def _chunks(own: dict[str, str]) -> Iterator[Sequence[str]]:
    """The lines to translate, as soon as they are there."""
    if "text" in own:
        return iter([[own["text"].replace("\n", " ")]])
    if "input" in own:
        return _file_chunks(own["input"])
    return _prompted() if sys.stdin.isatty() else read_chunks(sys.stdin.buffer)


def _all(chunks: Iterable[Sequence[str]]) -> list[str]:
    return [line for chunk in chunks for line in chunk]


def _file_chunks(path: str) -> Iterator[list[str]]:
    try:
        with Path(path).open("rb") as stream:
            yield from read_chunks(stream)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _prompted() -> Iterator[list[str]]:
    """Sentences from a terminal, one at a time, until the end of input."""
    print("One sentence a line; Ctrl-D ends.", file=sys.stderr)
    with contextlib.suppress(EOFError):
        while True:
            # The prompt goes to stderr: standard output holds translations only.
            print("> ", end="", file=sys.stderr, flush=True)
            yield [input()]


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
        yield sys.stdout
        return
    try:
        with Path(path).open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _record(translator: Translator, translation: Translation) -> str:
    """One JSON line: the translation, its scores, the n best, and the alignment of the best."""
    record: dict[str, Any] = {
        "source": translation.source,
        "text": translation.text,
        "score": round(translation.score, 4),
        "log_prob": round(translation.log_prob, 4),
        "tokens": translation.tokens,
        "truncated": translation.truncated,
        "parts": translation.parts,
        "pieces": {"source": translation.source_pieces, "target": translation.pieces},
        "n_best": [
            {"text": c.text, "score": round(c.score, 4), "log_prob": round(c.log_prob, 4)}
            for c in translation.n_best
        ],
    }
    explained = next(iter(translator.explain([translation])))
    if explained.cross is not None and translation.tokens:
        words = translation.source.split(), translation.text.split()
        record["alignment"] = pharaoh(links(word_matrix(explained, *words)))
    return json.dumps(record, ensure_ascii=False)
