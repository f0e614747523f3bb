r"""Where pairs come from: files, TSV, JSONL, Hugging Face data sets, sacreBLEU's test sets.

Every kind is a small class with `inputs` (the files that decide its content) and `rows` (tuples of
source, reference and further references). Reading is strict: lines end at ``\n`` and nowhere else,
nothing is skipped silently, and what is wrong is said with its file and line.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import os
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nmt.errors import UserError

Row = tuple[str, ...] | None
"""Source, reference, further references; None where a side was not UTF-8 and may be dropped."""

EMBEDDED_SPLITS = ("train", "valid", "test", "test_long", "test_unseen")

_BOM = b"\xef\xbb\xbf"
_IMPORT = re.compile(r"^\s*from nmt\.data(?:\.(\w+)| import (\([^)]*\)|.*))", re.MULTILINE)


class Corpus(Protocol):
    """A source of rows that can be read again and again."""

    def inputs(self) -> list[Path]:
        """The files whose content is the corpus, whether they are there or not."""

    def rows(self, notes: Counter[str], *, drop_invalid: bool = False) -> Iterator[Row]:
        """All rows in order; what was mended on the way is counted in `notes`."""


@dataclass(frozen=True, slots=True)
class PlainFiles:
    """Line-aligned plain files, gzip or not: source, target and perhaps more references."""

    paths: tuple[Path, ...]

    def inputs(self) -> list[Path]:
        return [on_disk(path) for path in self.paths]

    def rows(self, notes: Counter[str], *, drop_invalid: bool = False) -> Iterator[Row]:
        paths = self.inputs()
        sides = [read_lines(path, notes, drop_invalid=drop_invalid) for path in paths]
        try:
            for texts in zip(*sides, strict=True):
                yield None if None in texts else texts
        except ValueError:
            raise _different_lengths(paths) from None


@dataclass(frozen=True, slots=True)
class Table:
    """Tab-separated text without quoting; `columns` are numbers from 0, by default 0 and 1."""

    path: Path
    columns: tuple[int, ...] = (0, 1)

    def inputs(self) -> list[Path]:
        return [on_disk(self.path)]

    def rows(self, notes: Counter[str], *, drop_invalid: bool = False) -> Iterator[Row]:
        (path,) = self.inputs()
        width = 0
        for number, line in enumerate(read_lines(path, notes, drop_invalid=drop_invalid), 1):
            if line is None:
                yield None
                continue
            fields = line.split("\t")
            width = width or max(len(fields), max(self.columns) + 1)
            if len(fields) != width:
                raise UserError(
                    f"{path}, line {number}: {len(fields)} columns where {width} were expected; "
                    "columns are separated by one tab"
                )
            yield tuple(fields[column] for column in self.columns)


@dataclass(frozen=True, slots=True)
class JsonLines:
    """One JSON object a line; `columns` are its keys, or those of its ``translation`` object."""

    path: Path
    columns: tuple[str, ...]

    def inputs(self) -> list[Path]:
        return [on_disk(self.path)]

    def rows(self, notes: Counter[str], *, drop_invalid: bool = False) -> Iterator[Row]:
        (path,) = self.inputs()
        for number, line in enumerate(read_lines(path, notes, drop_invalid=drop_invalid), 1):
            if line is None:
                yield None
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{where}: this is not JSON ({error})") from None
            if not isinstance(record, dict):
                raise UserError(f"{where}: a JSON object was expected, not {line[:40]!r}")
            if isinstance(record.get("translation"), dict):
                record = record["translation"]
            for column in self.columns:
                if column not in record:
                    raise UserError(
                        f"{where}: there is no key {column!r} (keys: {', '.join(record)}); "
                        "name source and target with data.columns=[…]"
                    )
            yield _texts([record[column] for column in self.columns], where, notes)


@dataclass(frozen=True, slots=True)
class Hub:
    """A Hugging Face data set: an id on the hub, or a local folder (hub layout or saved)."""

    name: str
    split: str
    languages: tuple[str, str]
    subset: str | None = None
    columns: tuple[str, ...] = ()
    folder: Path | None = None

    def inputs(self) -> list[Path]:
        if self.folder is not None:
            return sorted(p for p in self.folder.rglob("*") if p.is_file() and p.name[0] != ".")
        return [Path(file["filename"]) for file in self._data().cache_files]

    def splits(self) -> list[str]:
        """Names of the parts that the data set has."""
        return list(self._load())

    def rows(self, notes: Counter[str], *, drop_invalid: bool = False) -> Iterator[Row]:
        data = self._data()
        columns, nested = self._columns(data.column_names, data[:1] if len(data) else {})
        number = 0
        for batch in data.select_columns(["translation"] if nested else list(columns)).iter(1000):
            if nested:
                rows = [tuple(map(pair.get, columns)) for pair in batch["translation"]]
            else:
                rows = list(zip(*(batch[column] for column in columns), strict=True))
            for row in rows:
                number += 1
                yield _texts(row, f"data set {self.name}, {self.split}, row {number}", notes)

    def _columns(self, names: list[str], first: Any) -> tuple[Sequence[str], bool]:
        """Columns to read, and whether they are keys of the ``translation`` feature."""
        if self.columns and set(self.columns) <= set(names):
            return self.columns, False
        inner = list(first["translation"][0]) if first and "translation" in names else []
        if inner and set(self.columns or self.languages) <= set(inner):
            return self.columns or self.languages, True
        if not self.columns and set(self.languages) <= set(names):
            return self.languages, False
        raise UserError(
            f"data set {self.name} has no columns {', '.join(self.columns or self.languages)}; "
            f"it has {', '.join(inner or names)}: name source and target with data.columns=[…]"
        )

    def _data(self) -> Any:
        parts = self._load()
        if self.split not in parts:
            raise UserError(
                f"data set {self.name} has no part {self.split!r}; it has {', '.join(parts)}: "
                f"write it as {self.name}:PART"
            )
        return parts[self.split]

    def _load(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        try:
            if self.folder is not None and _saved(self.folder):
                loaded = datasets.load_from_disk(str(self.folder))
            else:
                loaded = datasets.load_dataset(str(self.folder or self.name), self.subset)
        except Exception as error:  # whatever the loader of a data set raises is about the input
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"cannot load the Hugging Face data set {self.name}: {reason}"
            ) from error
        return loaded if isinstance(loaded, dict) else {"train": loaded}


def sacrebleu_files(name: str, languages: tuple[str, str]) -> PlainFiles:
    """A test set of sacreBLEU (downloaded once) as plain files, with all its references.

    Raises:
        UserError: unknown name or language pair, or it cannot be downloaded.
    """
    import sacrebleu

    pair = "-".join(languages)
    known = sacrebleu.get_available_testsets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise UserError(f"sacreBLEU has no test set {name!r}; did you mean {', '.join(near)}?")
    pairs = sacrebleu.get_langpairs_for_testset(name)
    if pair not in pairs:
        raise UserError(f"sacreBLEU's {name} has no {pair}; it has {', '.join(pairs)}")
    try:
        source = sacrebleu.get_source_file(name, pair)
        references = sacrebleu.get_reference_files(name, pair)
    except (OSError, SystemExit) as error:
        raise UserError(
            f"sacreBLEU's test set {name} cannot be downloaded ({error}); without a network give "
            "data.test= files of your own"
        ) from None
    return PlainFiles(tuple(Path(path) for path in (source, *references)))


def plain_files(path: Sequence[str], languages: tuple[str, str], root: Path) -> PlainFiles:
    """Files from a prefix (PREFIX.en and PREFIX.fr) or from paths in the order source, target."""
    if len(path) == 1:
        return PlainFiles(tuple(root / f"{path[0]}.{side}" for side in languages))
    return PlainFiles(tuple(root / side for side in path))


def read_lines(
    path: Path, notes: Counter[str], *, drop_invalid: bool = False
) -> Iterator[str | None]:
    r"""Lines of a UTF-8 file, gzip or plain, split at ``\n`` only.

    A byte-order mark at the start and the ``\r`` of a ``\r\n`` go, counted in `notes`. A line
    that is not UTF-8 is an error with its number, or None if `drop_invalid`.
    """
    for number, line in enumerate(_raw_lines(path), 1):
        if number == 1 and line.startswith(_BOM):
            notes["byte-order marks removed"] += 1
            line = line[len(_BOM) :]
        if line.endswith(b"\r\n"):
            notes["CR LF line ends read as LF"] += 1
            line = line[:-2]
        elif line.endswith(b"\n"):
            line = line[:-1]
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            if not drop_invalid:
                raise UserError(
                    f"{path}, line {number}: byte {error.start + 1} is not UTF-8"
                    f"{_encoding_guess(number, line)}; mend the file or say data.invalid_utf8=drop"
                ) from None
            yield None
        else:
            yield text


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as plain:
            zipped = path.suffix == ".gz" or plain.peek(2)[:2] == b"\x1f\x8b"
            yield from gzip.GzipFile(fileobj=plain) if zipped else plain
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}); copy it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _encoding_guess(number: int, line: bytes) -> str:
    if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return " (it looks like UTF-16)"
    return ""


def on_disk(path: Path) -> Path:
    """The path, or the same with .gz if only that is there."""
    zipped = path.with_name(path.name + ".gz")
    return zipped if zipped.is_file() and not path.is_file() else path


def _saved(folder: Path) -> bool:
    """Whether `datasets` wrote the folder with ``save_to_disk``."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _texts(values: Iterable[Any], where: str, notes: Counter[str]) -> tuple[str, ...]:
    """Values of a JSON object or data set as texts without line ends."""
    texts = []
    for value in values:
        text = "" if value is None else value
        if not isinstance(text, str):
            raise UserError(f"{where}: a text was expected, not {str(value)[:40]!r}")
        if "\n" in text or "\r" in text:
            notes["line ends inside a text read as spaces"] += 1
            text = text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UserError(f"{where}: half of a surrogate pair is no text") from None
        texts.append(text)
    return tuple(texts)


