from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.data.cleaning import (
    FILTERS,
    PAIR_FILTERS,
    Funnel,
    among,
    clean,
    drop_repeated,
    pair_filters,
    pair_hashes,
    split_by_hash,
    text_hash,
)
from nmt.errors import UserError


def removed_by(
    source: str, target: str, names: tuple[str, ...] = PAIR_FILTERS, **numbers: object
) -> str | None:
    """Name of the filter that removes the pair, None if it is kept."""
    settings: dict = {"source_language": "en", "target_language": "fr", "max_words": 6}
    settings |= {"max_characters": 60, "max_ratio": 3.0, "min_script_share": 0.5, **numbers}
    funnel = Funnel()
    kept = list(clean([(source, target)], pair_filters(names, **settings), funnel))
    assert len(kept) == funnel.kept == 1 - funnel.removed.total()
    return next(iter(funnel.removed), None)


CASES = [
    ("A dog.", "Un chien.", None),
    ("", "Un chien.", "empty"),
    ("A dog.", "", "empty"),
    ("A dog.", " \u00a0 ", "empty"),
    ("A\x00dog.", "Un chien.", "control"),
    ("A dog.", "Un\x85chien.", "control"),
    ("A dog.", "Un\u2028chien.", "control"),
    ("A dog\ufffd.", "Un chien.", "control"),
    ("A\tdog.", "Un\u00a0chien\u202f!", None),  # tabs and no-break spaces are text
    ("one two three four five six", "a b c d e f", None),
    ("one two three four five six seven", "un deux trois quatre cinq six", "too_long"),
    ("one two three", "a b c d e f g", "too_long"),
    ("x" * 60, "y" * 60, None),
    ("x" * 61, "y" * 60, "too_long"),
    ("x" * 60, "y" * 61, "too_long"),
    ("one", "un deux trois", None),
    ("one", "un deux trois quatre", "ratio"),
    ("one two three four", "un", "ratio"),
    ("Paris", "Paris", "identical"),
    ("Paris", " Paris ", "identical"),
    ("Paris", "paris", None),
    ("Привет мир", "Bonjour le monde", "script"),
    ("Hello world", "Привет мир", "script"),
    ("Say привет to me", "Dites привет", "script"),  # 6 of 11 letters of the target
    ("Say привет to all", "Dites-moi привет", None),
    ("123 !", "456 ?", None),  # no letters, no script
    ("ça été œuvre", "naïve Noël", None),
]


@pytest.mark.parametrize(("source", "target", "name"), CASES)
def test_each_filter_on_hand_made_pairs(source: str, target: str, name: str | None) -> None:
    assert removed_by(source, target) == name
    others = tuple(other for other in PAIR_FILTERS if other != name)
    assert removed_by(source, target, others) is None, "a filter that is off removes nothing"


@pytest.mark.parametrize(
    ("language", "text", "kept"),
    [
        ("ru", "Привет", True),
        ("ru", "Hello", False),
        ("el", "Καλημέρα", True),
        ("zh", "你好世界", True),
        ("ja", "こんにちは世界", True),
        ("ja", "Hello", False),
        ("ko", "안녕하세요", True),
        ("ar", "مرحبا", True),
        ("he", "שלום", True),
        ("hi", "नमस्ते", True),
        ("th", "สวัสดี", True),
        ("de", "你好", False),
        ("tlh", "你好", True),  # a language whose script is not known here
    ],
)
def test_script_follows_the_language(language: str, text: str, kept: bool) -> None:
    names = ("script",)
    assert removed_by("Hi", text, names, target_language=language) == (None if kept else "script")
    assert removed_by(text, "Hi", names, source_language=language, target_language="fr") == (
        None if kept else "script"
    )


def test_two_characters_count_as_a_word_where_none_are_written_apart() -> None:
    text = "这是一只正在公园里奔跑的狗"  # 13 characters
    assert removed_by("A dog runs.", text, ("ratio",), target_language="zh") is None
    assert removed_by("A dog runs.", text, ("too_long",), target_language="zh") == "too_long"
    assert removed_by("Dog", text, ("ratio",), target_language="zh") == "ratio"


def test_first_reason_counts_and_the_funnel_adds_up() -> None:
    filters = pair_filters(
        PAIR_FILTERS,
        source_language="en",
        target_language="fr",
        max_words=6,
        max_characters=60,
        max_ratio=3.0,
        min_script_share=0.5,
    )
    rows = [(source, target) for source, target, _ in CASES] + [None, ("", "", "x")]
    funnel = Funnel()
    kept = list(clean(rows, filters, funnel))
    expected = Counter(name for _, _, name in CASES if name)
    expected.update(["invalid_utf8", "empty"])
    assert funnel.removed == expected
    assert [row[:2] for row in CASES if row[2] is None] == [pair[1:] for pair in kept]
    assert [rows[number] for number, _, _ in kept] == [pair[1:] for pair in kept]
    assert funnel.read == len(rows) == funnel.kept + funnel.removed.total()
    assert funnel.as_dict()["kept"] == len(kept)


