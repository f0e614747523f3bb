"""Lines as what is decoded at once: a sentence, or the parts of a line that is too long."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from nmt.data.mixture import split_tag
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.decoding.lines import Report
from nmt.decoding.search import Hypothesis

MAX_INPUT = 400
"""Source tokens above which a line is translated in parts: no sentence of a training set is longer,
and a model asked for more than it has seen drops text."""

ENDINGS = (
    re.compile(r"""[.!?…]+["'»”’)\]]*\s+|[。！？｡]+[」』”’）]*\s*"""),  # sentences
    re.compile(r"""[,;:–—]+["'»”’)\]]*\s+|[、，；：､]+\s*"""),  # clauses
    re.compile(r"\s+"),  # words
)
"""Where a long line may be cut, best places first."""


@dataclass(slots=True)
class Part:
    """What is decoded as one sentence: a line, or a part of a long one."""

    line: int
    ids: list[int]
    prefix: list[int]
    found: list[Hypothesis] = field(default_factory=list)


def cut_lines(
    tokenizers: Tokenizers,
    lines: Sequence[str],
    prefixes: Sequence[str] | None,
    limit: int,
    tags: Sequence[str],
    first_line: int,
    report: Report,
) -> tuple[list[Part], list[int]]:
    """What is to be decoded, in order, and how many parts each line has (0: nothing to say).

    All parts of a line that begins with one of the ``tags`` do.
    """
    texts = [_readable(line) for line in lines]
    forced = tokenizers.target.encode(prefixes) if prefixes else [[] for _ in lines]
    parts: list[Part] = []
    counts = []
    for number, ids in enumerate(tokenizers.source.encode(texts)):
        tag, rest = split_tag(texts[number], tags)
        pieces = [ids] if ids and rest.strip() else []
        if len(ids) > limit and pieces:
            lead = tokenizers.source.encode([tag])[0] if tag else []
            cut = split_long(rest, tokenizers.source, max(1, limit - len(lead)))
            pieces = [lead + piece for piece in cut]
            report(
                f"line {first_line + number} has {len(ids)} tokens, more than the {limit} that are "
                f"translated at once: translated in {len(pieces)} parts"
            )
        for place, piece in enumerate(pieces):
            parts.append(Part(number, piece, [] if place else forced[number]))
        counts.append(len(pieces))
    return parts, counts


def split_long(text: str, tokenizer: Tokenizer, limit: int, level: int = 0) -> list[list[int]]:
    """Token ids of the parts of a text, none longer than ``limit``.

    Every sentence is a part. A sentence that is too long is cut at clauses, those at words, those
    between tokens, and the fragments are put together again as far as they fit.
    """
    ends = [0, *(match.end() for match in ENDINGS[level].finditer(text)), len(text)]
    fragments = [text[a:b] for a, b in itertools.pairwise(ends) if text[a:b].strip()]
    parts: list[list[int]] = []
    for fragment, ids in zip(fragments, tokenizer.encode(fragments), strict=True):
        if len(ids) <= limit:
            pieces = [ids] if ids else []
        elif level + 1 < len(ENDINGS):
            pieces = split_long(fragment, tokenizer, limit, level + 1)
        else:
            pieces = [ids[i : i + limit] for i in range(0, len(ids), limit)]
        if level and parts and pieces and len(parts[-1]) + len(pieces[0]) <= limit:
            parts[-1] = parts[-1] + pieces.pop(0)
        parts += pieces
    return parts


def _readable(line: str) -> str:
    """A line without line breaks and halves of surrogate pairs (which ``sys.argv`` may hold)."""
    return line.encode("utf-8", "replace").decode("utf-8").replace("\n", " ")
