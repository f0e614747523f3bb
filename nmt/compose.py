"""From typed ``key=value`` words to a plain :class:`~nmt.config.Config`, and to and from YAML.

With `nmt.multirun` the only module that imports Hydra and OmegaConf. Words are checked against the
schema before Hydra sees them, so that an unknown key or value is answered with the nearest real
one. Both are imported where they are called: a command that reads a stored run has no use for
either.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nmt import stored
from nmt.config import FORMAT, Config, StoryConfig, resource
from nmt.errors import UserError
from nmt.files import read_file, replace_file
from nmt.idle import refuse_idle
from nmt.presets import (
    EXTRA_GROUPS,
    GROUPS,
    LABELS,
    NAME,
    check_sections,
    config_folders,
    enum_of,
    explained,
    keys,
    nearest,
    options,
    preset_file,
    split_file,
)

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

CORPORA = ("data.train", "data.valid", "data.test")
NO_EXTRA = [f"{group}=null" for group in EXTRA_GROUPS]
LARGEST, DEEPEST = 2**18, 20
"""Bytes and levels of nesting of a stored configuration; real ones have 4 thousand and four."""


# --- what may be typed ---------------------------------------------------------------------------


def check_words(words: Sequence[str], allowed: Iterable[str] | None = None) -> None:
    """Check the keys of ``key=value`` words, and values that come from a closed set.

    Args:
        words: as typed, without the keys that are taken verbatim.
        allowed: keys and groups that this command knows; None is all of them.

    Raises:
        UserError: an unknown key, group option or name, with the nearest real one.
    """
    leaves = keys()
    groups = [*GROUPS, *EXTRA_GROUPS]
    known = list(allowed) if allowed is not None else [*groups, *leaves]
    sections = {key.rpartition(".")[0] for key in leaves} - {""}
    for word in words:
        key, equals, value = word.lstrip("+~").partition("=")
        if not equals and not word.startswith("~"):
            raise UserError(f"{word!r} is not key=value")
        if key not in known and not key.startswith("hydra."):
            if key in sections and allowed is None:
                continue
            raise UserError(f"unknown key {key!r}{nearest(key, known)}")
        plain = value.strip("\"'")
        if key in groups:
            if plain not in options(key) and plain != "null" and "," not in plain:
                raise UserError(f"{key}={plain}: no such preset{nearest(plain, options(key))}")
            if not NAME.fullmatch(plain) and "," not in plain:
                raise UserError(
                    f"{key}={plain}: rename the preset: letters without accents, digits, '_', '-' "
                    "and '.', a letter first"
                )
        elif (enum := enum_of(leaves.get(key))) and plain != "null":
            names = [member.value for member in enum]
            if plain not in names and "," not in plain:
                raise UserError(f"{key}={plain}: no such value{nearest(plain, names)}")


# --- composing -----------------------------------------------------------------------------------


def _register() -> None:
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    for group, schema in GROUPS.items():
        store.store(group=group, name=f"base_{group}", node=schema)


def compose(
    words: Sequence[str], file: Path | None = None, verbatim: Mapping[str, str] | None = None
) -> Config:
    """Compose the configuration of a run.

    Args:
        words: Hydra overrides, checked here.
        file: the user's own preset (``--config FILE``): sections with keys, and ``group: name`` or
            ``defaults: [group: name]`` for choices; or the ``config.yaml`` of a run. It wins over
            an experiment, typed words win over it.
        verbatim: dotted keys with values that Hydra's grammar must not read, such as paths.

    Raises:
        UserError: an unknown key or value, a value out of range, an impossible pair.
    """
    check_words(words)
    with tempfile.TemporaryDirectory() as folder:
        extra = []
        if file is not None:
            words = [*_own_file(file, words, Path(folder)), *words]
            extra = [Path(folder)]
        config = to_config(_hydra(extra, words))
    return with_values(config, verbatim) if verbatim else config


def engine(extra: list[Path]) -> Hydra:
    """Hydra, looking for presets in ``extra`` and then in `config_folders`."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    _register()
    built_in, *own = reversed([*extra, *config_folders()])
    if any((folder / "config.yaml").exists() for folder in own):
        raise UserError(
            "configs/config.yaml would take the place of what every run starts from: presets lie "
            "in configs/GROUP/NAME.yaml; to use one whole file, --config FILE"
        )
    search_path = create_config_search_path(str(built_in))
    for folder in own:
        search_path.prepend(provider="user", path=f"file://{folder}", anchor="main")
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2(task_name="nmt", config_search_path=search_path)


