"""The choice of layer, head and row against every view scored on its own."""

from __future__ import annotations

import itertools

import pytest
import torch

from nmt.decoding.align import Explained, View, alignment_score, links, read_links, word_matrix
from nmt.decoding.views import ROWS, ViewScores, best_view, candidates
from nmt.errors import UserError

SOURCE = ["▁the", "▁do", "g", "▁runs", "</s>"]
TARGET = ["▁le", "▁ch", "ien", "▁court", "</s>"]
WORDS = (["the", "dog", "runs"], ["le", "chien", "court"])


def explained(weights):
    return Explained(SOURCE, TARGET, None, None, weights, {})


def random_items(count, layers=2, heads=3):
    generator = torch.Generator().manual_seed(1)
    shape = (layers, heads, len(TARGET), len(SOURCE))
    return [
        explained(torch.rand(shape, generator=generator).mul(4).softmax(-1)) for _ in range(count)
    ]


def test_the_right_head_is_found():
    right = torch.eye(5)[[0, 1, 2, 3, 4]]
    wrong = right.flip(1)
    item = explained(torch.stack([torch.stack([wrong, wrong]), torch.stack([wrong, right])]))
    view, score = best_view([item], [WORDS], [read_links("0-0 1-1 2-2")])
    assert view == View(1, 1, "predicts")
    assert score.error_rate == 0.0


def test_the_row_that_reads_is_found():
    shifted = torch.eye(5).roll(1, 0)  # row t + 1 looks at token t
    item = explained(shifted[None, None])
    view, score = best_view([item], [WORDS], [read_links("0-0 1-1 2-2")])
    assert view == View(0, 0, "reads")
    assert score.error_rate == 0.0


@pytest.mark.parametrize("rule", ["target", "source", "intersection", "union"])
def test_all_views_at_once_are_each_view_on_its_own(rule):
    items = random_items(7)
    gold = [read_links(line) for line in ("0-0 1-1", "2p1 2-2", "", "0-2 1-1 2-0") * 2][:7]
    views = candidates(2, 3)
    scores = ViewScores(views, rule)
    for item, one in zip(items, gold, strict=True):
        scores.add(item, WORDS, one)
    alone = []
    for view in views:
        found = [links(word_matrix(item, *WORDS, view), rule) for item in items]
        alone.append((view, alignment_score(found, gold)))
    assert scores.scores() == alone
    assert len({score.error_rate for _, score in alone}) > 4
    assert scores.sentences == 7
    best = min(alone, key=lambda item: item[1].error_rate)
    assert best_view(items, [WORDS] * 7, gold, rule=rule) == best


def test_which_views_there_are():
    assert [(v.layer, v.head) for v in candidates(1, 1, row="reads")] == [(0, 0)]
    assert [(v.layer, v.head) for v in candidates(1, 2, row="reads")] == [(0, None), (0, 0), (0, 1)]
    everything = [(v.layer, v.head) for v in candidates(2, 2, row="predicts")]
    pairs = list(itertools.product(range(2), (None, 0, 1)))
    assert everything == [(None, None), *pairs]
    assert [v.row for v in candidates(1, 1)] == list(ROWS)


@pytest.mark.parametrize(
    ("named", "left"),
    [
        ({"layer": 1}, [(1, None), (1, 0), (1, 1)]),
        ({"layer": "mean"}, [(None, None), (None, 0), (None, 1)]),
        ({"head": 1}, [(0, 1), (1, 1)]),
        ({"head": "mean"}, [(None, None), (0, None), (1, None)]),
        ({"layer": "mean", "head": 0}, [(None, 0)]),
        ({"layer": 0, "head": 1}, [(0, 1)]),
    ],
)
def test_what_is_named_is_taken(named, left):
    assert [(v.layer, v.head) for v in candidates(2, 2, row="reads", **named)] == left


def test_nothing_to_choose_from():
    with pytest.raises(UserError, match="no aligned sentences"):
        best_view([], [], [])
    none = Explained(SOURCE, TARGET, None, None, None, {"cross": "a fixed context vector"})
    with pytest.raises(UserError, match="a fixed context vector"):
        best_view([none], [WORDS], [read_links("0-0")])
