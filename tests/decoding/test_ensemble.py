"""Ensembles: the mean of probabilities, written out in float64, behind the interface of search."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import AttentionConfig, ModelConfig, ModelKind, Positions, Score, Timing
from nmt.decoding.align import explain_ids
from nmt.decoding.search import SearchOptions, search
from nmt.decoding.translate import inference, score_ids
from nmt.errors import UserError
from nmt.models.build import build_model
from nmt.models.ensemble import Ensemble
from nmt.models.seq2seq import Source

EOS, A, B = 3, 4, 5
PIECES = SimpleNamespace(pieces=lambda ids: [str(i) for i in ids])
NUMBERS = SimpleNamespace(source=PIECES, target=PIECES)
ROWS = [[5, 6, 7, EOS], [8, EOS], [4, 4, 9, 5, 6, 8, EOS], [EOS], [9, 7, EOS], [8, 5, EOS]]


def mean_script(scripts):
    """The mean of scripted probabilities, one token at a time, without torch."""

    def script(source, prefix):
        logs = [one(source, prefix) for one in scripts]
        return [math.log(sum(map(math.exp, column)) / len(logs)) for column in zip(*logs)]  # noqa: B905

    return script


def build(kind, score=Score.scaled_dot, vocab=10, width=8, seed=1, **others):
    torch.manual_seed(seed)
    recurrent = kind == ModelKind.lstm
    timing = Timing.current if recurrent and score not in (Score.none, Score.additive) else None
    timing = Timing.previous if score == Score.additive else timing
    model = build_model(
        ModelConfig(
            kind=kind, encoder_layers=1, decoder_layers=2, width=width, embedding=6, heads=2,
            ffn=16, **others,
        ),
        AttentionConfig(
            preset="tried", score=score, timing=timing,
            feeding=True if timing == Timing.current else None,
        ),
        vocab,
        vocab,
    ).double()  # fmt: skip
    with torch.no_grad():  # far from uniform, so that the order of hypotheses is no coin toss
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model.eval()


@pytest.fixture(scope="module")
def models():
    """Of three kinds and widths, one with a tied, narrowed output layer."""
    return [
        build(ModelKind.transformer),
        build(ModelKind.lstm, Score.dot, width=12, seed=2),
        build(ModelKind.lstm, Score.additive, width=6, seed=3),
    ]


def find(scripted, model, rows, options, **others):
    batch = scripted.source(rows)
    with inference(model):
        source = Source(batch.ids_BS, batch.keep_BS)
        return search(model, source, options, **scripted.special, **others)


# ---- against the mean written out ----------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 3),
    exponent=st.sampled_from([0.0, 0.6, 1.0]),
    n_best=st.integers(1, 5),
)
def test_equals_exhaustive_search_under_the_mean(scripted, seed, count, exponent, n_best):
    scripts = [scripted.random_script(7, seed + k, sharpness=3.0) for k in range(count)]
    ensemble = Ensemble([scripted.Model(script, 7) for script in scripts])
    source, mean = (A, B, EOS), mean_script(scripts)
    options = SearchOptions(
        beam=60, n_best=n_best, length_penalty=exponent, max_length=2, forbid_unk=True
    )
    [found] = search(ensemble, scripted.source([list(source)]), options, **scripted.special)
    every = []
    for n in range(3):
        for ids in itertools.product(range(EOS + 1, 7), repeat=n):
            total = sum(mean(source, ids[:t])[token] for t, token in enumerate((*ids, EOS)))
            every.append((total / ((5 + n + 1) / 6) ** exponent, total, list(ids)))
    every = sorted(every, reverse=True)[:n_best]
    assert [h.ids for h in found] == [ids for _, _, ids in every]
    assert [h.score for h in found] == pytest.approx([score for score, _, _ in every], abs=1e-10)
    assert [h.log_prob for h in found] == pytest.approx([total for _, total, _ in every], abs=1e-10)


def test_it_is_the_mean_of_probabilities_not_of_their_logarithms(scripted):
    """a: (0.9 + 0.001) / 2 = 0.45 wins; the geometric mean would take b: 0.09 against 0.03."""

    def says(**p):
        rest = (1 - sum(p.values())) / 4
        row = [math.log(p.get(name, rest)) for name in ("pad", "unk", "bos", "end", "a", "b")]
        return lambda source, prefix: row if not prefix else [-9.0] * 3 + [-1e-3] + [-9.0] * 2

    ensemble = Ensemble([scripted.Model(s, 6) for s in (says(a=0.9, b=0.09), says(a=0.001, b=0.1))])
    [[best]] = search(
        ensemble, scripted.source([[A, EOS]]), SearchOptions(beam=1), **scripted.special
    )
    assert best.ids[0] == A


def test_a_forced_translation_scores_as_the_mean_of_softmaxes(scripted, models):
    ensemble = Ensemble(models)
    options = SearchOptions(beam=3, n_best=3, max_length=8, length_penalty=0.0)
    found = find(scripted, ensemble, ROWS, options)
    assert not any(model.training for model in models)
    sources = [row[:-1] for row in ROWS for _ in range(3)]
    targets = [h.ids for hypotheses in found for h in hypotheses]
    scores = [s.log_prob for s in score_ids(ensemble, sources, targets)]
    assert scores == pytest.approx([h.log_prob for hs in found for h in hs], abs=1e-10)
    for source, ids, score in zip(sources, targets, scores, strict=True):
        batch = scripted.source([[*source, EOS]])
        fed = torch.tensor([[2, *ids]])
        with torch.no_grad():
            shares = [
                m.project(m(Source(batch.ids_BS, batch.keep_BS), fed)).softmax(-1)[0]
                for m in models
            ]
        mean = sum(share.numpy() for share in shares) / len(models)
        expected = sum(np.log(mean[t, token]) for t, token in enumerate((*ids, EOS)))
        assert score == pytest.approx(expected, abs=1e-10)


# ---- in search -----------------------------------------------------------------------------------

OPTIONS = {
    "greedy": SearchOptions(beam=1, max_length=12),
    "beam": SearchOptions(beam=4, n_best=4, max_length=12),
    "sampling": SearchOptions(sample=True, n_best=3, max_length=12, top_k=5),
    "coverage": SearchOptions(beam=3, n_best=2, coverage_penalty=0.3, max_length=12),
}


@pytest.mark.parametrize("name", ["greedy", "coverage"])
def test_a_model_with_itself_is_the_model(scripted, models, name):
    for model in models:
        alone = find(scripted, model, ROWS, OPTIONS[name], keys=list(range(6)))
        twice = find(scripted, Ensemble([model, model]), ROWS, OPTIONS[name], keys=list(range(6)))
        for a, b in zip(alone, twice, strict=True):
            assert [(h.ids, h.finished) for h in a] == [(h.ids, h.finished) for h in b]
            assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-10)
            assert [h.log_prob for h in a] == pytest.approx([h.log_prob for h in b], abs=1e-10)


@pytest.mark.parametrize("name", ["beam", "sampling"])
def test_sentences_that_leave_take_their_own_memory_with_them(scripted, models, name):
    """LSTMs and a Transformer together: a batch of six gives what each sentence gets alone."""
    ensemble = Ensemble(models)
    prefix = [[], [A], [], [5, 6], [], []]
    many = find(scripted, ensemble, ROWS, OPTIONS[name], prefix=prefix, keys=list(range(6)))
    assert len({len(hypotheses[0].ids) for hypotheses in many}) > 1  # they end at different steps
    for i, row in enumerate(ROWS):
        [alone] = find(scripted, ensemble, [row], OPTIONS[name], prefix=[prefix[i]], keys=[i])
        assert [h.ids for h in alone] == [h.ids for h in many[i]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in many[i]], abs=1e-10)


def test_the_order_of_the_models_does_not_matter(scripted, models):
    options = SearchOptions(beam=3, max_length=12)
    found = find(scripted, Ensemble(models), ROWS, options)
    other = find(scripted, Ensemble(models[::-1]), ROWS, options)
    assert [h[0].ids for h in found] == [h[0].ids for h in other]
    members = [[h[0].ids for h in find(scripted, m, ROWS, options)] for m in models]
    assert all([h[0].ids for h in found] != one for one in members)  # it is none of them


def test_the_shortest_memory_of_positions_counts(scripted):
    long = build(ModelKind.lstm, Score.dot)
    short = build(ModelKind.transformer, positions=Positions.learned, max_positions=5)
    ensemble = Ensemble([long, short])
    assert (ensemble.max_source_length, ensemble.max_target_length) == (5, 5)
    assert Ensemble([long]).max_target_length is None
    found = find(scripted, ensemble, [[5, 6, EOS]], SearchOptions(beam=2, min_length=4))
    assert len(found[0][0].ids) == 4


def test_models_of_other_vocabularies_are_refused():
    with pytest.raises(ValueError, match="one vocabulary"):
        Ensemble([build(ModelKind.lstm, Score.dot), build(ModelKind.lstm, Score.dot, vocab=11)])
    with pytest.raises(ValueError, match="one vocabulary"):
        Ensemble([])


# ---- attention -----------------------------------------------------------------------------------


def test_its_attention_is_the_mean_of_the_models(models):
    [found] = explain_ids(Ensemble(models), NUMBERS, [[5, 6, 7]], [[8, 9]])
    each = [next(iter(explain_ids(m, NUMBERS, [[5, 6, 7]], [[8, 9]]))) for m in models]
    expected = torch.stack([one.cross.mean((0, 1)) for one in each]).mean(0)
    assert found.cross.shape == (1, 1, 3, 4)
    assert torch.allclose(found.cross[0, 0], expected)
    assert found.encoder is None
    assert "explain one of them" in found.missing["encoder"]


def test_a_model_without_attention_is_named(scripted, models):
    ensemble = Ensemble([models[0], build(ModelKind.lstm, Score.none)])
    [found] = explain_ids(ensemble, NUMBERS, [[5, 6]], [[8]])
    assert found.cross is None
    assert found.missing["cross"].startswith("model 2: ")
    with pytest.raises(UserError, match="cross-attention weights: model 2: "):
        find(scripted, ensemble, ROWS, OPTIONS["coverage"])
    assert find(scripted, ensemble, ROWS, OPTIONS["beam"])
