"""Search over real models in float64: batches, scores and exhaustive search agree."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from nmt.config import AttentionConfig, ModelConfig, ModelKind, Score, Timing
from nmt.decoding.align import explain_ids, token_matrix
from nmt.decoding.search import SearchOptions, search
from nmt.decoding.translate import inference, score_ids
from nmt.models.build import build_model
from nmt.models.seq2seq import Source

A, EOS = 4, 3
KINDS = {
    "transformer": (ModelKind.transformer, Score.scaled_dot, None, None),
    "none": (ModelKind.lstm, Score.none, None, None),
    "bahdanau": (ModelKind.lstm, Score.additive, Timing.previous, None),
    "luong_dot": (ModelKind.lstm, Score.dot, Timing.current, True),
    "luong_general": (ModelKind.lstm, Score.general, Timing.current, False),
    "location": (ModelKind.lstm, Score.location, Timing.current, True),
}
ROWS = [[5, 6, 7, EOS], [8, EOS], [4, 4, 9, 5, 6, 8, EOS], [EOS], [9, 7, EOS], [8, 5, EOS]]


def build(kind, vocab=10):
    torch.manual_seed(1)
    model_kind, score, timing, feeding = KINDS[kind]
    config = ModelConfig(
        kind=model_kind, encoder_layers=1, decoder_layers=2, width=8, embedding=8, heads=2, ffn=16
    )
    attention = AttentionConfig(preset=kind, score=score, timing=timing, feeding=feeding)
    model = build_model(config, attention, vocab, vocab).double()
    with torch.no_grad():  # far from uniform, so that the order of hypotheses is no coin toss
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


@pytest.fixture(params=KINDS)
def model(request):
    return build(request.param)


def find(scripted, model, rows, options, **others):
    batch = scripted.source(rows)
    with inference(model):
        source = Source(batch.ids_BS, batch.keep_BS)
        return search(model, source, options, **scripted.special, **others)


@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(beam=1, max_length=12),
        SearchOptions(beam=4, n_best=4, max_length=12),
        SearchOptions(beam=3, n_best=2, length_penalty=0.0, max_length=12, no_repeat_ngram=2),
        SearchOptions(sample=True, n_best=3, max_length=12, top_k=5),
    ],
    ids=["greedy", "beam", "blocking", "sampling"],
)
def test_hypotheses_do_not_depend_on_the_batch(scripted, model, options):
    prefix = [[], [A], [], [5, 6], [], []]
    together = find(scripted, model, ROWS, options, prefix=prefix, keys=list(range(6)))
    for i, row in enumerate(ROWS):
        [alone] = find(scripted, model, [row], options, prefix=[prefix[i]], keys=[i])
        assert [h.ids for h in alone] == [h.ids for h in together[i]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[i]], abs=1e-10)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = find(
        scripted, model, [ROWS[i] for i in order], options, prefix=[prefix[i] for i in order],
        keys=order,
    )  # fmt: skip
    assert [[h.ids for h in shuffled[order.index(i)]] for i in range(6)] == [
        [h.ids for h in hypotheses] for hypotheses in together
    ]


def test_search_and_scoring_give_the_same_log_probability(scripted, model):
    options = SearchOptions(beam=4, n_best=3, max_length=9, min_length=1)
    for row, found in zip(ROWS, find(scripted, model, ROWS, options), strict=True):
        scores = score_ids(model, [row[:-1]] * len(found), [h.ids for h in found])
        assert [h.log_prob for h in found] == pytest.approx([s.log_prob for s in scores], abs=1e-9)
        assert [len(h.ids) + 1 for h in found] == [s.tokens for s in scores]
        assert [h.score for h in found] == pytest.approx(
            [s.log_prob / ((5 + s.tokens) / 6) for s in scores], abs=1e-9
        )


def test_a_beam_as_large_as_the_space_finds_the_best_of_all(scripted, model):
    options = SearchOptions(beam=300, n_best=5, max_length=3, forbid_unk=True)
    row = ROWS[0]
    [found] = find(scripted, model, [row], options)
    everything = [list(ids) for n in range(4) for ids in itertools.product(range(A, 10), repeat=n)]
    scores = score_ids(model, [row[:-1]] * len(everything), everything)
    ranked = sorted(
        (
            (s.log_prob / ((5 + s.tokens) / 6), ids)
            for s, ids in zip(scores, everything, strict=True)
        ),
        reverse=True,
    )
    assert len(everything) == 1 + 6 + 36 + 216
    assert [h.ids for h in found] == [ids for _, ids in ranked[:5]]


def test_every_sentence_is_encoded_once(scripted, model, monkeypatch):
    rows = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda s: (rows.append(len(s.ids_BS)), encode(s))[1])
    find(scripted, model, ROWS, SearchOptions(beam=3, max_length=6))
    assert rows == [len(ROWS)]


def test_attention_of_a_pair_does_not_depend_on_the_batch(model):
    vocabulary = SimpleNamespace(pieces=lambda ids: [f"▁{i}" for i in ids])
    tokenizers = SimpleNamespace(source=vocabulary, target=vocabulary)
    sources = [row[:-1] for row in ROWS]
    targets = [[4, 5], [6], [], [7, 8, 9, 4], [5, 5, 5], [8]]
    together = list(explain_ids(model, tokenizers, sources, targets))
    for item, source, target in zip(together, sources, targets, strict=True):
        [alone] = explain_ids(model, tokenizers, [source], [target])
        assert item.source == [*(f"▁{i}" for i in source), "</s>"]
        for name in ("encoder", "decoder", "cross"):
            weights = getattr(item, name)
            assert (weights is None) == (name in item.missing)
            if weights is not None:
                assert torch.allclose(weights, getattr(alone, name), atol=1e-6)
                assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-6)
        if item.cross is not None:
            assert item.cross.shape[2:] == (len(target) + 1, len(source) + 1)
            assert token_matrix(item).shape == (len(target), len(source))


@pytest.mark.parametrize("kind", ["transformer", "bahdanau"])
def test_lower_precision_stays_close(scripted, kind):
    """bfloat16 under autocast: log-probabilities are still made in float32."""
    model = build(kind).float()
    batch = scripted.source(ROWS)
    options = SearchOptions(beam=2, max_length=6)
    with inference(model, torch.bfloat16):
        found = search(model, Source(batch.ids_BS, batch.keep_BS), options, **scripted.special)
    exact = find(scripted, model, ROWS, options)
    for [a], [b] in zip(found, exact, strict=True):
        assert a.score == pytest.approx(b.score, rel=0.1)