def test_funnel_as_text() -> None:
    funnel = Funnel(12_345, Counter(empty=5, overlap=40), {"valid": 300})
    assert [line.split() for line in funnel.lines()] == [
        ["pairs", "read", "12,345"],
        ["-", "empty", "5"],
        ["-", "overlap", "40"],
        ["-", "split", "off", "for", "valid", "300"],
        ["pairs", "kept", "12,000"],
    ]
    assert len({len(line) for line in funnel.lines()}) == 1


def test_every_filter_has_a_place_in_the_funnel() -> None:
    assert set(PAIR_FILTERS) < set(FILTERS)
    assert len(set(FILTERS)) == len(FILTERS) == 10


def test_hashes_are_the_same_everywhere() -> None:
    assert text_hash("A dog.") == 0x3094EA7756440F7D
    assert text_hash(" A dog.\u00a0") == text_hash("A dog.") != text_hash("A dog")
    one = np.array([text_hash("a"), text_hash("b")], np.uint64)
    pairs = pair_hashes(one, one[::-1])
    assert pairs[0] != pairs[1], "a pair is not its reverse"


@given(st.lists(st.integers(0, 8)), st.data())
def test_drop_repeated_keeps_the_first(values: list[int], data: st.DataObject) -> None:
    keep = np.array([data.draw(st.booleans()) for _ in values], bool)
    seen: set[int] = set()
    expected = []
    for value, kept in zip(values, keep, strict=True):
        expected.append(bool(kept) and value not in seen)
        if kept:
            seen.add(value)
    before = int(keep.sum())
    hashes = np.array(values, np.uint64) * np.uint64(2**61 + 1)  # with different first bits
    removed = drop_repeated(hashes, keep)
    assert keep.tolist() == expected
    assert removed == before - sum(expected)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.lists(st.integers(0, 2**64 - 1)))
def test_among_is_membership(few: list[int], others: list[int]) -> None:
    hashes = [*others, *few[::2], *others]
    found = among(np.array(hashes, np.uint64), np.array(few, np.uint64))
    assert found.tolist() == [number in few for number in hashes]


def hashes_of(texts: list[str]) -> np.ndarray:
    return np.array([text_hash(text) for text in texts], np.uint64)


def parts(texts: list[str], sizes: dict[str, int]) -> dict[str, set[str]]:
    part = split_by_hash(hashes_of(texts), np.ones(len(texts), bool), sizes)
    found: dict[str, set[str]] = {name: set() for name in ("train", *sizes)}
    for text, number in zip(texts, part, strict=True):
        found[("train", *sizes)[number]].add(text)
    return found


def test_split_does_not_depend_on_the_order_and_moves_little_as_text_grows() -> None:
    texts = [f"sentence {i}" for i in range(1_000)]
    sizes = {"valid": 100, "test": 50}
    first = parts(texts, sizes)
    assert {name: len(part) for name, part in first.items()} == {
        "train": 850,
        "valid": 100,
        "test": 50,
    }
    assert parts(texts[::-1], sizes) == first
    more = parts(texts + [f"new {i}" for i in range(20)], sizes)
    assert len(more["valid"] & first["valid"]) >= 90
    assert not first["valid"] & more["test"] or len(first["valid"] & more["test"]) <= 10


@given(
    st.lists(st.integers(0, 12), min_size=4, max_size=60),
    st.integers(1, 20),
    st.integers(1, 20),
    st.data(),
)
def test_no_source_is_in_two_parts(
    values: list[int], valid: int, test: int, data: st.DataObject
) -> None:
    hashes = hashes_of([f"s{value}" for value in values])
    keep = np.array([data.draw(st.booleans()) for _ in values], bool)
    kept = {value for value, kept in zip(values, keep, strict=True) if kept}
    sizes = {"valid": valid, "test": test}
    if len(kept) <= 2:
        with pytest.raises(UserError, match="too few"):
            split_by_hash(hashes, keep, sizes)
        return
    part = split_by_hash(hashes, keep, sizes)
    assert ((part == -1) == ~keep).all()
    homes: dict[int, set[int]] = {}
    for value, number in zip(values, part.tolist(), strict=True):
        if number >= 0:
            homes.setdefault(value, set()).add(number)
    assert all(len(home) == 1 for home in homes.values())
    assert {number for home in homes.values() for number in home} == {0, 1, 2}