def _different_lengths(paths: Sequence[Path]) -> UserError:
    sizes = [np.frombuffer(array("q", map(len, _raw_lines(path))), np.int64) for path in paths]
    first = sizes[0]
    other = next(i for i, size in enumerate(sizes) if len(size) != len(first))
    line = doubtful_line(first, sizes[other])
    return UserError(
        f"{paths[0]} has {len(first):,} lines and {paths[other]} has {len(sizes[other]):,}; they "
        f"seem to go apart at line {line:,}"
    )


def doubtful_line(source_sizes: np.ndarray, target_sizes: np.ndarray) -> int:
    """The line (from 1) at which two files of different lengths probably go apart.

    The lengths of lines that translate each other have about the same ratio. With d more lines
    in one file, the likeliest place is the k for which pairing line i with i before k, and with
    i + d from there on, leaves the smallest sum of differences between centred log-lengths.
    """
    if len(source_sizes) > len(target_sizes):
        source_sizes, target_sizes = target_sizes, source_sizes
    short, long = np.log1p(source_sizes), np.log1p(target_sizes)
    short, long = (log - np.median(log) if len(log) else log for log in (short, long))
    extra = len(long) - len(short)
    before = np.abs(short - long[: len(short)])
    after = np.abs(short - long[extra:])
    cost = np.concatenate(([0.0], np.cumsum(before))) + np.concatenate(
        (np.cumsum(after[::-1])[::-1], [0.0])
    )
    return int(np.argmin(cost)) + 1


