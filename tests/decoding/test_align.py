"""Alignments and their error rate against numbers made by hand."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.decoding.align import (
    AlignmentScore,
    Explained,
    Gold,
    View,
    alignment_score,
    diagonal,
    entropies,
    explain_ids,
    explain_pairs,
    links,
    load_bitext,
    load_gold,
    membership,
    pharaoh,
    read_links,
    token_matrix,
    word_matrix,
)
from nmt.decoding.views import best_view
from nmt.errors import UserError
from nmt.models.seq2seq import Attentions

HANSARDS = Path(__file__).parents[3] / "shared" / "data" / "align"
TEXT = ["the small dog sleeps", "le petit chien dort", "unbelievable", "incroyablement 日本 ½"]


@pytest.fixture(scope="module")
def tokenizers():
    joint = Tokenizer.train(TEXT * 10, model_type="bpe", vocab_size=320)
    return Tokenizers(joint, joint)


def explained(cross, source=("▁a", "▁b", "</s>"), target=("▁x", "▁y", "</s>"), missing=None):
    weights = None if cross is None else torch.tensor(cross)
    return Explained(list(source), list(target), None, None, weights, missing or {})


TWO_HEADS = [[[[0.6, 0.2, 0.2], [0.0, 0.0, 1.0], [0.1, 0.1, 0.8]],
              [[0.2, 0.6, 0.2], [0.0, 0.5, 0.5], [0.3, 0.3, 0.4]]]]  # fmt: skip


# ---- matrices ------------------------------------------------------------------------------------


def test_the_end_is_dropped_and_the_rest_rescaled():
    item = explained(TWO_HEADS)
    one = token_matrix(item, View(layer=0, head=0))
    assert one.tolist() == [pytest.approx([0.75, 0.25]), [0.0, 0.0]]  # all on the end: nothing left
    mean = token_matrix(item)
    assert mean.tolist() == [pytest.approx([0.5, 0.5]), pytest.approx([0.0, 1.0])]
    whole = token_matrix(item, View(0, 1), end=True)
    assert torch.equal(whole, torch.tensor(TWO_HEADS)[0, 1])


def test_the_end_can_be_a_word_of_its_own():
    item = explained(TWO_HEADS)
    words = (["a", "b"], ["x", "y"])
    assert torch.allclose(
        word_matrix(item, *words, View(0, 0), end=True), torch.tensor(TWO_HEADS)[0, 0]
    )
    read = word_matrix(item, *words, View(0, 0, "reads"), end=True)
    assert torch.allclose(read, torch.tensor(TWO_HEADS)[0, 0, 1:])
    one_word = word_matrix(item, ["ab"], ["xy"], View(0, 1), end=True)
    assert one_word.flatten().tolist() == pytest.approx([0.65, 0.35, 0.6, 0.4])


def test_entropy_of_even_and_of_single_looks():
    even = [[0.25] * 4] * 3
    single = [[0.0, 1.0, 0.0, 0.0]] * 3
    half = [[0.5, 0.5, 0.0, 0.0], [0.2, 0.2, 0.0, 0.0], [0.0] * 4]  # scaled, and left out
    item = explained([[even, single, half]], source=["▁a"] * 3 + ["</s>"])
    found = entropies([item, item])
    assert list(found) == ["cross"]
    assert found["cross"] == [pytest.approx([math.log(4), 0.0, math.log(2)], abs=1e-6)]
    assert entropies([explained(None)]) == {}
    blind = explained([[[[0.0, 0.0, 0.0]] * 3]])
    assert entropies([blind])["cross"] == [[0.0]]


def test_entropy_is_a_mean_over_rows_and_not_over_sentences():
    long = explained([[[[0.5, 0.5, 0.0]] * 3]])
    short = explained([[[[1.0, 0.0, 0.0]]]])
    assert entropies([long, short])["cross"][0][0] == pytest.approx(0.75 * math.log(2))


def test_means_of_layers_and_of_heads():
    weights = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    item = explained(weights.tolist())
    for view, expected in (
        (View(None, None), weights.mean((0, 1))),
        (View(None, 1), weights[:, 1].mean(0)),
        (View(2, None), weights[2].mean(0)),
        (View(2, 1), weights[2, 1]),
    ):
        assert torch.allclose(token_matrix(item, view, end=True), expected)


def test_the_row_that_reads_a_token_is_the_next_one():
    item = explained(TWO_HEADS)
    read = token_matrix(item, View(0, 1, "reads"))
    assert read.tolist() == [pytest.approx([0.0, 1.0]), pytest.approx([0.5, 0.5])]
    with_end = token_matrix(item, View(0, 1, "reads"), end=True)
    assert torch.equal(with_end, torch.tensor(TWO_HEADS)[0, 1, 1:])


def test_a_model_without_attention_says_so():
    item = explained(None, missing={"cross": "a fixed context vector"})
    with pytest.raises(UserError, match="a fixed context vector"):
        token_matrix(item)
    with pytest.raises(UserError, match="a fixed context vector"):
        best_view([item], [(["a"], ["x"])], [Gold(frozenset(), frozenset())])
    assert item.to_dict()["cross"] is None


def test_no_such_layer_or_head():
    with pytest.raises(UserError, match="no layer 1: this model has layer 0 alone"):
        token_matrix(explained(TWO_HEADS), View(layer=1))
    with pytest.raises(UserError, match="no head 2: this model has heads 0 to 1"):
        token_matrix(explained(TWO_HEADS), View(head=2))


def test_columns_are_summed_and_rows_averaged():
    item = explained(
        [[[[0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.4, 0.0], [0.0, 0.2, 0.8, 0.0], [0, 0, 0, 1.0]]]],
        source=["▁do", "g", "▁runs", "</s>"],
        target=["▁chi", "en", "▁court", "</s>"],
    )
    rows = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.1, 0.4], [0.0, 0.2, 0.8]])
    rows = rows / rows.sum(1, keepdim=True)
    expected = torch.tensor(
        [
            [float(rows[:2, :2].sum(1).mean()), float(rows[:2, 2].mean())],
            [float(rows[2, :2].sum()), float(rows[2, 2])],
        ]
    )
    found = word_matrix(item, ["dog", "runs"], ["chien", "court"])
    assert torch.allclose(found, expected)
    assert torch.allclose(found.sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("pieces", "words", "owners"),
    [
        (["▁the", "▁do", "g"], ["the", "dog"], [0, 1, 1]),
        (["▁", "dog", "▁", "s"], ["dog", "s"], [0, 0, 1, 1]),
        (["▁l'", "homme", "."], ["l'", "homme", "."], [0, 1, 2]),
        (["▁The", "▁Dog"], ["the", "dog"], [0, 1]),
        (["▁", "<0xC3>", "<0xA9>", "t", "é"], ["été"], [0, 0, 0, 0, 0]),
        (["▁a", "▁", "<0xE6>", "<0x97>", "<0xA5>", "<0xFF>"], ["a", "日"], [0, 1, 1, 1, 1, 1]),
        (["▁a", "▁<unk>", "▁c"], ["a", "b", "c"], [0, 0, 2]),
        (["<unk>", "▁c"], ["b", "c"], [1, 1]),
        (["e\u0301"], ["é"], [0]),
    ],
)
def test_pieces_find_their_words(pieces, words, owners):
    shares = membership(pieces, words)
    assert shares.argmax(1).tolist() == owners
    assert torch.allclose(shares.sum(1), torch.ones(len(pieces)))


def test_a_piece_across_two_words_is_shared():
    assert membership(["▁don", "'t"], ["do", "n't"]).tolist() == [
        pytest.approx([2 / 3, 1 / 3]),
        [0.0, 1.0],
    ]


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="abé日½ .'", min_size=1, max_size=25))
def test_every_piece_of_any_text_belongs_to_its_word(tokenizers, text):
    words = text.split()
    pieces = tokenizers.source.pieces(tokenizers.source.encode([text])[0])
    shares = membership(pieces, words)
    assert shares.shape == (len(pieces), len(words))
    if words:
        assert torch.allclose(shares.sum(1), torch.ones(len(pieces)))
        spelled = [0.0] * len(words)
        for row in shares.tolist():
            for w, share in enumerate(row):
                spelled[w] += share
        assert all(spelled)


# ---- links ---------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.0, 0.0, 0.0], [0.1, 0.5, 0.4]])


def test_rules():
    """Rows are target words 0 to 3, columns source words 0 to 2; row 2 looked at nothing."""
    by_target = {(0, 0), (0, 1), (1, 3)}
    by_source = {(0, 0), (1, 3), (2, 3)}
    assert links(WEIGHTS) == by_target
    assert links(WEIGHTS, "source") == by_source
    assert links(WEIGHTS, "intersection") == {(0, 0), (1, 3)}
    assert links(WEIGHTS, "union") == by_target | by_source
    assert links(WEIGHTS, threshold=0.3) == {(0, 0), (0, 1), (1, 1), (1, 3), (2, 3)}
    assert links(torch.zeros(0, 3)) == links(torch.zeros(3, 0), "union") == set()
    assert links(torch.full((2, 2), 0.5), "intersection") == {(0, 0)}  # of equals the first


def test_the_diagonal():
    assert diagonal(3, 3) == {(0, 0), (1, 1), (2, 2)}
    assert diagonal(2, 4) == {(0, 0), (0, 1), (1, 2), (1, 3)}
    assert diagonal(4, 2) == {(1, 0), (3, 1)}
    assert diagonal(0, 2) == diagonal(2, 0) == set()


def test_pharaoh_there_and_back():
    assert pharaoh({(10, 1), (2, 3), (0, 0)}) == "0-0 2-3 10-1"
    assert read_links("0-0 2-3 10-1").sure == {(10, 1), (2, 3), (0, 0)}
    assert read_links("1-1 2p3 2?4", first=1) == Gold(
        frozenset({(0, 0)}), frozenset({(0, 0), (1, 2), (1, 3)})
    )
    for wrong in ("1-", "a-b", "0-1", "1:2"):
        with pytest.raises(UserError, match="is no link"):
            read_links(wrong, first=1)


def test_error_rate_by_hand():
    """A = 5 links, S = 4 sure, |A & S| = 3, |A & P| = 4: AER = 1 - 7 / 9."""
    gold = [read_links("0-0 1-1 2p1"), read_links("0-0 1-2")]
    found = [{(0, 0), (2, 1), (2, 2)}, {(0, 0), (1, 2)}]
    result = alignment_score(found, gold)
    assert result.error_rate == pytest.approx(1 - 7 / 9)
    assert (result.precision, result.recall) == (4 / 5, 3 / 4)
    assert alignment_score([{(0, 0)}], [read_links("0-0")]) == AlignmentScore(0.0, 1.0, 1.0)
    assert alignment_score([set()], [read_links("0-0")]).error_rate == 1.0
    with pytest.raises(UserError, match="1 alignments, but 2 gold"):
        alignment_score([set()], gold)


def test_gold_and_bitext_files(tmp_path):
    path = tmp_path / "gold.gz"
    path.write_bytes(gzip.compress(b"1-1 2p3\n\n"))
    assert load_gold(path) == [read_links("0-0 1p2"), Gold(frozenset(), frozenset())]
    path = tmp_path / "gold.txt"
    path.write_text("1-1\n0-1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"gold.txt, line 2: '0-1' is no link"):
        load_gold(path)
    path.write_text("a b ||| c\u2028d \n", encoding="utf-8")
    assert load_bitext(path) == [("a b", "c\u2028d")]
    path.write_text("a b\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: expected"):
        load_bitext(path)


@pytest.mark.skipif(not HANSARDS.is_dir(), reason="the Hansards are not part of the project")
def test_hansards():
    gold = load_gold(HANSARDS / "hansards.gold.txt.gz")
    pairs = load_bitext(HANSARDS / "hansards.en-fr.txt.gz")
    assert len(gold) == len(pairs) == 247
    for one, (english, french) in zip(gold, pairs, strict=True):
        assert one.sure <= one.possible
        assert all(i < len(english.split()) for i, _ in one.possible)
        assert all(j < len(french.split()) for _, j in one.possible)
    assert alignment_score([set(one.sure) for one in gold], gold).error_rate == 0.0


# ---- forced decoding -----------------------------------------------------------------------------


class Pointing(torch.nn.Module):
    """Row t looks at source position t * (row number of the source's first id modulo 2)."""

    max_source_length = 60
    max_target_length = 60

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.shapes = []

    def explain(self, source, tgt_BT):
        (b, s), t = source.ids_BS.shape, tgt_BT.shape[1]
        self.shapes.append((b, s, t))
        cross = torch.zeros(1, b, 1, t, s)
        for row, length in enumerate(source.keep_BS.sum(1).tolist()):
            for step in range(t):
                cross[0, row, 0, step, min(step, length - 1)] = 1.0
        return Attentions(None, None, cross, {"encoder": "none", "decoder": "none"})


def test_pairs_come_back_in_order_and_without_padding(tokenizers):
    sources = ["the small dog sleeps", "the", "small dog", ""]
    targets = ["le petit chien dort", "le petit", "chien", ""]
    for batch_tokens in (1, 30, 1000):
        model = Pointing()
        found = list(explain_pairs(model, tokenizers, sources, targets, batch_tokens=batch_tokens))
        assert sum(b for b, _, _ in model.shapes) == 4
        for item, source, target in zip(found, sources, targets, strict=True):
            s, t = (tokenizers.source.encode([text])[0] for text in (source, target))
            assert item.source == [*tokenizers.source.pieces(s), "</s>"]
            assert item.target == [*tokenizers.target.pieces(t), "</s>"]
            assert item.cross.shape == (1, 1, len(t) + 1, len(s) + 1)
            looked = item.cross[0, 0].argmax(-1).tolist()
            assert looked == [min(step, len(s)) for step in range(len(t) + 1)]
            assert item.encoder is None
    assert links(word_matrix(found[3], [], [])) == set()


def test_links_of_words_from_forced_decoding(tokenizers):
    [item] = explain_ids(
        Pointing(), tokenizers, *([ids] for ids in tokenizers.source.encode(TEXT[:2]))
    )
    same = len(item.source) == len(item.target)
    found = links(word_matrix(item, TEXT[0].split(), TEXT[1].split()))
    assert {j for _, j in found} == {0, 1, 2, 3}
    if same:
        assert found == {(i, i) for i in range(4)}


def test_forced_decoding_refuses_what_does_not_pair_up_or_fit(tokenizers):
    with pytest.raises(UserError, match="2 sources, but 1 targets"):
        list(explain_pairs(Pointing(), tokenizers, ["a", "b"], ["c"]))
    with pytest.raises(UserError, match="pair 1: the source has"):
        list(explain_pairs(Pointing(), tokenizers, ["dog " * 100], ["c"]))
