"""Negations by rule: against hand-written cases, and against the tags of the embedded corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nmt.data.grammar import generate, load_lexicon
from nmt.errors import UserError
from nmt.evaluation.probes.cues import find_cues
from nmt.evaluation.probes.negation import negation_kept

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


def test_a_language_without_rules() -> None:
    assert find_cues("Je ne sais pas.", "fr-CA") == find_cues("Je ne sais pas.", "fr_FR") != []
    with pytest.raises(UserError, match=r"found by rule in en, fr, de, not in 'zh'"):
        find_cues("我不知道。", "zh")


def test_share_that_is_kept() -> None:
    """Four sentences count: of six expected negations three are kept, and one is made up."""
    rows = [
        ("I do not know.", "Je ne sais pas.", "Je sais."),
        (
            "I never sing and I never dance.",
            "Je ne chante jamais et je ne danse jamais.",
            "Je ne danse pas.",
        ),
        ("No one came.", "Personne n'est venu.", "Personne n'est venu et rien n'allait."),
        ("I can't and I won't.", "Je ne peux pas et ne veux pas.", "Je ne peux pas."),
        ("It is unclear.", "Ce n'est pas clair.", "C'est clair."),
        ("I can't go.", "Je suis empêché.", "Je ne peux pas."),
        ("It rains.", "Il pleut.", "Il ne pleut pas."),
        ("It snows.", "Il neige.", "Il neige."),
    ]
    sources, references, outputs = map(list, zip(*rows, strict=True))
    found = negation_kept(sources, outputs, references, source_language="en", target_language="fr")
    assert found.expected_by_sentence == (1, 2, 1, 2)
    assert found.kept_by_sentence == (0, 1, 1, 1)
    assert (found.sentences, found.negations, found.kept) == (4, 6, 3)
    assert found.share.value == 0.5
    assert (found.affirmative, found.added) == (2, 1)
    with pytest.raises(UserError, match="same sentences"):
        negation_kept(sources, outputs, [], source_language="en", target_language="fr")


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