class Generated:
    """The embedded corpus, generated from its lexicon when a split is first asked for."""

    def __init__(self, lexicon: Path, *, train: int, valid: int, test: int, seed: int) -> None:
        self.lexicon = lexicon
        self._sizes = {"train": train, "valid": valid, "test": test, "seed": seed}

    @cached_property
    def splits(self) -> dict[str, list[Any]]:
        from nmt.data import grammar

        return dict(grammar.generate(grammar.load_lexicon(self.lexicon), **self._sizes))


@dataclass(frozen=True, slots=True)
class Embedded:
    """One split of the embedded corpus."""

    split: str
    generated: Generated
    reverse: bool = False

    def inputs(self) -> list[Path]:
        # Other rules write other sentences: they count as input beside the lexicon.
        return [self.generated.lexicon, *module_files("grammar")]

    def rows(self, notes: Counter[str], *, drop_invalid: bool = False) -> Iterator[Row]:
        for fact in self.gold():
            yield fact["source"], fact["target"]

    def gold(self) -> Iterator[dict[str, Any]]:
        """Each pair with its alignment (source word, target word), tags and antecedents.

        Antecedents are positions in the English words, whichever side English is.
        """
        for example in self.generated.splits[self.split]:
            pair, links = (example.source, example.target), example.alignment
            if self.reverse:
                pair, links = pair[::-1], sorted((j, i) for i, j in links)
            yield {
                "source": pair[0],
                "target": pair[1],
                "alignment": links,
                "tags": example.tags,
                "antecedents": example.antecedents,
            }


def module_files(name: str) -> list[Path]:
    """The file of a module of this room and those of all that it imports from this room."""
    room, found, todo = Path(__file__).parent, [], [name]
    while todo:
        path = room / f"{todo.pop()}.py"
        if path in found or not path.exists():
            continue
        found.append(path)
        for module, names in _IMPORT.findall(path.read_text("utf-8")):
            todo += [module] if module else re.findall(r"\w+", names)
    return sorted(found)


def hash_inputs(
    files: Iterable[Path], memory: Path, report: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """SHA-256, size and time of each file; the JSON file `memory` spares reading it again.

    A file is hashed again only if its size or time changed. `report` hears of changed content.
    """
    try:
        known = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    found: dict[str, dict[str, Any]] = {}
    for file in dict.fromkeys(file.resolve() for file in files):
        state, before = file.stat(), known.get(str(file))
        now: dict[str, Any] = {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
        if before is None or {**before, **now} != before:
            now["sha256"] = _sha256(file)
            if before is not None and before["sha256"] != now["sha256"]:
                report(f"data: {file} has changed since it was prepared")
            before = now
        found[str(file)] = before
    if any(known.get(file) != facts for file, facts in found.items()):
        draft = memory.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({**known, **found}, indent=1), "utf-8")
        draft.replace(memory)
    return found


def check_unchanged(inputs: dict[str, dict[str, Any]]) -> None:
    """What was read is what `hash_inputs` saw. Raises UserError if a file has changed since."""
    for file, facts in inputs.items():
        now = Path(file).stat()
        if (now.st_size, now.st_mtime_ns) != (facts["size"], facts["mtime_ns"]):
            raise UserError(f"{file} was changed while it was read: run the command again")


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
