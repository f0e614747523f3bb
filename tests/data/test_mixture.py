"""Weights and tags of corpora: counts, determinism, shares, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.compose import compose, load, save
from nmt.config import DataConfig, Source, Subwords, TokenizerConfig, tag_token
from nmt.data.batching import Cursor, TrainingPairs, make_plan, share, update_of
from nmt.data.mixture import Portion, epoch_pairs, table, with_shares
from nmt.data.prepared import Prepared, open_prepared
from nmt.data.store import Ragged
from nmt.errors import UserError

Pairs = list[tuple[str, str]]
Write = Callable[[str, Pairs], str]
Made = Callable[..., Prepared]

WEIGHTS = st.sampled_from([0.1, 0.25, 0.29, 1 / 3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.3])
CORPORA = st.lists(st.tuples(st.integers(1, 60), WEIGHTS), min_size=1, max_size=4)
START = st.integers(0, 30)


def per_corpus(corpora: list[tuple[int, float]], seen: np.ndarray) -> list[np.ndarray]:
    """How often each pair was seen, corpus by corpus."""
    counts = np.bincount(seen, minlength=sum(n for n, _ in corpora))
    return np.split(counts, np.cumsum([n for n, _ in corpora])[:-1])


# --- which pairs an epoch sees -------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(CORPORA, st.integers(0, 5), START)
def test_an_epoch_sees_the_weight_times_the_pairs(
    corpora: list[tuple[int, float]], seed: int, epoch: int
) -> None:
    counts = per_corpus(corpora, epoch_pairs(corpora, seed=seed, epoch=epoch))
    for (pairs, weight), seen in zip(corpora, counts, strict=True):
        assert {math.floor(weight), math.ceil(weight)} >= set(seen.tolist())
        exact = Fraction(str(weight)) * pairs
        assert math.floor(exact) <= seen.sum() <= math.ceil(exact)


@settings(max_examples=40, deadline=None)
@given(CORPORA, st.integers(0, 5), START, st.integers(1, 9))
def test_over_any_epochs_no_pair_is_seen_more_than_once_more_often_than_another(
    corpora: list[tuple[int, float]], seed: int, start: int, epochs: int
) -> None:
    seen = [epoch_pairs(corpora, seed=seed, epoch=e) for e in range(start, start + epochs)]
    counts = per_corpus(corpora, np.concatenate(seen))
    assert all(c.max() - c.min() <= 1 for c in counts)


def test_small_weights_see_other_pairs_each_epoch_and_all_in_the_end() -> None:
    corpora = [(40, 1.0), (100, 0.25)]
    quarters = [per_corpus(corpora, epoch_pairs(corpora, seed=1, epoch=e))[1] for e in range(8)]
    assert [int(q.sum()) for q in quarters] == [25] * 8
    assert (sum(quarters[:4]) == 1).all()
    assert (sum(quarters[4:]) == 1).all()
    drawn = np.flatnonzero(quarters[0])
    assert drawn.max() - drawn.min() > 50  # drawn from everywhere, not cut from the front
    other = per_corpus(corpora, epoch_pairs(corpora, seed=2, epoch=0))[1]
    assert (other != quarters[0]).any()


def test_decimals_are_taken_as_they_are_typed() -> None:
    """0.29 * 100 is 28.999… in binary."""
    assert [len(epoch_pairs([(100, 0.29)], seed=1, epoch=e)) for e in range(3)] == [29, 29, 29]
    assert len(epoch_pairs([(0, 2.0), (3, 1.0)], seed=1, epoch=0)) == 3


# --- the plan ------------------------------------------------------------------------------------


def lengths(corpora: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    count = sum(pairs for pairs, _ in corpora)
    return rng.integers(1, 30, count), rng.integers(1, 30, count)


@settings(max_examples=40, deadline=None)
@given(CORPORA, st.integers(60, 200), st.integers(1, 90), START)
def test_the_plan_holds_what_the_epoch_sees_within_its_budget(
    corpora: list[tuple[int, float]], budget: int, pool: int, epoch: int
) -> None:
    source, target = lengths(corpora)
    options: dict[str, Any] = {"batch_tokens": budget, "pool": pool, "seed": 3, "epoch": epoch}
    plan = make_plan(source, target, corpora=corpora, **options)
    again = make_plan(source, target, corpora=corpora, **options)
    assert [b.tolist() for b in plan] == [b.tolist() for b in again]
    seen = epoch_pairs(corpora, seed=3, epoch=epoch)
    assert np.sort(np.concatenate([*plan, seen[:0]])).tolist() == seen.tolist()
    for batch in plan:
        assert len(batch) * (source[batch].max() + target[batch].max()) <= budget
    if all(weight == 1.0 for _, weight in corpora):
        plain = make_plan(source, target, **options)
        assert [b.tolist() for b in plan] == [b.tolist() for b in plain]


@settings(max_examples=40, deadline=None)
@given(CORPORA, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
def test_any_number_of_processes_sees_the_same(
    corpora: list[tuple[int, float]], accumulate: int, world: int, epoch: int
) -> None:
    source, target = lengths(corpora)
    plan = make_plan(source, target, batch_tokens=60, pool=50, seed=1, epoch=epoch, corpora=corpora)
    seen: list[int] = []
    cursor = Cursor(epoch)
    while plan and cursor.epoch == epoch:
        update = update_of(plan, cursor.consumed, accumulate=accumulate)
        for rank in range(world):
            seen += [i for _, b in share(update, rank=rank, world=world) for i in b.tolist()]
        cursor = cursor.after(plan, accumulate=accumulate)
    assert sorted(seen) == epoch_pairs(corpora, seed=1, epoch=epoch).tolist()


def pairs_of(corpora: list[tuple[int, float]]) -> TrainingPairs:
    rows = np.arange(sum(pairs for pairs, _ in corpora), dtype=np.int32) + 4
    ragged = Ragged(rows, np.arange(len(rows) + 1), np.ones(len(rows), np.int32))
    return TrainingPairs(
        source=ragged, target=ragged, batch_tokens=20, pool=9, seed=1, pad=0, bos=2, eos=3,
        corpora=corpora,
    )  # fmt: skip


def test_an_epoch_is_made_without_the_ones_before_it() -> None:
    """Resume is arithmetic: the third epoch asked for first is the third epoch."""
    corpora = [(20, 0.7), (9, 2.5)]
    fresh, walked = pairs_of(corpora), pairs_of(corpora)
    plans = [[b.tolist() for b in walked.epoch(number).plan] for number in range(3)]
    assert [b.tolist() for b in fresh.epoch(2).plan] == plans[2] != plans[1]
    batch = fresh.epoch(2).batch(fresh.epoch(2).plan[0])
    assert batch.source_BS[:, 0].tolist() == [number + 4 for number in plans[2][0]]


def test_weights_that_leave_no_pair_are_refused() -> None:
    with pytest.raises(UserError, match="less than a pair an epoch"):
        pairs_of([(20, 0.04), (3, 0.2)])
    assert pairs_of([(20, 0.04), (3, 0.4)]).epoch(0).plan


# --- shares --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), WEIGHTS), min_size=1, max_size=5))
def test_shares_add_up(rows: list[tuple[int, int, float]]) -> None:
    mixture = [
        Portion(str(i), "", weight, read=kept + gone, kept=kept)
        for i, (kept, gone, weight) in enumerate(rows)
    ]
    found = with_shares(mixture)
    amounts = {
        "read": [kept + gone for kept, gone, _ in rows],
        "kept": [kept for kept, _, _ in rows],
        "seen": [kept * weight for kept, _, weight in rows],
    }
    for kind, amount in amounts.items():
        total = sum(amount)
        shares = [one[f"share_{kind}"] for one in found]
        assert sum(shares) == pytest.approx(1.0 if total else 0.0, abs=1e-3)
        assert shares == pytest.approx([one / max(total, 1e-9) for one in amount], abs=2e-4)
    assert len(table(mixture)) == len(rows) + 1


def test_the_funnel_says_what_each_corpus_brings(pairs: Pairs, write: Write, made: Made) -> None:
    write("a", pairs[:100]), write("b", [*pairs[90:170], *pairs[150:170]]), write("d", pairs[170:])
    corpora = [{"name": "a", "path": "a"}, {"name": "b", "path": "b", "tag": "b", "weight": 0.5}]
    filters = {"duplicate_pair": True}
    lines: list[str] = []
    tokenizer = TokenizerConfig(type=Subwords.bpe, vocab_size=290)
    options = {"valid": "d", "test": "d", "filters": filters, "tokenizer": tokenizer}
    prepared = made(train=corpora, lines=lines, **options)
    a, b = prepared.manifest["corpora"]
    assert (a["read"], a["kept"], a["seen"]) == (100, 100, 100.0)
    assert (b["read"], b["kept"], b["seen"]) == (100, 70, 35.0)
    assert (b["share_read"], b["share_kept"], b["share_seen"]) == (0.5, 0.4118, 0.2593)
    assert prepared.corpora == [(100, 1.0), (70, 0.5)]
    [row] = [line for line in lines if line.endswith("<b>")]
    assert row.split() == ["b", "100", "50.0%", "70", "41.2%", "x", "0.5", "35", "25.9%", "<b>"]
    # another weight is other training on the same prepared text
    other = made(train=[corpora[0] | {"weight": 3}, corpora[1]], **options)
    assert other.folder == prepared.folder
    assert other.corpora == [(100, 3.0), (70, 0.5)]
    assert open_prepared(prepared.folder).corpora == []


def test_pairs_of_corpora_follow_each_other_after_splitting(
    pairs: Pairs, write: Write, made: Made
) -> None:
    write("a", pairs[:120]), write("b", pairs[120:])
    train = [{"name": name, "path": name, "tag": name} for name in "ab"]
    prepared = made(train=train)  # dev and test are split off both
    [(kept, _)] = [(c["kept"], c) for c in prepared.manifest["corpora"] if c["name"] == "a"]
    tags = [text.partition(" ")[0] for text in prepared.train.source_texts()]
    assert tags == ["<a>"] * kept + ["<b>"] * (len(tags) - kept)
    assert 100 < kept < 120


# --- tags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_tag_is_one_token_that_survives(
    kind: str, pairs: Pairs, write: Write, made: Made
) -> None:
    write("a", pairs[:150]), write("d", pairs[150:])
    train = [{"name": "a", "path": "a", "tag": "the"}]  # the word itself is in every sentence
    tokenizer = TokenizerConfig(type=Subwords(kind), vocab_size=50, byte_fallback=False)
    prepared = made(train=train, valid="d", tokenizer=tokenizer)
    source = prepared.tokenizers.source
    texts = prepared.train.source_texts()
    assert all(text.startswith("<the> The ") for text in texts)
    for drawn in (source.encode(texts), source.sample(texts, alpha=0.3, seed=1)):
        pieces = [source.pieces(ids) for ids in drawn]
        assert all(p[:2] == ["▁", "<the>"] and p.count("<the>") == 1 for p in pieces)
        assert [source.decode(ids) for ids in drawn] == texts
    assert not any(text.startswith("<") for text in prepared.sources("valid"))
    plain = source.pieces(source.encode(["the dog sees the cat"])[0])
    assert "<the>" not in plain


def test_dev_and_test_sets_have_their_tags_and_overlap_is_seen_through_them(
    pairs: Pairs, write: Write, made: Made
) -> None:
    write("a", pairs[:150]), write("v", pairs[150:170]), write("w", pairs[140:152])
    prepared = made(
        train=[{"name": "a", "path": "a", "tag": "x"}],
        valid=[{"name": "v", "path": "v", "tag": "x"}, {"name": "w", "path": "w"}],
        test=[{"name": "w", "path": "w", "tag": "y"}],
        filters={"overlap": True},
    )
    valid = prepared.sources("valid")
    assert [text.startswith("<x> ") for text in valid] == [True] * 20 + [False] * 12
    assert prepared.sources("w") == [f"<y> {source}" for source, _ in pairs[140:152]]
    assert prepared.manifest["overlap"]["w"] == {"sources": 10, "pairs": 10}
    assert prepared.manifest["funnel"]["removed"] == {"overlap": 10}
    pieces = prepared.tokenizers.source.pieces(prepared.tests["w"].source[0])
    assert pieces[:2] == ["▁", "<y>"]


@pytest.mark.parametrize(
    ("typed", "token"),
    [
        ("bt", "<bt>"),
        ("<bt>", "<bt>"),
        ("2de", "<2de>"),
        ("", ""),
        (None, ""),
        ("é.x:-", "<é.x:->"),
    ],
)
def test_tags_may_be_typed_without_brackets(typed: str | None, token: str) -> None:
    assert tag_token(typed, "tag") == token


@pytest.mark.parametrize(
    "typed",
    [
        *("a b", "<a", "<a b>", "<>", "<s>", "s", "</s>", "unk", "<pad>", "<0x41>", "▁a", "<<a>>"),
        *("a\n", 3, False, ["a"], "e\u0301"),
    ],
)
def test_what_is_not_one_token_is_refused(typed: Any) -> None:
    with pytest.raises(UserError, match=r"a tag is one token such as <bt>"):
        tag_token(typed, "tag")


# --- what is typed -------------------------------------------------------------------------------


def test_a_mixture_as_it_is_typed_and_stored(tmp_path: Any) -> None:
    typed = "data.train=[{name:a,path:x/a},{name:b,path:b.tsv,kind:tsv,weight:2,tag:bt}]"
    config = compose(
        ["data=files", "data.languages=en-fr", typed, "data.valid={v:{path:v,tag:bt}}"]
    )
    a, b = config.data.train
    assert (a.path, a.kind, a.weight, a.tag) == (["x/a"], "files", 1.0, "")
    assert (b.name, b.kind, b.weight, b.tag) == ("b", "tsv", 2.0, "<bt>")
    assert config.data.tags == ["<bt>"]
    save(config, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("[x/a]", [("test", ["x/a"])]),
        ("[{name:a,path:x/a},{name:b,path:x/b}]", [("a", ["x/a"]), ("b", ["x/b"])]),
        ("{a:x/a}", [("a", ["x/a"])]),
        ("x/a", [("test", ["x/a"])]),
    ],
)
def test_typed_corpora_replace_those_of_a_preset(typed: str, found: Any) -> None:
    """The preset names its test set in a dictionary, which would be merged with a typed one."""
    config = compose(["data=multi30k_en_fr", f"data.test={typed}"])
    assert config.data.test is not None
    assert [(corpus.name, corpus.path) for corpus in config.data.test] == found
    assert [corpus.path for corpus in config.data.train] == [["multi30k/train"]]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"wieght": 2}, "unknown key 'wieght' of a corpus; did you mean 'weight'"),
        ({"zzz": 2}, "unknown key 'zzz' of a corpus; it has name, path"),
        ({"weight": 0}, "a: weight must be a number above 0 and at most 1,000, got 0"),
        ({"weight": -1}, "above 0.*got -1"),
        ({"weight": float("inf")}, "above 0.*got inf"),
        ({"weight": float("nan")}, "above 0.*got nan"),
        ({"weight": "two"}, "above 0.*got two"),
        ({"weight": True}, "above 0.*got True"),
        ({"tag": "a b"}, "a: a tag is one token such as <bt>"),
        ({"path": None}, "must be a path"),
    ],
)
def test_wrong_corpora_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig(source=Source.files, train=[{"name": "a", "path": "a"} | entry])


def test_names_are_different_and_weights_are_for_training() -> None:
    two = [{"name": "a", "path": "a"}, {"name": "a", "path": "b"}]
    with pytest.raises(UserError, match="two corpora have the same name, 'a'"):
        DataConfig(source=Source.files, train=two)
    with pytest.raises(UserError, match=r"data\.test: t: a weight is for training corpora"):
        DataConfig(source=Source.files, train="a", test={"t": {"path": "t", "weight": 2}})
