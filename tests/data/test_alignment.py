"""Word alignments: read, kept in step with cleaning and splitting, turned into links of tokens."""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmt.config import FilterConfig, GrammarConfig, Source, Subwords, TokenizerConfig
from nmt.data.alignment import TokenLinks, WordLinks, _Pieces, ragged_links
from nmt.data.batching import subword_sampler
from nmt.data.grammar import words
from nmt.data.prepared import Prepared
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.data.words import membership
from nmt.errors import UserError

Pairs = list[tuple[str, str]]
Write = Callable[[str, Pairs], str]
Made = Callable[..., Prepared]


def links_of(pair: tuple[str, str]) -> list[tuple[int, int]]:
    """Recognisable links: they depend on the words, and the two directions differ."""
    a, b = (len(side.split()) for side in pair)
    return sorted({(i, (i * len(pair[0]) + 1) % b) for i in range(a) if (i + len(pair[1])) % 3})


def lines_of(pairs: Pairs) -> str:
    return "".join(" ".join(f"{i}-{j}" for i, j in links_of(pair)) + "\n" for pair in pairs)


def kept_links(prepared: Prepared) -> list[list[tuple[int, int]]]:
    found = prepared.word_links()
    assert found is not None
    assert found.words is str.split
    assert len(found.pairs) == len(prepared.train)
    return [[(int(i), int(j)) for i, j in found.pairs[row]] for row in range(len(found.pairs))]


def texts_of(prepared: Prepared) -> Pairs:
    store = prepared.train
    return list(zip(store.source_texts(), store.target_texts(), strict=True))


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_in_step_with_cleaning_and_splitting(
    zipped: bool, reverse: bool, pairs: Pairs, write: Write, made: Made, tmp_path: Path
) -> None:
    """Empty, repeated and very long pairs go, dev and test are split off, every link stays."""
    corpus = [*pairs[:40], ("", "Rien."), *pairs[20:90], ("word " * 50, "mot " * 50), *pairs[90:]]
    write("all", corpus)
    if zipped:
        (tmp_path / "links.gz").write_bytes(gzip.compress(lines_of(corpus).encode()))
    else:
        (tmp_path / "links").write_text(lines_of(corpus), "utf-8")
    filters = {"too_long": True, "max_words": 40, "duplicate_pair": True}
    prepared = made(train="all", alignments="links", filters=filters, reverse=reverse)
    assert prepared.manifest["funnel"]["removed"] == {
        "empty": 1, "too_long": 1, "duplicate_pair": 20
    }  # fmt: skip
    assert len(prepared.train) == 192 - 20
    found = kept_links(prepared)
    for pair, links in zip(texts_of(prepared), found, strict=True):
        if reverse:
            assert sorted((i, j) for j, i in links) == links_of(pair[::-1])
        else:
            assert links == links_of(pair)
    assert len({tuple(links) for links in found}) > 10


def test_lines_that_are_not_utf8_keep_the_others_in_step(
    pairs: Pairs, write: Write, made: Made, tmp_path: Path
) -> None:
    from nmt.config import InvalidUtf8

    write("all", pairs)
    lines = (tmp_path / "all.en").read_bytes().split(b"\n")
    lines[5] = b"\xff"
    (tmp_path / "all.en").write_bytes(b"\n".join(lines))
    (tmp_path / "links").write_text(lines_of(pairs), "utf-8")
    prepared = made(train="all", alignments="links", invalid_utf8=InvalidUtf8.drop)
    expected = [links_of(pair) for pair in texts_of(prepared)]
    assert kept_links(prepared) == expected


def test_the_words_of_a_tag_shift_the_links(
    pairs: Pairs, write: Write, made: Made, tmp_path: Path
) -> None:
    write("all", pairs)
    (tmp_path / "links").write_text(lines_of(pairs), "utf-8")
    train = [{"name": "all", "path": "all", "tag": "<plain>"}]
    prepared = made(train=train, alignments="links")
    for (source, target), links in zip(texts_of(prepared), kept_links(prepared), strict=True):
        assert source.startswith("<plain> ")
        pair = source.removeprefix("<plain> "), target
        assert links == [(i + 1, j) for i, j in links_of(pair)]


