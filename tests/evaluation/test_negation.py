"""Negations by rule: against hand-written cases, and against the tags of the embedded corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nmt.data.grammar import generate, load_lexicon
from nmt.errors import UserError
from nmt.evaluation.probes.cues import find_cues

ROOT = Path(__file__).parents[2]
CASES: dict[str, list[Any]] = yaml.safe_load(
    Path(__file__).with_name("negations.yaml").read_text(encoding="utf-8")
)


def test_there_are_many_cases() -> None:
    assert all(len(cases) >= 35 for cases in CASES.values())


@pytest.mark.parametrize("language", ["en", "fr", "de"])
def test_hand_written_cases(language: str) -> None:
    wrong = [
        (text, negations, cues)
        for text, negations in CASES[language]
        if len(cues := find_cues(text, language)) != negations
    ]
    assert not wrong


def test_the_embedded_corpus_agrees_with_its_tags() -> None:
    lexicon = load_lexicon(ROOT / "data" / "lexicon_en_fr.yaml")
    splits = generate(lexicon, train=0, valid=0, test=60)
    wrong = [
        (example.source, example.target, example.tags)
        for split in ("test", "test_long")
        for example in splits[split]
        if len({
            "negation" in example.tags,
            bool(find_cues(example.source, "en")),
            bool(find_cues(example.target, "fr")),
        }) > 1
    ]  # fmt: skip
    assert not wrong
