"""What may be chosen and typed: the groups, their presets, every key. Costs no Hydra and no torch.

Presets are YAML files, ``configs/GROUP/NAME.yaml`` in the working directory before the built-in
ones. What is asked here also answers the shell's completion, so that it has to be fast.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from nmt.config import (
    AttentionConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SearchConfig,
    TokenizerConfig,
    TrainConfig,
    resource,
)
from nmt.errors import UserError

GROUPS: dict[str, type] = {
    "data": DataConfig,
    "tokenizer": TokenizerConfig,
    "model": ModelConfig,
    "attention": AttentionConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "search": SearchConfig,
}
"""Groups that are also sections of the configuration."""

EXTRA_GROUPS = ("experiment", "debug")
"""Groups whose files set keys of any section."""

SETTINGS = {
    "hydra/launcher": ["basic", "joblib", "submitit_local", "submitit_slurm"],
    "hydra/sweeper": ["basic", "optuna"],
    "hydra/sweeper/sampler": ["random", "tpe"],
}
"""Groups of Hydra's own that a sweep may choose from; `nmt[sweep]` brings all but ``basic``."""

SETTING_KEYS = (
    *("hydra.launcher.n_jobs", "hydra.launcher.partition", "hydra.launcher.timeout_min"),
    *("hydra.launcher.signal_delay_s", "hydra.launcher.max_num_timeout"),
    *("hydra.sweeper.n_trials", "hydra.sweeper.n_jobs", "hydra.sweeper.sampler.seed"),
)
"""Keys of some of them, which are those most typed; Hydra knows the rest."""

LABELS = {"data": "name", "model": "name", "attention": "preset"}
"""The key in which a section says which preset it is; runs are named by it."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
"""What Hydra's grammar can read as the name of a preset."""


def keys(schema: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a schema with its type: ``{"model.width": int, …}``."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        kind = hints[entry.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            found |= keys(kind, f"{prefix}{entry.name}.")
        else:
            found[prefix + entry.name] = kind
    return found


def enum_of(kind: Any) -> type[Enum] | None:
    """The closed set of names that a key's type is, or may be."""
    candidates = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Enum):
            return candidate
    return None


def config_folders() -> list[Path]:
    """Where presets are looked for: ``configs/`` of the working directory, then the built-in."""
    built_in = resource("configs")
    own = Path.cwd() / "configs"
    return [own, built_in] if own.is_dir() and own.resolve() != built_in.resolve() else [built_in]


def options(group: str) -> list[str]:
    """Names that may be chosen in a group, sorted."""
    if group in SETTINGS:
        return SETTINGS[group]
    return sorted({f.stem for folder in config_folders() for f in (folder / group).glob("*.yaml")})