def test_the_fingerprint_covers_the_alignments(
    pairs: Pairs, write: Write, made: Made, tmp_path: Path
) -> None:
    write("all", pairs)
    plain = made(train="all")
    assert plain.word_links() is None
    (tmp_path / "links").write_text(lines_of(pairs), "utf-8")
    (tmp_path / "same").write_text(lines_of(pairs), "utf-8")
    (tmp_path / "other").write_text(lines_of(pairs).replace("0-1", "0-0"), "utf-8")
    first, again, other = (made(train="all", alignments=a) for a in ("links", "same", "other"))
    assert first.fingerprint == again.fingerprint
    assert len({plain.fingerprint, first.fingerprint, other.fingerprint}) == 3
    lines: list[str] = []
    (tmp_path / "links").write_text("0-0\n" * len(pairs), "utf-8")
    changed = made(train="all", alignments="links", lines=lines)
    assert changed.fingerprint != first.fingerprint
    assert any("links has changed since it was prepared" in line for line in lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0-0 1:1", r"links, line 8: '1:1' is no link; a line looks like 0-0 1-2"),
        ("0-0 -1-1", r"line 8: '-1-1' is no link"),
        ("0-0 1-", r"line 8: '1-' is no link"),
        ("5-0", r"line 8: the link 5-0 is outside the sentences, which have 5 and 5 words"),
        ("0-5", r"line 8: the link 0-5 is outside the sentences, which have 5 and 5 words"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_wrong_line_is_named(
    line: str, message: str, reverse: bool, pairs: Pairs, write: Write, made: Made, tmp_path: Path
) -> None:
    corpus = list(pairs)
    corpus[7] = ("a b c d e", "f g h i j")
    write("all", corpus), write("dev", pairs[:5])
    lines = ["0-0"] * len(corpus)
    lines[7] = line
    (tmp_path / "links").write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(UserError, match=message):
        made(train="all", valid="dev", test="dev", alignments="links", reverse=reverse)


def test_what_alignments_do_not_go_with(
    pairs: Pairs, write: Write, made: Made, tmp_path: Path
) -> None:
    write("one", pairs[:100]), write("two", pairs[100:])
    (tmp_path / "links").write_text("0-0\n" * 99, "utf-8")
    with pytest.raises(UserError, match=r"links has 99 lines, but the training corpus has 100 "):
        made(train="one", alignments="links")
    with pytest.raises(UserError, match=r"one training corpus, not with 2 \(one, two\)"):
        made(train={"one": "one", "two": "two"}, alignments="links")
    with pytest.raises(UserError, match=r"there is no file .*nowhere"):
        made(train="one", alignments="nowhere")
    with pytest.raises(UserError, match="the embedded corpus has its own"):
        made(Source.grammar, alignments="links")


def test_damaged_alignments_are_not_read(
    pairs: Pairs, write: Write, made: Made, tmp_path: Path
) -> None:
    write("all", pairs)
    (tmp_path / "links").write_text(lines_of(pairs), "utf-8")
    prepared = made(train="all", alignments="links")
    (prepared.folder / "alignments" / "links.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="prepare again"):
        prepared.word_links()


# --- gold ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Prepared]:
    from nmt.config import DataConfig
    from nmt.data.prepare import prepare

    cache = tmp_path_factory.mktemp("cache")

    def made(reverse: bool) -> Prepared:
        data = DataConfig(
            name="mini",
            source=Source.grammar,
            reverse=reverse,
            cache=str(cache),
            grammar=GrammarConfig(train=300, valid=20, test=20),
            filters=FilterConfig(duplicate_source=True),
        )
        tokenizer = TokenizerConfig(type=Subwords.unigram, vocab_size=700)
        return prepare(data, tokenizer, report=lambda line: None)

    return made


@pytest.mark.parametrize("reverse", [False, True])
def test_the_embedded_corpus_gives_its_gold(
    reverse: bool, embedded: Callable[[bool], Prepared]
) -> None:
    prepared = embedded(reverse)
    found, gold = prepared.word_links(), prepared.gold("train")
    assert found is not None
    assert gold is not None
    assert found.words is words
    assert [found.pairs[row].tolist() for row in range(len(gold))] == [
        [list(link) for link in facts["alignment"]] for facts in gold
    ]


# --- tokens --------------------------------------------------------------------------------------


def spelled(prepared: Prepared, row: int, ids: tuple[list[int], list[int]]) -> set[tuple[int, int]]:
    """Token links by walking along the characters of both sides, without any vectors."""
    found = prepared.word_links()
    assert found is not None
    owners = []
    store = prepared.train
    for side, text in enumerate((store.source_text(row), store.target_text(row))):
        tokenizer = (prepared.tokenizers.source, prepared.tokenizers.target)[side]
        of_character = [w for w, word in enumerate(found.words(text)) for _ in word]
        at, mine = 0, []
        for piece in tokenizer.pieces(ids[side]):
            count = len(piece.replace("▁", ""))
            mine.append(set(of_character[at : at + max(count, 1)]))
            at += count
        assert at == len(of_character)
        owners.append(mine)
    return {
        (t, s)
        for i, j in found.pairs[row].tolist()
        for s, source in enumerate(owners[0])
        for t, target in enumerate(owners[1])
        if i in source and j in target
    }


@pytest.mark.parametrize("sampling", [0.0, 0.3])
def test_all_pieces_of_a_word_with_all_pieces_of_its_partner(
    sampling: float, embedded: Callable[[bool], Prepared]
) -> None:
    prepared = embedded(False)
    store, tokenizers = prepared.train, prepared.tokenizers
    found = prepared.word_links()
    assert found is not None
    links = TokenLinks(found, store, tokenizers)
    sides: Any = (store.source, store.target)
    if sampling:

        def encoder(tokenizer: Tokenizer) -> Callable[[list[str], int], list[list[int]]]:
            return lambda texts, seed: tokenizer.sample(texts, alpha=sampling, seed=seed)

        sample = subword_sampler(
            (store.source_texts, store.target_texts),
            (encoder(tokenizers.source), encoder(tokenizers.target)),
            pairs=len(store),
            seed=1,
        )
        sides = sample(0)
        changed = [a.tolist() != b.tolist() for a, b in zip(sides[0], store.source, strict=True)]
        assert sum(changed) > 100
    split = 0
    for row in range(len(store)):
        ids = sides[0][row], sides[1][row]
        matrix = links(row, *ids)
        assert matrix.shape == (len(ids[1]), len(ids[0]))
        expected = spelled(prepared, row, (ids[0].tolist(), ids[1].tolist()))
        assert {tuple(place) for place in np.argwhere(matrix).tolist()} == expected
        split += len(expected) > len(found.pairs[row])
    assert split > 100  # words of several pieces are what this is about


TEXT = st.lists(
    st.text(st.sampled_from("abcdeé'.,-\u00a0\u0301漢字😀\u2028"), min_size=1, max_size=6),
    max_size=6,
).map(" ".join)


@pytest.fixture(scope="module")
def vocabularies() -> list[Tokenizer]:
    texts = ["abcd eé'a, bc. d-e dab cab bad.", "ab cd, ee é' dé bca abc dab"] * 20
    return [
        Tokenizer.train(texts, model_type=kind, vocab_size=size, byte_fallback=spells)
        for kind, size, spells in (("bpe", 290, True), ("unigram", 280, True), ("bpe", 30, False))
    ]


@settings(max_examples=100, deadline=None)
@example(text="a\u0301\u2028", which=0, seed=0, fine=True)  # one miscount would hide another
@example(text="b b ab", which=0, seed=0, fine=True)  # a lone space goes with all of "ab"
@given(text=TEXT, which=st.integers(0, 2), seed=st.integers(0, 99), fine=st.booleans())
def test_owners_are_those_of_the_character_matcher(
    vocabularies: list[Tokenizer], text: str, which: int, seed: int, fine: bool
) -> None:
    """Bytes, unknown tokens, lone spaces, odd white space, combining marks, nothing at all; and
    words finer than pieces."""
    tokenizer = vocabularies[which]
    [ids] = tokenizer.sample([text], alpha=0.3, seed=seed)
    said = re.findall(r"\w|[^\w\s]", text) if fine else text.split()
    owned = membership(tokenizer.pieces(ids), said) > 0
    expected = [column.nonzero().flatten().tolist() for column in owned.T]
    assert _Pieces(tokenizer).of_words(ids, said) == expected


def test_a_piece_over_several_words_belongs_to_each(vocabularies: list[Tokenizer]) -> None:
    tokenizer = vocabularies[0]
    [ids] = tokenizer.encode(["dab"])
    assert tokenizer.pieces(ids) == ["▁dab"]
    assert _Pieces(tokenizer).of_words(ids, ["d", "a", "b"]) == [[0], [0], [0]]


def test_a_decomposed_letter_is_one_character(vocabularies: list[Tokenizer]) -> None:
    text = unicodedata.normalize("NFD", "dé bé")
    [ids] = vocabularies[0].encode([text])
    first, second = _Pieces(vocabularies[0]).of_words(ids, text.split())
    assert first + second == list(range(len(ids)))
    assert first
    assert second


def test_ragged_links() -> None:
    ragged = ragged_links([[(0, 1), (2, 3)], [], [(4, 5)]])
    assert [ragged[row].tolist() for row in range(3)] == [[[0, 1], [2, 3]], [], [[4, 5]]]
    assert len(ragged_links([])) == 0
    assert ragged_links([[], []])[1].shape == (0, 2)


def test_pairs_without_words_or_links(
    vocabularies: list[Tokenizer], pairs: Pairs, write: Write, made: Made
) -> None:
    write("all", pairs)
    prepared = made(train="all")
    links = WordLinks(ragged_links([[]] * len(prepared.train)), str.split)
    matrix = TokenLinks(links, prepared.train, prepared.tokenizers)
    assert matrix(0, prepared.train.source[0], prepared.train.target[0]).sum() == 0
    nothing = np.empty(0, np.uint16)
    assert matrix(0, nothing, prepared.train.target[0]).shape[1] == 0
    assert Tokenizers(vocabularies[0], vocabularies[0]).joint
