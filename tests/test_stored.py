"""The quick reading of a stored configuration: what OmegaConf reads, or nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nmt import compose, stored
from nmt.config import Config
from nmt.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
TEXT = compose.to_yaml(compose.compose([]))


def slowly(text: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Config:
    """What is read without the quick way."""
    (folder / "config.yaml").write_text(text, "utf-8")
    with monkeypatch.context() as context:
        context.setattr(stored, "read", lambda text: None)
        return compose.load(folder / "config.yaml")


@pytest.mark.parametrize(
    "words",
    [
        ["model=lstm", "attention=bahdanau", "search=greedy"],
        ["experiment=multi30k_transformer", "data.root=../shared/data"],
        ["data=files", "data.languages=en-fr", "data.train=[{name: a, path: x/1.5, weight: 1e-5}]"],
        ["data=tsv", "data.languages=en-de", "data.train=a b.tsv", "data.name='yes'"],
        ["tokenizer.user_symbols=[]", "optim.learning_rate=1e-7", "run='12'"],
        ["data=tsv", "data.languages=en-fr", "data.train='ü: # é'", "data.hint='1e5'", "seed=0"],
    ],
)
def test_it_reads_what_was_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose.compose(words)
    text = compose.to_yaml(config)
    found = stored.read(text)
    assert found == config
    assert found == slowly(text, monkeypatch, tmp_path)
    types = [type(value) for value in compose.flat(config).values()]
    assert [type(value) for value in compose.flat(found).values()] == types


@pytest.mark.parametrize("name", sorted(path.parent.name for path in GOLDEN.glob("*/config.yaml")))
def test_it_reads_old_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (GOLDEN / name / "config.yaml").read_text("utf-8")
    assert stored.read(text) == slowly(text, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("format: 1", "format: 2"),
        ("format: 1", "format: '1'"),
        ("format: 1\n", ""),
        ("seed: 1", "seed: 1\nseed: 2"),
        ("seed: 1", "seed: '1'"),
        ("seed: 1", "seed: 1.0"),
        ("seed: 1", "seed: 0x1"),
        ("seed: 1", "seed: 1e0"),
        ("seed: 1", "seed: true"),
        ("seed: 1", "seed: null"),
        ("seed: 1", "seed: !!int 1"),
        ("seed: 1", "seed: &a 1"),
        ("seed: 1", "seed: 1\nseeed: 1"),
        ("seed: 1", "seed: 1\n--- {}"),
        ("seed: 1", "seed: [1]"),
        ("seed: 1", "seed: 1\nrun: &a x\nrun2: *a"),
        ("seed: 1", "seed: 1\n? [a]\n: 1"),
        ("seed: 1", "seed: " + "[" * 30 + "]" * 30),
        ("run: null", "run: ${oc.env:HOME}"),
        ("run: null", "run: 1e-3"),
        ("run: null", "run: No"),
        ("run: null", "run: 2020-01-01"),
        ("reverse: false", "reverse: no"),
        ("languages: en-fr", "languages: 12"),
        ("dropout: 0.1", "dropout: 1"),
        ("seed: 1", "seed: 1\t: {"),
    ],
)
def test_anything_else_is_left_to_omegaconf(old: str, new: str) -> None:
    assert old in TEXT
    assert stored.read(TEXT) is not None
    assert stored.read(TEXT.replace(old, new, 1)) is None


def test_ranges_are_checked() -> None:
    with pytest.raises(UserError, match="seed must be at least 0"):
        stored.read(TEXT.replace("\nseed: 1", "\nseed: -1", 1))


def test_keys_that_came_later_have_their_defaults() -> None:
    shorter = TEXT.replace("  sampling: 0.0\n", "", 1)
    assert shorter != TEXT
    assert stored.read(shorter) == compose.compose([])
    assert dataclasses.asdict(Config())["tokenizer"]["sampling"] == 0.0
