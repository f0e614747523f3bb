from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt.config import DataConfig, FilterConfig, Source, Subwords, TokenizerConfig
from nmt.data.prepare import prepare
from nmt.data.prepared import Prepared

Pairs = list[tuple[str, str]]

_NOUNS = [("dog", "chien"), ("cat", "chat"), ("bird", "oiseau"), ("child", "enfant")]
_VERBS = [("sees", "voit"), ("hears", "entend"), ("wants", "veut"), ("finds", "trouve")]
_PLACES = [("in the park", "dans le parc"), ("at home", "à la maison"), ("outside", "dehors")]


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """192 different little sentences and their translations."""
    return [
        (f"The {a} {v} a {b} {p}.", f"Le {x} {w} un {y} {q}.")
        for a, x in _NOUNS
        for v, w in _VERBS
        for b, y in _NOUNS
        for p, q in _PLACES
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Pairs], str]:
    """Write pairs as NAME.en and NAME.fr; the prefix."""

    def write(name: str, pairs: Pairs) -> str:
        for side, language in enumerate(("en", "fr")):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (tmp_path / f"{name}.{language}").write_bytes(text.encode())
        return name

    return write


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DataConfig]:
    """A configuration for files under `tmp_path`, every filter but ``empty`` off."""

    def config(source: Source = Source.files, **values: Any) -> DataConfig:
        filters = FilterConfig(**values.pop("filters", {}))
        values = {"name": "toy", "valid_size": 10, "test_size": 10, **values}
        values = {"root": str(tmp_path), "cache": str(tmp_path / "cache"), **values}
        return DataConfig(source=source, filters=filters, **values)

    return config


@pytest.fixture
def made(config: Callable[..., DataConfig]) -> Callable[..., Prepared]:
    """Prepare with a small vocabulary; what is reported goes to the list `lines`."""

    def made(
        source: Source = Source.files,
        lines: list[str] | None = None,
        tokenizer: TokenizerConfig | None = None,
        **values: Any,
    ) -> Prepared:
        report = (lines if lines is not None else []).append
        tokenizer = tokenizer or TokenizerConfig(type=Subwords.bpe, vocab_size=310)
        return prepare(config(source, **values), tokenizer, report=report)

    return made


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where real corpora lie; tests that need them skip where they do not."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("NMT_DATA_ROOT", default))
    if not (root / "multi30k").is_dir():
        pytest.skip(f"no corpora in {root} (NMT_DATA_ROOT names another folder)")
    return root
