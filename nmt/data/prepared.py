"""A prepared folder: where it is, tokenizers, memory-mapped splits, references, gold, links."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nmt.data.alignment import WordLinks, open_alignments, ragged_links
from nmt.data.store import Store, open_store
from nmt.data.tokenizer import Tokenizers
from nmt.errors import UserError

FORMAT = 1
"""Format number of the folder, in its manifest."""
ALIGNMENTS = "alignments"
"""Where in the folder given word alignments lie."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared folder, memory-mapped."""

    folder: Path
    manifest: dict[str, Any]
    tokenizers: Tokenizers
    train: Store
    valid: Store
    tests: dict[str, Store]

    @property
    def source_language(self) -> str:
        return str(self.manifest["languages"][0])

    @property
    def target_language(self) -> str:
        return str(self.manifest["languages"][1])

    @property
    def fingerprint(self) -> str:
        """Identity of settings and content, whole."""
        return str(self.manifest["fingerprint"])

    @property
    def corpora(self) -> list[tuple[int, float]]:
        """Training pairs and weight of each corpus in their order; empty where all weigh 1."""
        counts = self.manifest.get("corpora", ())
        mixture = [(c["kept"], c.get("weight", 1.0)) for c in counts]
        return mixture if any(weight != 1.0 for _, weight in mixture) else []

    def split(self, name: str) -> Store:
        """``train``, ``valid`` or a test set. Raises UserError for another name."""
        splits = {"train": self.train, "valid": self.valid, **self.tests}
        if name not in splits:
            near = difflib.get_close_matches(name, splits, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"there is no split {name!r}; there are {', '.join(splits)}{guess}")
        return splits[name]

    def sources(self, split: str) -> list[str]:
        return self.split(split).source_texts()

    def references(self, split: str) -> list[list[str]]:
        """R lists of N reference texts."""
        store = self.split(split)
        path = self.folder / "references" / f"{split}.json"
        by_heart = split == "valid" and self.valid is self.train
        if path.exists() and not by_heart:
            return list(json.loads(path.read_text("utf-8")))
        return [store.target_texts()]

    def gold(self, split: str) -> list[dict[str, Any]] | None:
        """Alignment, tags and antecedents of each pair of the embedded corpus, else None."""
        self.split(split)
        path = self.folder / "gold" / f"{split}.jsonl"
        if not path.exists():
            return None
        with path.open(encoding="utf-8", newline="\n") as lines:
            return [json.loads(line) for line in lines]

    def by_heart(self, pairs: int) -> Prepared:
        """The first training pairs as training data and as dev set."""
        first = self.train.first(pairs)
        return replace(self, train=first, valid=first)

    def word_links(self) -> WordLinks | None:
        """Word alignments of the training pairs: given ones, else gold ones, else None."""
        if (self.folder / ALIGNMENTS).exists():
            return open_alignments(self.folder / ALIGNMENTS)
        gold = self.gold("train")
        if gold is None:
            return None
        from nmt.data.grammar import words

        return WordLinks(ragged_links(facts["alignment"] for facts in gold), words)


def cache_folder(cache: str | None) -> Path:
    """Where prepared data goes: `cache`, $NMT_CACHE, the checkout, or the user's cache."""
    if cache or os.environ.get("NMT_CACHE"):
        return Path(cache or os.environ["NMT_CACHE"])
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").exists():
        return checkout / "data" / "prepared"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nmt"


def prepared_folder(cache: Path, name: str, fingerprint: str) -> Path:
    """Where in a cache the data of that fingerprint lies, or would lie."""
    return cache / f"{name}-{fingerprint[:10]}"


def is_whole(folder: Path) -> bool:
    """Whether there is a prepared folder; it appears all at once."""
    return (folder / "manifest.json").exists()


def open_prepared(folder: Path) -> Prepared:
    """Memory-map a prepared folder. Raises UserError when it is missing or damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no prepared data ({error}); prepare it again") from None
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{folder} has format {manifest['format']}, this version reads {FORMAT}; prepare again"
        )
    tokenizers = Tokenizers.load(folder / "tokenizer")
    if tokenizers.hash != manifest["tokenizer"]["hash"]:
        raise UserError(f"{folder}: data and tokenizer do not belong together; prepare it again")
    stores = {name: open_store(folder / f"{name}.arrow") for name in manifest["splits"]}
    for name, store in stores.items():
        if len(store) != manifest["splits"][name]["pairs"]:
            raise UserError(f"{folder}/{name}.arrow is not the file that was prepared")
    train, valid = stores.pop("train"), stores.pop("valid")
    return Prepared(folder, manifest, tokenizers, train, valid, stores)


def write_references(folder: Path, split: str, rows: Sequence[tuple[str, ...]]) -> None:
    """Keep all references of a test set; each row is a source and its references."""
    path = folder / "references" / f"{split}.json"
    path.parent.mkdir(exist_ok=True)
    references = list(zip(*(row[1:] for row in rows), strict=True))
    path.write_text(json.dumps(references, ensure_ascii=False), "utf-8")


def write_gold(
    folder: Path, split: str, facts: Iterable[dict[str, Any]], rows: Set[int] | None
) -> None:
    """Keep what is known of each pair, of all pairs or of the numbered ones, in their order."""
    path = folder / "gold" / f"{split}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number, fact in enumerate(facts):
            if rows is None or number in rows:
                file.write(json.dumps(fact, ensure_ascii=False) + "\n")


def show_examples(prepared: Prepared, count: int, report: Callable[[str], None]) -> None:
    """Report `count` pairs spread evenly over the training data, with tags where there are any."""
    gold = prepared.gold("train")
    rows = np.linspace(0, len(prepared.train) - 1, min(count, len(prepared.train))).astype(int)
    for row in rows.tolist():
        facts = gold[row] if gold else {}
        report(f"[train {row}] {', '.join(facts.get('tags', []))}".rstrip())
        report(f"  {prepared.source_language}  {prepared.train.source_text(row)}")
        report(f"  {prepared.target_language}  {prepared.train.target_text(row)}")
        if facts:
            report("  alignment  " + " ".join(f"{i}-{j}" for i, j in facts["alignment"]))
