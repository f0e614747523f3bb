"""Forced scoring against scorers whose accuracy is known by construction."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from nmt.data.grammar import load_lexicon, words
from nmt.decoding.translate import PairScore
from nmt.errors import UserError
from nmt.evaluation.probes.contrastive import (
    ContrastiveItem,
    compare,
    contrastive,
    grammar_items,
    half_affirmative,
    read_negation,
    read_pronouns,
    shuffled,
    shuffled_sources,
)

ROOT = Path(__file__).parents[2]
ITEMS = [ContrastiveItem(f"s{n}", f"t{n} ne pas", f"t{n}", n // 2, "made up") for n in range(200)]
STRANGERS = shuffled_sources(ITEMS)


def reader(sources: Sequence[str], targets: Sequence[str]) -> list[PairScore]:
    """Knows which target belongs to a source, but loses by its length what the mean gives back."""
    return [
        PairScore(-4.0 - (f"t{s[1:]}" != t.split()[0]) - ("ne" not in t), 1 + len(t.split()))
        for s, t in zip(sources, targets, strict=True)
    ]


def language_model(sources: Sequence[str], targets: Sequence[str]) -> list[PairScore]:
    """Prefers the longer target whatever the source."""
    return [PairScore(float(len(t)), 1 + len(t.split())) for t in targets]


def test_a_language_model_has_no_gain() -> None:
    found = contrastive(ITEMS, language_model, STRANGERS).by_sum
    assert (found.accuracy.value, found.control.value, found.gain.value) == (1.0, 1.0, 0.0)
    assert (found.gain.low, found.gain.high) == (0.0, 0.0)


def test_sum_and_mean_differ_by_length() -> None:
    """One nat a token: the shorter target wins by sum, both are alike by mean."""

    def short(sources: Sequence[str], targets: Sequence[str]) -> list[PairScore]:
        return [PairScore(-float(len(t.split())), len(t.split())) for t in targets]

    found = contrastive(ITEMS, short, STRANGERS)
    assert found.by_sum.accuracy.value == 0.0
    assert found.by_mean.accuracy.value == 0.5


def test_who_reads_the_source_gains() -> None:
    lexicon = load_lexicon(ROOT / "data" / "lexicon_en_fr.yaml")
    items = grammar_items(lexicon, "negation", 30, 1)
    right = {item.source: item.right for item in items}

    found = contrastive(items, polarity, shuffled_sources(items)).by_sum
    assert len(right) == 60
    assert found.accuracy.value == 1.0
    assert 0.25 < found.control.value < 0.75
    assert found.gain.low > 0.0
    blind = contrastive(items, language_model, shuffled_sources(items)).by_sum
    assert (blind.accuracy.value, blind.control.value) == (0.5, 0.5)
    assert compare(found, blind).value == pytest.approx(found.gain.value)
    assert found.accuracy.n == 30  # pairs, not their two halves
    with pytest.raises(ValueError, match="different items"):
        compare(found, contrastive(ITEMS, reader, STRANGERS).by_sum)


def polarity(sources: Sequence[str], targets: Sequence[str]) -> list[PairScore]:
    """Wants a French negation where the English has one, and reads nothing else."""
    return [
        PairScore(float((" not " in s) == (" pas" in t)), 1)
        for s, t in zip(sources, targets, strict=True)
    ]


def test_who_reads_the_polarity_gains_among_negated_sources() -> None:
    """Shuffled among themselves they all say the same, and the gain of a perfect reader is 0."""
    items = [
        ContrastiveItem(f"it is not s{n} at all", f"t{n} ne pas", f"t{n}", n // 2, "deleted")
        for n in range(200)
    ]
    assert contrastive(items, polarity, shuffled_sources(items)).by_sum.gain.value == 0.0
    strangers = half_affirmative(items, ["it is", "you were"])
    assert strangers == half_affirmative(items, ["it is", "you were"])
    assert {s for s in strangers if " not " not in s} == {"it is", "you were"}
    assert not any(item.source == s for item, s in zip(items, strangers, strict=True))
    found = contrastive(items, polarity, strangers).by_sum
    assert (found.accuracy.value, found.control.value, found.gain.value) == (1.0, 0.5, 0.5)
    blind = contrastive(items, language_model, strangers).by_sum
    assert (blind.control.value, blind.gain.value) == (1.0, 0.0)
    with pytest.raises(UserError, match="sentences without negation"):
        half_affirmative(items, [])


def test_misreadings_differ_in_the_pronoun_and_what_agrees() -> None:
    lexicon = load_lexicon(ROOT / "data" / "lexicon_en_fr.yaml")
    items = grammar_items(lexicon, "antecedent", 12, 1)
    assert len({item.source for item in items}) == 24
    for item in items:
        right, wrong = words(item.right), words(item.wrong)
        changed = [(a, b) for a, b in zip(right, wrong, strict=True) if a != b]
        assert set(changed[0]) == {"il", "elle"}
        assert all(a[0] == b[0] for a, b in changed[1:])  # beau, belle
        assert len(changed) <= 2
    with pytest.raises(ValueError, match="not 'weather'"):
        grammar_items(lexicon, "weather", 1, 1)


def test_gain_is_the_mean_over_groups() -> None:
    found = contrastive(ITEMS, reader, STRANGERS).by_sum
    expected = sum(a - b for a, b in zip(found.outcomes, found.control_outcomes, strict=True)) / 200
    assert found.gain.value == pytest.approx(expected)
    assert compare(found, found).value == 0.0


def test_shuffling_leaves_no_group_at_home() -> None:
    rng = random.Random(3)
    for seed in range(50):
        groups = [rng.randint(0, 6) for _ in range(40)]
        order = shuffled(groups, seed)
        assert sorted(order) == list(range(40))
        assert all(groups[place] != groups[other] for place, other in enumerate(order))
    assert shuffled(groups, 1) == shuffled(groups, 1) != shuffled(groups, 2)
    with pytest.raises(UserError, match="two groups"):
        shuffled([1, 1, 1, 2], 1)
    with pytest.raises(UserError, match="two groups"):
        shuffled_sources([])


def write(path: Path, *rows: str) -> None:
    with gzip.open(path, "wt", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{row}\n" for row in rows)


def test_files_of_the_two_sets(tmp_path: Path) -> None:
    write(tmp_path / "polarity_particle_nicht_del.tsv.gz", "a\tb nicht\tb", "a\tc nicht\tc")
    write(tmp_path / "polarity_particle_kein_del.tsv.gz", "d\tkein e\te")
    found = read_negation(tmp_path)
    assert found[1] == ContrastiveItem("a", "c nicht", "c", 0, "nicht")
    assert [(item.group, item.kind) for item in found] == [(0, "nicht"), (0, "nicht"), (1, "kein")]
    write(tmp_path / "pronouns.tsv.gz", "p\ts\tq\til\telle")
    assert read_pronouns(tmp_path) == [ContrastiveItem("s", "il", "elle", 0, "pronoun")]
    [item] = read_pronouns(tmp_path, previous=True)
    assert (item.source, item.right, item.wrong) == ("p s", "q il", "q elle")


def test_files_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such contrastive set; data\.root"):
        read_pronouns(tmp_path)
    write(tmp_path / "pronouns.tsv.gz", "p\ts\tq\til\telle", "p\ts")
    with pytest.raises(UserError, match="line 2: 2 columns instead of 5"):
        read_pronouns(tmp_path)
