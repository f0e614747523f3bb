"""Which corpora the configuration names, what each is for, and the readers that read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nmt import config
from nmt.config import DataConfig, Source
from nmt.data import corpus
from nmt.data.corpus import EMBEDDED_SPLITS, Corpus, Embedded, Generated, Hub, JsonLines, Table
from nmt.errors import UserError

_TEST_NAME = re.compile(r"(?!(train|valid)$)[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Part:
    """One corpus and what it is for."""

    split: str
    name: str
    corpus: Corpus
    tag: str = ""
    weight: float = 1.0
    alignments: Path | None = None

    def inputs(self) -> list[Path]:
        """The files whose content is the part."""
        return [*self.corpus.inputs(), *([self.alignments] if self.alignments else [])]

    def described(self, hashes: dict[str, str]) -> dict[str, Any]:
        """What the fingerprint covers: content and role, not where it lies."""
        part = self.corpus.split if isinstance(self.corpus, Hub | Embedded) else ""
        content = [hashes[str(path.resolve())] for path in self.corpus.inputs()]
        facts = {"split": self.split, "tag": self.tag, "part": part, "content": content}
        if self.alignments is not None:  # without them the fingerprint is what it was before them
            facts["alignments"] = hashes[str(self.alignments.resolve())]
        return facts


def find_parts(data: DataConfig) -> list[Part]:
    """Training first, then dev, then the test sets in their order."""
    languages = languages_of(data)
    if data.source == Source.grammar:
        if data.train or data.valid or data.test:
            raise UserError("data.train= needs data=files, tsv, jsonl or hub")
        if data.alignments:
            raise UserError("data.alignments= is for other data: the embedded corpus has its own")
        lexicon = config.resource("lexicon_en_fr.yaml")
        generated = Generated(lexicon, **asdict(data.grammar))
        return [Part(s, s, Embedded(s, generated, data.reverse)) for s in EMBEDDED_SPLITS]
    roles = (("train", data.train), ("validation", data.valid), ("test", data.test))
    parts = []
    for role, corpora in roles:
        for c in corpora or ():
            split = {"train": "train", "validation": "valid"}.get(role, c.name)
            parts.append(Part(split, c.name, _corpus(data, c, role, languages), c.tag, c.weight))
            if role == "test" and not _TEST_NAME.fullmatch(c.name):
                raise UserError(f"data.test: {c.name!r} cannot be the name of a test set")
    parts += _hub_parts(data, parts)
    if data.alignments is None:
        return parts
    names = [part.name for part in parts if part.split == "train"]
    if len(names) > 1:
        raise UserError(
            f"data.alignments= goes with one training corpus, not with {len(names)} "
            f"({', '.join(names)}): put them into one"
        )
    file = corpus.on_disk(Path(data.root) / data.alignments)
    return [replace(parts[0], alignments=file), *parts[1:]]


def languages_of(data: DataConfig) -> tuple[str, str]:
    first, second = data.languages.split("-")
    return (second, first) if data.reverse else (first, second)


def _corpus(data: DataConfig, c: config.Corpus, split: str, languages: tuple[str, str]) -> Corpus:
    """The reader for one corpus of the configuration, its sides in the direction of translation."""
    root, path, columns = Path(data.root), c.path, tuple(data.columns)
    if data.reverse:
        columns = columns[1::-1]
        path = path[1::-1]
    if c.kind == Source.files:
        return corpus.plain_files(path, languages, root)
    if len(path) != 1:
        raise UserError(f"data: corpus {c.name}: {c.kind} takes one path, got {path}")
    if c.kind == Source.sacrebleu:
        return corpus.sacrebleu_files(path[0], languages)
    if c.kind == Source.hub:
        return _hub(data, path[0], split, languages, columns)
    if c.kind == Source.jsonl:
        return JsonLines(root / path[0], columns or languages)
    if not all(column.isdecimal() for column in columns):
        raise UserError(f"data.columns of a TSV file are numbers from 0, got {data.columns}")
    order = (1, 0) if data.reverse else (0, 1)
    return Table(root / path[0], tuple(map(int, columns)) or order)


def _hub(
    data: DataConfig, path: str, split: str, languages: tuple[str, str], columns: tuple[str, ...]
) -> Hub:
    folder = Path(data.root) / path
    name, _, part = (path, "", "") if folder.is_dir() else path.partition(":")
    folder = Path(data.root) / name
    return Hub(
        name,
        part or split,
        languages,
        subset=data.subset,
        columns=columns,
        folder=folder if folder.is_dir() else None,
    )


def _hub_parts(data: DataConfig, parts: Sequence[Part]) -> list[Part]:
    """The dev and test parts that a hub data set brings along where none were named."""
    first = parts[0].corpus
    if not isinstance(first, Hub) or (data.valid and data.test):
        return []
    there, found = first.splits(), []
    for split, names, given in (
        ("valid", ("validation", "valid", "dev"), data.valid),
        ("test", ("test",), data.test),
    ):
        name = next((name for name in names if name in there and name != first.split), None)
        if name and not given:
            found.append(Part(split, split, replace(first, split=name)))
    return found


def check_there(data: DataConfig, parts: Sequence[Part]) -> None:
    """Name every missing file at once, and where a known corpus is to be had."""
    files = dict.fromkeys(file for part in parts for file in part.inputs())
    missing = ", ".join(str(file) for file in files if not file.is_file())
    if missing:
        hint = f"; {data.hint}" if data.hint else "; data.root= names the folder it lies in"
        raise UserError(f"data={data.name}: there is no file {missing} (nor with .gz){hint}")