def preset_file(name: str) -> Path | None:
    """The file of a preset ``GROUP/NAME``."""
    files = (folder / f"{name}.yaml" for folder in config_folders())
    return next((file for file in files if file.is_file()), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the closest of ``known``, or the first dozen of them."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    # A bare leaf name: offer the full key that ends in it.
    full = [name for name in names if name.rpartition(".")[2] == word.rpartition(".")[2]]
    if full:
        return f"; did you mean {full[0]!r}?"
    return f"; known: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"


# --- the user's own file -------------------------------------------------------------------------


def split_file(content: Mapping[Any, Any], file: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The choices (``model: lstm``) and the keys of a ``--config`` file.

    Choices stand at the top or, beside a section of the same name, in ``defaults``.

    Raises:
        UserError: a ``defaults`` entry that chooses nothing, a group chosen twice, a label that
            would only look like a choice.
    """
    sections = {k: v for k, v in content.items() if k not in ("defaults", "format")}
    chosen = _defaults(content.get("defaults"), file)
    for group in (*GROUPS, *EXTRA_GROUPS):
        if isinstance(sections.get(group), str):
            if group in chosen:
                raise UserError(f"{file}: {group} is chosen twice")
            chosen[group] = sections.pop(group)
        elif group in sections and sections[group] is None:
            del sections[group]  # a section all of whose lines are comments
    for group, label in LABELS.items():
        section = sections.get(group)
        name = section.get(label) if isinstance(section, dict) else None
        if "format" not in content and name in options(group) and name != chosen.get(group):
            raise UserError(
                f"{file}: {group}.{label} is a label and chooses nothing; to start from the preset "
                f"{name!r} write  defaults: [{group}: {name}]  above the {group} section"
            )
    return chosen, sections


def _defaults(entries: Any, file: Path) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else [entries] if entries else []:
        if entry == "_self_":
            continue
        choice = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else None
        group = str(choice[0]).removeprefix("override ").strip(" /").split("@")[0] if choice else ""
        if choice is None or group not in (*GROUPS, *EXTRA_GROUPS):
            raise UserError(
                f"{file}: defaults: {entry!r} chooses nothing; its entries look like model: lstm "
                f"or experiment: quickstart, of the groups {', '.join((*GROUPS, *EXTRA_GROUPS))}"
            )
        if group in chosen:
            raise UserError(f"{file}: {group} is chosen twice")
        chosen[group] = str(choice[1])
    return chosen


def check_sections(content: Mapping[Any, Any], file: Path) -> None:
    """Check the names of all keys in a file's sections, however deep.

    Raises:
        UserError: the first unknown one, with the nearest real one.
    """
    leaves = keys()
    groups = (*GROUPS, *EXTRA_GROUPS)

    def walk(node: Mapping[Any, Any], prefix: str) -> None:
        for name, value in node.items():
            key = f"{prefix}{name}"
            inside = any(leaf.startswith(f"{key}.") for leaf in leaves)
            if key in leaves and "." in str(name):
                section, _, rest = key.rpartition(".")
                raise UserError(f"{file}: {key!r}: write it as a section, {section}: {{{rest}: …}}")
            if inside and isinstance(value, dict):
                walk(value, f"{key}.")
            elif inside:
                raise UserError(f"{file}: {key!r} is a section of keys, got {value!r}")
            elif key not in leaves:
                known = leaves if prefix else [*groups, *leaves]
                raise UserError(f"{file}: unknown key {key!r}{nearest(key, known)}")

    walk(content, "")


# --- Hydra's errors ------------------------------------------------------------------------------


def explained(text: str) -> str:
    """A one-line message of Hydra's: which file, which key, and the nearest real one."""
    text = text.partition(" Config search path:")[0].partition(" See https://hydra.cc")[0]
    if unknown := re.match(r"Key '[^']*' not in '\w+' full_key: (\S+)", text):  # of Hydra's own
        return f"unknown key {unknown[1]!r}{nearest(unknown[1], SETTING_KEYS)}"
    at = re.match(r"In '([^']+)': (?:\w+ raised while composing config: )?", text)
    if at is None:
        return text
    where, rest = at[1], text[at.end() :]
    file = preset_file(where) or where
    key = re.search(r" full_key: ?(\S*)$", rest)
    said = rest[: key.start()] if key else rest
    missing = re.search(r"Could not (?:load|find) '([^']+)'", said)
    if missing:
        group, _, name = missing[1].rpartition("/")
        if not isinstance(file, Path):  # it was typed
            kind = "value" if group in SETTINGS else "preset"
            return f"{group}={name}: no such {kind}{nearest(name, options(group))}"
        return f"{file}: there is no preset {missing[1]!r}{nearest(name, options(group))}"
    if where.startswith(EXTRA_GROUPS) and (said.startswith(("Could not override", "Key 'exp"))):
        return f"{file}: its first line must be  # @package _global_  ({said})"
    if "is not a subclass of" in said:
        return (
            f"{file}: a section holds keys; presets are chosen in  defaults:  with a line such as "
            f"  - override /model: lstm  ({said})"
        )
    if key and said.startswith("Key "):
        leaf = key[1].rpartition(".")[2]
        hint = nearest(key[1], [*GROUPS, *EXTRA_GROUPS, *keys()])
        if leaf in GROUPS and leaf != key[1]:
            hint = f"; a preset of another group is chosen with  /{leaf}@_global_.{leaf}: NAME"
        return f"{file}: unknown key {key[1]!r}{hint}"
    return f"{file}: {key[1]}: {said}" if key and key[1] else f"{file}: {said}"