def _hydra(extra: list[Path], words: Sequence[str]) -> DictConfig:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    try:
        composed = engine(extra).compose_config(
            config_name="config",
            overrides=[override for word in words for override in _overrides(word)],
            run_mode=RunMode.RUN,
            with_log_configuration=False,
        )
        chosen = composed.hydra.runtime.choices
        with open_dict(composed):
            del composed["hydra"]
        _label(composed, chosen)
        return composed
    except RecursionError as error:
        raise UserError(
            "a preset extends itself: one that extends a built-in preset needs another name"
        ) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise refused(error) from error
    finally:
        GlobalHydra.instance().clear()


def _overrides(word: str) -> list[str]:
    """What Hydra is told for a typed word."""
    if word in NO_EXTRA:  # Hydra has no group=null; to leave a group out is another word
        return [f"~{word[:-5]}"]
    key, _, value = word.partition("=")
    if key in CORPORA and value[:1] in ("[", "{"):  # in place of the preset's, not merged with it
        return [f"{key}=null", word]
    return [word]


def _label(tree: DictConfig, chosen: Mapping[str, str | None]) -> None:
    """Call a section by the user's own preset, not by the built-in one that this extends."""
    from omegaconf import OmegaConf

    for group, label in LABELS.items():
        name = next((name for key, name in chosen.items() if key.partition("@")[0] == group), None)
        file = preset_file(f"{group}/{name}")
        if file is None or file.is_relative_to(resource("configs")):
            continue
        if label not in OmegaConf.load(file) and tree[group][label] in options(group):
            tree[group][label] = name


