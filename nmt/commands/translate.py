"""`nmt translate`: lines in, as many lines out, in the same order."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from nmt.cli import Arguments
from nmt.commands.files import read_file
from nmt.decoding.align import links, pharaoh, word_matrix
from nmt.decoding.lines import read_chunks
from nmt.decoding.translate import Translation
from nmt.errors import UserError
from nmt.translator import Translator


def main(arguments: Arguments) -> int:
    run = arguments.run()
    form = arguments.choice("format", "text", "jsonl")
    translator = Translator.load(
        run, checkpoint=arguments.own.get("checkpoint", "best"), words=arguments.words
    )
    if form == "text" and translator.options.n_best > 1:
        raise UserError("search.n_best above 1 gives several lines a sentence: add format=jsonl")
    with _output(arguments.own.get("output")) as out:
        for translation in _translations(translator, arguments.own):
            line = translation.text if form == "text" else _record(translator, translation)
            print(line, file=out, flush=out is sys.stdout)
    return 0


def _translations(translator: Translator, own: dict[str, str]) -> Iterable[Translation]:
    if "text" in own:
        lines = [own["text"].replace("\n", " ")]
    elif "prefix" in own:
        lines = read_file(own["input"]) if "input" in own else _all(read_chunks(sys.stdin.buffer))
    elif "input" in own:
        return translator.stream(_file_chunks(own["input"]))
    elif sys.stdin.isatty():
        return translator.stream(_prompted())
    else:
        return translator.stream(read_chunks(sys.stdin.buffer))
    prefixes = read_file(own["prefix"]) if "prefix" in own else None
    return translator.translate(lines, prefixes=prefixes)


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
