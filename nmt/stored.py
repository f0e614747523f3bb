"""A run's ``config.yaml`` as nmt writes it, read without OmegaConf, which takes 0.2 seconds more.

What looks in the least like something else (another type than the schema's, a key twice, an
alias, a tag) is not read here: `nmt.compose.load` has OmegaConf read it, or say what is wrong.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from enum import Enum
from typing import Any

import yaml

from nmt.config import FORMAT, Config

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without libyaml
DEEPEST = 8
WHOLE = re.compile(r"-?(0|[1-9]\d*)")
FRACTION = re.compile(r"-?\d+\.\d+(e[-+]\d+)?")
NAME = re.compile(r"[A-Za-z_/].*|\.\.?(/.*)?", re.DOTALL)
SIMPLE = {"null": None, "true": True, "false": False}
SWITCHES = {"y", "n", "yes", "no", "on", "off", *SIMPLE}
"""Texts that some reader of YAML takes for something else."""


class OtherwiseError(Exception):
    """It is not what nmt writes."""


def read(text: str) -> Config | None:
    """The configuration, every range checked; None where it is not what nmt writes.

    Raises:
        UserError: a value out of range.
    """
    try:
        content = plain(text)
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            return None
        config: Config = typed(Config, content)
    except (yaml.YAMLError, OtherwiseError):
        return None
    return config


def plain(text: str) -> Any:
    """YAML as dictionaries, lists, texts, numbers, booleans and None."""
    root: list[Any] = []
    open_ones: list[Any] = [root]  # a key that waits for its value lies on its dictionary, a str
    for event in yaml.parse(text, Loader=LOADER):
        if getattr(event, "anchor", None) is not None or getattr(event, "tag", None) is not None:
            raise OtherwiseError(str(event))
        if isinstance(event, yaml.CollectionEndEvent):
            open_ones.pop()
            continue
        if isinstance(event, yaml.ScalarEvent):
            value = scalar(event.value, quoted=bool(event.style))
        elif isinstance(event, yaml.CollectionStartEvent) and len(open_ones) <= DEEPEST:
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
        elif isinstance(event, yaml.CollectionStartEvent):
            raise OtherwiseError("nested deep")
        else:
            continue  # the ends of the stream and of the document
        _put(open_ones, value)
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append(value)
    if len(root) != 1:
        raise OtherwiseError("several documents")
    return root[0]


def _put(open_ones: list[Any], value: Any) -> None:
    """Add a value to the innermost collection; of a dictionary, keys and values take turns."""
    if isinstance(open_ones[-1], list):
        open_ones[-1].append(value)
    elif isinstance(open_ones[-1], dict):
        if not isinstance(value, str) or value in open_ones[-1]:
            raise OtherwiseError(f"key {value}")
        open_ones.append(value)
    else:
        key = open_ones.pop()
        open_ones[-1][key] = value


def scalar(text: str, *, quoted: bool) -> Any:
    """A text, number, boolean or None, of which all readers of YAML would think alike."""
    if "${" not in text:
        if quoted or (NAME.fullmatch(text) and text.lower() not in SWITCHES):
            return text
        if text in SIMPLE:
            return SIMPLE[text]
        if WHOLE.fullmatch(text):
            return int(text)
        if FRACTION.fullmatch(text):
            return float(text)
    raise OtherwiseError(text)


def typed(kind: Any, value: Any) -> Any:
    """A plain value as one of the schema's types, of which it must be already."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or not value.keys() <= hints.keys():
            raise OtherwiseError(kind.__name__)
        return kind(**{name: typed(hints[name], one) for name, one in value.items()})
    if kind is Any:
        return value
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType and len(inner) == 2 and inner[1] is type(None):
        return None if value is None else typed(inner[0], value)
    if origin is list and isinstance(value, list):
        return [typed(inner[0], one) for one in value]
    names = kind.__members__ if isinstance(kind, type) and issubclass(kind, Enum) else {}
    if isinstance(value, str) and value in names:
        return names[value]
    if type(value) is kind:
        return value
    raise OtherwiseError(str(kind))