def _own_file(file: Path, words: Sequence[str], folder: Path) -> list[str]:
    """Words that stand for the user's file, whose keys are written as a preset into ``folder``.

    Raises:
        UserError: it cannot be read, or holds unknown keys or values of the wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except FileNotFoundError as error:
        raise UserError(f"--config {file}: no such file") from error
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror}") from error
    except Exception as error:  # PyYAML and OmegaConf raise a dozen kinds
        raise UserError(f"--config {file}: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {file}: expected sections such as 'model:' and 'train:'")
    typed = {word.lstrip("+~").partition("=")[0] for word in words}
    chosen, sections = split_file(content, file)
    if clash := sorted(typed & {*GROUPS, "experiment"}) if "format" in content else []:
        raise UserError(
            f"{file} is a whole configuration, of which {clash[0]}= would change nothing: type "
            f"keys such as model.dropout=0.2, or take out its section {clash[0]}"
        )
    check_words([f"{group}={name}" for group, name in chosen.items()])
    check_sections(sections, file)
    try:
        OmegaConf.merge(OmegaConf.structured(Config), sections)
    except OmegaConfBaseException as error:
        raise UserError(f"{file}: {error.full_key}: {_one_line(error, keyed=False)}") from error
    (folder / "own").mkdir()
    text = OmegaConf.to_yaml(OmegaConf.create(sections))
    (folder / "own" / "file.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    return ["own=file", *(f"{k}={v}" for k, v in chosen.items() if k not in typed)]


def to_config(node: Any) -> Config:
    """A composed or loaded tree as plain dataclasses, every range checked.

    Raises:
        UserError: a key, type or value that the schema does not allow.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), node)
        config = OmegaConf.to_object(merged)
    except UserError:
        raise
    except (OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
        raise UserError(_one_line(error)) from error
    assert isinstance(config, Config)
    return config


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words with their values read by Hydra's grammar.

    Raises:
        UserError: a value that Hydra's grammar cannot read, or several for one key.
    """
    if not words:
        return {}
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        raise refused(error) from error
    for word in parsed:
        if word.is_sweep_override():
            key = word.key_or_group
            raise UserError(f"{key} takes one value here; a list has brackets: {key}=[a,b]")
    return {word.key_or_group: word.value() for word in parsed}


def story(words: Sequence[str]) -> StoryConfig:
    """The configuration of ``nmt story`` from its own ``story.key=value`` words.

    The preset that ``story.budget`` names lies on top of ``configs/story/default.yaml``.

    Raises:
        UserError: an unknown key, budget or value.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    check_words(words, keys(StoryConfig, "story."))
    typed = {key.removeprefix("story."): value for key, value in parse_words(words).items()}
    lists = {
        name: [typed[name]] for name in ("claims", "seeds") if isinstance(typed.get(name), int)
    }
    typed |= lists  # story.claims=3 means [3]
    budget = str(typed.get("budget", "default"))
    if budget not in options("story"):
        raise UserError(f"story.budget={budget}: no such preset{nearest(budget, options('story'))}")
    try:
        tree = OmegaConf.structured(StoryConfig)
        for name in dict.fromkeys(("default", budget)):
            folders = [f for f in config_folders() if (f / "story" / f"{name}.yaml").exists()]
            tree = OmegaConf.merge(tree, OmegaConf.load(folders[0] / "story" / f"{name}.yaml"))
        found = OmegaConf.to_object(OmegaConf.merge(tree, typed))
    except (OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"story: {_one_line(error)}") from error
    assert isinstance(found, StoryConfig)
    return found


def with_words(config: Config, words: Sequence[str]) -> Config:
    """A copy of a stored configuration with typed words applied, and only these.

    A group choice (``search=greedy``) applies what its preset file says.

    Raises:
        UserError: as :func:`compose`, and for a word that would change nothing.
    """
    from omegaconf import OmegaConf

    tree = OmegaConf.create(plain(config))
    lists = {key for key, kind in keys().items() if typing.get_origin(kind) is list}
    for key, value in parse_words(words).items():
        if key in lists and not isinstance(value, list):
            raise UserError(f"{key} is a list, and lists have brackets: {key}=[{value}]")
        if key in GROUPS:
            tree[key] = plain(compose([f"{key}={value}"]))[key]
        else:
            OmegaConf.update(tree, key, value)
    found = to_config(tree)
    refuse_idle(found, words)
    return found


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of a configuration with some dotted keys set; every range checked again."""
    from omegaconf import OmegaConf

    tree = OmegaConf.create(plain(config))
    for key, value in values.items():
        OmegaConf.update(tree, key, value)
    return to_config(tree)


def refused(error: Exception) -> UserError:
    """In one line of ours what Hydra said, while it composed or read words."""
    from hydra.errors import OverrideParseException

    if isinstance(error, OverrideParseException):
        word = error.override
        _, evaluated, why = " ".join(str(error).split()).partition(" while evaluating ")
        if evaluated:
            return UserError(f"{word}: {explained(why).partition(': ')[2]}")
        return UserError(
            f"{word}: this value cannot be read: close its brackets and quotes, and quote a text "
            f"with other signs twice, \"{word.partition('=')[0]}='…'\""
        )
    return UserError(explained(_one_line(error)))


def _one_line(error: BaseException, *, keyed: bool = True) -> str:
    """The telling lines of a Hydra, OmegaConf or YAML error as one line."""
    wraps = type(error).__module__.startswith("hydra.")
    inner = error.__cause__ if wraps and error.__cause__ else error
    lines = [line.strip() for line in str(inner).splitlines()]
    noise = ("object_type", "reference_", *([] if keyed else ["full_key"]))
    text = [line for line in lines if line and not line.startswith(noise)]
    return " ".join(text) or type(error).__name__


# --- YAML ----------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def plain(config: Config) -> dict[str, Any]:
    """The configuration as dictionaries, lists, numbers and strings; enums by their name."""
    tree = _plain(config)
    assert isinstance(tree, dict)
    return tree


def flat(config: Config) -> dict[str, Any]:
    """The configuration as ``{"model.width": 512, …}``; lists stay values."""

    def walk(node: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in node.items():
            if isinstance(value, dict):
                found |= walk(value, f"{prefix}{name}.")
            else:
                found[f"{prefix}{name}"] = value
        return found

    return walk(plain(config), "")


def to_yaml(config: Config) -> str:
    """The text of ``config.yaml``: every default written out, with its format number."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create({"format": FORMAT, **plain(config)}))


def save(config: Config, path: Path) -> None:
    """Write ``config.yaml`` atomically."""
    replace_file(path, to_yaml(config).encode())


def load(path: Path) -> Config:
    """Read a run's ``config.yaml``; nothing in it can run code or look elsewhere.

    Raises:
        UserError: not there, not readable, of a newer format, or with unknown keys.
    """
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file; is {path.parent} a run directory?")
    data = read_file(path, limit=LARGEST)
    try:
        text = data.decode("utf-8")
        if (config := stored.read(text)) is not None:
            return config
        from omegaconf import OmegaConf

        _check_plain(text)
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except Exception as error:  # PyYAML and OmegaConf raise a dozen kinds
        raise UserError(f"{path}: not a readable configuration: {_one_line(error)}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path}: not the configuration of a run (it has no format number)")
    number = content.pop("format")
    if number != FORMAT:
        raise UserError(f"{path}: format {number}, this nmt reads format {FORMAT}; update nmt")
    check_sections(content, path)
    return to_config(_escaped(content))


def _check_plain(text: str) -> None:
    """Nothing but nested keys, lists and values: no tags, and no aliases that multiply."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if getattr(event, "anchor", None) is not None or getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line} has an anchor, alias or tag")
        if depth > DEEPEST:
            raise ValueError(f"line {line} is nested too deep")


def _escaped(node: Any) -> Any:
    """Strings of a stored file taken verbatim: an interpolation in them is refused."""
    if isinstance(node, dict):
        return {k: _escaped(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_escaped(v) for v in node]
    if isinstance(node, str) and "${" in node:
        raise UserError(f"a stored configuration holds no interpolations, found {node!r}")
    return node
