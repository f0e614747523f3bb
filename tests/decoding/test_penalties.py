"""The coverage penalty in search: by hand, against every sequence there is, and in real models."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import AttentionConfig, ModelConfig, ModelKind, Score, Timing
from nmt.decoding.penalties import UNSEEN, coverage_penalty
from nmt.decoding.search import SearchOptions, search
from nmt.decoding.translate import score_ids
from nmt.errors import UserError
from nmt.models.build import build_model
from nmt.models.seq2seq import Source

EOS, A, B, C = 3, 4, 5, 6


def find(scripted, model, rows, options, **others):
    batch = scripted.source(rows)
    source = Source(batch.ids_BS, batch.keep_BS)
    return search(model, source, options, **scripted.special, **others)


def by_hand(source, prefix):
    """Two layers of two heads over [a, b, end]; what was said before decides."""
    first = [[[0.8, 0.0, 0.2], [0.4, 0.2, 0.4]], [[0.6, 0.2, 0.2], [0.2, 0.0, 0.8]]]
    then = [[[0.0, 1.0, 0.0], [0.4, 0.2, 0.4]], [[0.0, 0.4, 0.6], [0.0, 0.0, 1.0]]]
    return np.array(then if prefix else first)


def script_by_hand(source, prefix):
    p = {(): [0.5, 0.4, 0.1], (A,): [0.7, 0.2, 0.1], (B,): [0.9, 0.05, 0.05]}
    end, a, b = p.get(prefix, [0.8, 0.1, 0.1])
    return [-math.inf] * 3 + [math.log(end), math.log(a), math.log(b), -math.inf]


def test_by_hand(scripted):
    """Empty: a has 0.5, b 0.1. One token: 0.6 and 0.5. Two: 0.7 and 0.9. The end costs nothing."""
    model = scripted.Model(script_by_hand, 7, looks=by_hand)
    options = SearchOptions(beam=30, n_best=3, length_penalty=1.0, coverage_penalty=0.4)
    [found] = find(scripted, model, [[A, B, EOS]], replace(options, max_length=2))
    covered = {0: 0.5 * 0.1, 1: 0.6 * 0.5, 2: 0.7 * 0.9}
    said = {
        (): math.log(0.5),
        (A,): math.log(0.4 * 0.7) * 6 / 7,
        (B,): math.log(0.1 * 0.9) * 6 / 7,
        (A, A): math.log(0.4 * 0.2 * 0.8) * 6 / 8,
        (A, B): math.log(0.4 * 0.1 * 0.8) * 6 / 8,
    }
    ranked = sorted(((s + 0.4 * math.log(covered[len(y)]), y) for y, s in said.items()))[::-1]
    assert [tuple(h.ids) for h in found] == [ids for _, ids in ranked[:3]]
    assert [h.score for h in found] == pytest.approx([score for score, _ in ranked[:3]], abs=1e-6)
    assert [h.coverage for h in found] == pytest.approx(
        [0.4 * math.log(covered[len(h.ids)]) for h in found], abs=1e-6
    )
    plain = find(scripted, model, [[A, B, EOS]], replace(options, coverage_penalty=0.0))
    assert plain[0][0].ids == []  # what it leaves out of the source costs it the first place
    assert found[0].ids != []


def test_more_than_all_attention_is_no_credit_and_none_is_no_infinity():
    covered = torch.tensor([[0.5, 2.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    expected = [0.3 * math.log(0.5), 0.3 * math.log(UNSEEN)]
    assert coverage_penalty(covered, 0.3).tolist() == pytest.approx(expected)


def oracle(script, looks, source, options, vocab, limit):
    """Every sequence, its attention summed in loops over layers, heads, slots and positions."""
    for n in range(limit + 1):
        for ids in itertools.product(range(EOS + 1, vocab), repeat=n):
            steps = list(enumerate((*ids, EOS)))
            total = sum(script(source, ids[:t])[token] for t, token in steps)
            cost = 0.0
            for i, token in enumerate(source):
                if token == EOS:
                    continue
                seen = 0.0
                for t, _ in steps:
                    weights = looks(source, ids[:t])
                    layers, heads = weights.shape[:2]
                    for layer in range(layers):
                        seen += sum(weights[layer, :, i]) / heads / layers
                cost += options.coverage_penalty * math.log(min(seen, 1.0))
            yield total / ((5 + n + 1) / 6) ** options.length_penalty + cost, list(ids), cost


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    weight=st.sampled_from([0.1, 1.0, 5.0]),
    n_best=st.integers(1, 6),
    limit=st.integers(1, 3),
)
def test_a_beam_as_large_as_the_space_is_exact(scripted, seed, weight, n_best, limit):
    script, looks = scripted.random_script(7, seed), scripted.random_looks(seed)
    options = SearchOptions(
        beam=60, n_best=n_best, coverage_penalty=weight, max_length=limit, forbid_unk=True
    )
    rows = [(A, B, EOS), (C, EOS), (B, A, A, C, EOS)]
    model = scripted.Model(script, 7, looks=looks)
    together = find(scripted, model, [list(row) for row in rows], options)
    for row, found in zip(rows, together, strict=True):
        best = sorted(oracle(script, looks, row, options, 7, limit), reverse=True)[:n_best]
        assert [h.ids for h in found] == [ids for _, ids, _ in best]
        assert [h.score for h in found] == pytest.approx([s for s, _, _ in best], abs=1e-6)
        assert [h.coverage for h in found] == pytest.approx([c for _, _, c in best], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), beam=st.integers(1, 4), sample=st.booleans(), data=st.data())
def test_a_score_is_the_plain_score_plus_coverage_in_batches_that_shrink(
    scripted, seed, beam, sample, data
):
    """The penalty ranks what the beam found; it changes neither the beam nor the samples."""
    script, looks = scripted.random_script(8, seed, 4.0), scripted.random_looks(seed)
    n_best = data.draw(st.integers(1, beam))
    rows = data.draw(st.lists(st.lists(st.integers(A, 7), max_size=4), min_size=1, max_size=5))
    rows = [[*row, EOS] for row in rows]
    options = SearchOptions(
        beam=beam, n_best=n_best, sample=sample, coverage_penalty=0.7, max_length=6, seed=seed
    )
    prefix = [[A] * (len(row) % 2) for row in rows]
    model = scripted.Model(script, 8, looks=looks)
    together = find(scripted, model, rows, options, prefix=prefix)
    for number, (row, forced, found) in enumerate(zip(rows, prefix, together, strict=True)):
        [alone] = find(scripted, model, [row], options, prefix=[forced], keys=[number])
        assert [h.ids for h in alone] == [h.ids for h in found]
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        for one, other in zip(found, alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-6)
            seen = sum(
                looks(tuple(row), tuple(one.ids[:t])).mean((0, 1)) for t in range(len(one.ids) + 1)
            )
            cost = 0.7 * np.log(np.minimum(seen, 1.0))[:-1].sum()
            assert one.coverage == pytest.approx(cost, abs=1e-6)
            plain = one.log_prob / ((6 + len(one.ids)) / 6)
            assert one.score == pytest.approx(plain + cost, abs=1e-6)


def test_zero_asks_for_no_weights(scripted):
    def looks(source, prefix):
        raise AssertionError("nobody asked")

    script = scripted.random_script(7, 1)
    model = scripted.Model(script, 7, looks=looks)
    [[best]] = find(scripted, model, [[A, EOS]], SearchOptions(beam=2, max_length=4))
    assert best.coverage == 0.0


def test_a_model_without_weights_says_why(scripted):
    model = scripted.Model(scripted.random_script(7, 1), 7)
    for options in (SearchOptions(beam=2), SearchOptions(sample=True, n_best=3)):
        with pytest.raises(UserError, match=r"coverage_penalty needs .*: it is a script; set it"):
            find(scripted, model, [[A, EOS], [B, EOS]], replace(options, coverage_penalty=0.1))


KINDS = {
    "transformer": (ModelKind.transformer, Score.scaled_dot, None, None),
    "bahdanau": (ModelKind.lstm, Score.additive, Timing.previous, None),
    "luong_general": (ModelKind.lstm, Score.general, Timing.current, False),
    "none": (ModelKind.lstm, Score.none, None, None),
}


def build(kind):
    torch.manual_seed(1)
    model_kind, score, timing, feeding = KINDS[kind]
    config = ModelConfig(
        kind=model_kind, encoder_layers=1, decoder_layers=2, width=8, embedding=8, heads=2, ffn=16
    )
    attention = AttentionConfig(preset=kind, score=score, timing=timing, feeding=feeding)
    model = build_model(config, attention, 10, 10).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


@pytest.mark.parametrize("kind", ["transformer", "bahdanau", "luong_general"])
def test_real_models_against_every_sequence(scripted, kind):
    """Attention summed from forced decoding of all 259 sequences."""
    model = build(kind)
    rows = [[5, 6, 7, EOS], [8, EOS]]
    options = SearchOptions(beam=300, n_best=5, max_length=3, forbid_unk=True, coverage_penalty=0.6)
    found = find(scripted, model, rows, options)
    everything = [list(ids) for n in range(4) for ids in itertools.product(range(A, 10), repeat=n)]
    for row, hypotheses in zip(rows, found, strict=True):
        plain = score_ids(model, [row[:-1]] * len(everything), everything)
        ranked = []
        for ids, score in zip(everything, plain, strict=True):
            source = Source(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool))
            cross = model.explain(source, torch.tensor([[2, *ids]])).cross
            seen = cross.mean((0, 2))[0].sum(0)[:-1]
            cost = 0.6 * seen.clamp(max=1.0).log().sum().item()
            ranked.append((score.log_prob / ((5 + score.tokens) / 6) + cost, ids))
        best = sorted(ranked, reverse=True)[:5]
        assert [h.ids for h in hypotheses] == [ids for _, ids in best]
        assert [h.score for h in hypotheses] == pytest.approx([s for s, _ in best], abs=1e-6)


def test_a_real_model_without_cross_attention_is_refused(scripted):
    with pytest.raises(UserError, match="one fixed vector"):
        find(scripted, build("none"), [[5, EOS]], SearchOptions(beam=2, coverage_penalty=0.1))
