"""Corpus in, prepared data out: read, clean, split, train the tokenizer, tokenise, write down.

Prepared data lies in ``<cache>/<name>-<fingerprint>``. The fingerprint covers the settings and the
content of every input, not their paths: a changed input leads to another folder, and the same data
is found again wherever it lies.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nmt import config
from nmt.config import DataConfig, Source, TokenizerConfig
from nmt.data import cleaning, corpus, mixture, staging
from nmt.data.alignment import keep_alignments
from nmt.data.cleaning import Funnel
from nmt.data.corpus import Embedded
from nmt.data.mixture import Portion
from nmt.data.parts import Part, check_there, find_parts, languages_of
from nmt.data.prepared import (
    ALIGNMENTS,
    FORMAT,
    Prepared,
    cache_folder,
    is_whole,
    open_prepared,
    prepared_folder,
    show_examples,
    write_gold,
    write_references,
)
from nmt.data.staging import Staged
from nmt.data.store import open_store
from nmt.data.tokenizer import Tokenizers
from nmt.errors import UserError
from nmt.files import locked

__all__ = ["Prepared", "open_prepared", "prepare", "show_examples"]

Report = Callable[[str], None]


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    *,
    report: Report,
    tokenizers: Tokenizers | None = None,
) -> Prepared:
    """Prepared data for these settings: found if it is up to date, else made.

    Args:
        data: which corpora, and how they are cleaned and split.
        tokenizer: which vocabulary.
        report: is called with each line meant for the user.
        tokenizers: a vocabulary to use as it is, instead of training one.

    Raises:
        UserError: anything wrong with the input, see the message.
    """
    cache = cache_folder(data.cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        parts = find_parts(data)
        check_there(data, parts)
        files = [file for part in parts for file in part.inputs()]
        inputs = corpus.hash_inputs(files, cache / "hashes.json", report)
        fingerprint = _fingerprint(data, tokenizer, parts, inputs, tokenizers)
        folder = prepared_folder(cache, data.name, fingerprint)
        if _is_made(folder, parts):
            report(f"data: {folder} (up to date)")
        else:
            lock = cache / f".{folder.name}.lock"
            with locked(lock, lambda: report("data: waiting for another process that prepares it")):
                if not _is_made(folder, parts):  # nobody made it while we waited
                    report(f"data: preparing {data.name}")
                    identity = {"fingerprint": fingerprint, "inputs": inputs}
                    _build(folder, data, tokenizer, parts, identity, report, tokenizers)
            report(f"data: {folder}")
    except OSError as error:
        raise UserError(
            f"cannot write prepared data in {cache}: {error.strerror or error}; "
            "data.cache= names another folder"
        ) from error
    prepared = open_prepared(folder)
    cleaning.check_funnel(prepared.manifest["funnel"], data.max_removed)
    return _weighted(prepared, parts, report)


def _is_made(folder: Path, parts: Sequence[Part]) -> bool:
    """Whether the folder is there; one from before corpora were counted will do for one corpus."""
    if not is_whole(folder):
        return False
    training = [part for part in parts if part.split == "train"]
    return len(training) == 1 or "corpora" in open_prepared(folder).manifest


def _weighted(prepared: Prepared, parts: Sequence[Part], report: Report) -> Prepared:
    """With the weights of now: prepared text is the same for any, and so is its folder."""
    training = [part for part in parts if part.split == "train"]
    only = {"read": prepared.manifest["funnel"]["read"], "kept": len(prepared.train)}
    counts = prepared.manifest.get("corpora", [only])
    mixed = [
        Portion(part.name, part.tag, part.weight, read=count["read"], kept=count["kept"])
        for part, count in zip(training, counts, strict=True)
    ]
    if len(mixed) > 1 or mixed[0].weight != 1.0:
        for line in mixture.table(mixed):
            report(line)
    return replace(prepared, manifest=prepared.manifest | {"corpora": mixture.with_shares(mixed)})


# --- have the inputs changed ---------------------------------------------------------------------


def _fingerprint(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    parts: Sequence[Part],
    inputs: dict[str, Any],
    tokenizers: Tokenizers | None,
) -> str:
    hashes = {file: facts["sha256"] for file, facts in inputs.items()}
    vocabulary = {"hash": tokenizers.hash} if tokenizers else asdict(tokenizer)
    vocabulary.pop("sampling", None)  # only training draws
    settings = {
        "format": FORMAT,
        "languages": languages_of(data),
        "parts": [part.described(hashes) for part in parts],
        "grammar": asdict(data.grammar) if data.source == Source.grammar else None,
        "columns": data.columns,
        "subset": data.subset,
        "sizes": [data.valid_size, data.test_size],
        "filters": asdict(data.filters),
        "invalid_utf8": data.invalid_utf8,
        "tokenizer": vocabulary,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


# --- the work ------------------------------------------------------------------------------------


def _build(
    folder: Path,
    data: DataConfig,
    tokenizer: TokenizerConfig,
    parts: Sequence[Part],
    identity: dict[str, Any],
    report: Report,
    tokenizers: Tokenizers | None,
) -> None:
    """Make the folder under another name, and rename it when it is whole."""
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        manifest = {"format": FORMAT, **identity, "languages": languages_of(data)}
        manifest |= {"config": {"data": asdict(data), "tokenizer": asdict(tokenizer)}}
        manifest |= {"versions": {name: version(name) for name in ("sentencepiece", "pyarrow")}}
        manifest |= _fill(draft, data, tokenizer, parts, report, tokenizers)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (draft / "manifest.json").write_text(text, "utf-8")
        corpus.check_unchanged(identity["inputs"])
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill(
    draft: Path,
    data: DataConfig,
    tokenizer: TokenizerConfig,
    parts: Sequence[Part],
    report: Report,
    tokenizers: Tokenizers | None,
) -> dict[str, Any]:
    """Write everything but the manifest, and return its results."""
    notes: Counter[str] = Counter()
    held_out, tags = _read_held_out(data, parts, notes)
    staged, funnel, overlap = _read_training(draft / "stage.arrow", data, parts, held_out, notes)
    sizes = _missing_sizes(data, held_out, staged, report)
    if sizes:
        funnel.held_out = staged.split_off(sizes)
    for line in (*funnel.lines(), *(f"  {what}: {count:,}" for what, count in notes.items())):
        report(line)
    _report_overlap(overlap, report)
    cleaning.check_funnel(funnel.as_dict(), data.max_removed)
    file, tag = parts[0].alignments, parts[0].tag
    if file is not None:
        keep_alignments(
            draft / ALIGNMENTS,
            file,
            staged.numbered(0),
            rows=funnel.read,
            reverse=data.reverse,
            tag=tag,
        )
    tokenizers = _vocabulary(tokenizer, staged, parts, tokenizers)
    tokenizers.save(draft / "tokenizer")
    chunks = {name: staging.in_chunks(rows, tags[name]) for name, rows in held_out.items()}
    chunks |= {name: staged.chunks(number) for number, name in enumerate(sizes, 1)}
    splits = {"train": staging.write_split(draft / "train.arrow", staged.chunks(0), tokenizers)}
    for name in ("valid", *(name for name in chunks if name != "valid")):
        splits[name] = staging.write_split(draft / f"{name}.arrow", chunks[name], tokenizers)
    for name, rows in held_out.items():
        if len(rows[0]) > 2:
            write_references(draft, name, rows)
    for part in parts:
        if isinstance(part.corpus, Embedded):
            train = part.split == "train"
            kept = {number for number, _, _ in staged.numbered(0)} if train else None
            write_gold(draft, part.split, part.corpus.gold(), kept)
    (draft / "stage.arrow").unlink()
    for name, numbers in splits.items():
        lengths = [f"{numbers[side]['mean_length']:.1f}" for side in ("source", "target")]
        report(f"  {name}: {numbers['pairs']:,} pairs, {' + '.join(lengths)} tokens on average")
    for warning in staging.warnings(splits, open_store(draft / "train.arrow"), tokenizers):
        report(f"warning: {warning}")
    sides = {"source_size": tokenizers.source.size, "target_size": tokenizers.target.size}
    return {
        "funnel": funnel.as_dict(),
        "corpora": staged.counts(),
        "overlap": overlap,
        "notes": dict(notes),
        "tokenizer": {"hash": tokenizers.hash, "joint": tokenizers.joint, **sides},
        "splits": splits,
    }


def _read_held_out(
    data: DataConfig, parts: Sequence[Part], notes: Counter[str]
) -> tuple[dict[str, list[tuple[str, ...]]], dict[str, list[str]]]:
    """Dev and test sets, whole (no filter touches them), and the tag of each of their rows."""
    drop = data.invalid_utf8 == config.InvalidUtf8.drop
    held_out: dict[str, list[tuple[str, ...]]] = {}
    tags: dict[str, list[str]] = {}
    for part in parts:
        if part.split == "train":
            continue
        rows = held_out.setdefault(part.split, [])
        for row in part.corpus.rows(notes, drop_invalid=drop):
            if row is None:
                notes[f"{part.split}: lines dropped that are not UTF-8"] += 1
            else:
                rows.append(row)
        if not rows:
            raise UserError(f"data.{part.split}: {part.corpus.inputs()[0]} has no pairs")
        given = tags.setdefault(part.split, [])
        given += [part.tag] * (len(rows) - len(given))
    return held_out, tags


def _read_training(
    path: Path,
    data: DataConfig,
    parts: Sequence[Part],
    held_out: dict[str, list[tuple[str, ...]]],
    notes: Counter[str],
) -> tuple[Staged, Funnel, dict[str, dict[str, int]]]:
    """Training text through all filters; the overlap with dev and test is always measured."""
    chosen, funnel = data.filters, Funnel()
    source_language, target_language = languages_of(data)
    switches = asdict(chosen)
    filters = cleaning.pair_filters(
        (name for name in cleaning.PAIR_FILTERS if switches[name]),
        source_language=source_language,
        target_language=target_language,
        max_words=chosen.max_words,
        max_characters=chosen.max_characters,
        max_ratio=chosen.max_ratio,
        min_script_share=chosen.min_script_share,
    )
    staged, hashes = staging.stage(
        path,
        [(part.corpus, part.tag) for part in parts if part.split == "train"],
        filters,
        funnel,
        notes,
        drop_invalid=data.invalid_utf8 == config.InvalidUtf8.drop,
    )
    if chosen.duplicate_pair:
        funnel.removed["duplicate_pair"] = staged.remove_repeated(hashes)
    if chosen.duplicate_source:
        funnel.removed["duplicate_source"] = staged.remove_repeated(staged.sources)
    overlap = {name: staged.overlap(rows, hashes) for name, rows in held_out.items()}
    if chosen.overlap:
        for rows in held_out.values():
            funnel.removed["overlap"] += staged.remove_overlap(rows)
    return staged, funnel, overlap


def _missing_sizes(
    data: DataConfig, held_out: dict[str, Any], staged: Staged, report: Report
) -> dict[str, int]:
    """How many pairs to split off for dev and test where there are none: at most a tenth each."""
    sizes = {}
    limit = max(1, int(np.count_nonzero(staged.part == 0)) // 10)
    has_test = bool(held_out.keys() - {"valid"})
    for name, size, missing in (
        ("valid", data.valid_size, "valid" not in held_out),
        ("test", data.test_size, not has_test),
    ):
        if missing and size:
            sizes[name] = min(size, limit)
            if size > limit:
                report(
                    f"  data.{name}_size={size} is more than a tenth of the corpus; {limit} it is"
                )
    if "valid" not in held_out and "valid" not in sizes:
        raise UserError("training needs dev data: give data.valid= or data.valid_size= above 0")
    return sizes


def _vocabulary(
    tokenizer: TokenizerConfig, staged: Staged, parts: Sequence[Part], given: Tokenizers | None
) -> Tokenizers:
    """The given vocabulary, or one of this text; the tags of corpora are tokens of it.

    Raises:
        UserError: a tag that the given one does not have.
    """
    tags = list(dict.fromkeys(part.tag for part in parts if part.tag))
    made = given or staging.train_tokenizers(
        staged,
        joint=tokenizer.joint,
        model_type=str(tokenizer.type),
        vocab_size=tokenizer.vocab_size,
        character_coverage=tokenizer.character_coverage,
        byte_fallback=tokenizer.byte_fallback,
        user_symbols=list(dict.fromkeys([*tokenizer.user_symbols, *tags])),
    )
    for tag in tags:
        if tag not in made.source.pieces(made.source.encode([tag])[0]):
            raise UserError(f"the tag {tag} is not one token of the vocabulary that is used")
    return made


def _report_overlap(overlap: dict[str, dict[str, int]], report: Report) -> None:
    for name, counts in overlap.items():
        report(
            f"  overlap with {name}: {counts['sources']:,} training pairs share the source, "
            f"{counts['pairs']:,} of them the target too"
        )
