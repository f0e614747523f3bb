"""Search against hand-computed probabilities and against every sequence there is."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.decoding.beams import going_on, in_place, top
from nmt.decoding.search import Hypothesis, SearchOptions, length_penalty, search
from nmt.errors import UserError

EOS, A, B, C = 3, 4, 5, 6


def run(scripted, script, rows, options, vocab=7, prefix=None, keys=None, model=None):
    model = model or scripted.Model(script, vocab)
    found = search(
        model, scripted.source(rows), options, **scripted.special, prefix=prefix, keys=keys
    )
    return found, model


def table(**rows):
    """Probabilities by what has been said so far; what is not listed ends."""

    def script(source, prefix):
        name = "".join("?" if t < A else "abc"[t - A] for t in prefix) or "start"
        p = dict(zip("abc", [1e-9] * 3, strict=True)) | {"end": 1e-9}
        p |= rows.get(name, {"end": 1.0})
        return [-math.inf, -math.inf, -math.inf, *(math.log(p[k]) for k in ("end", "a", "b", "c"))]

    return script


# ---- hand-computed -------------------------------------------------------------------------------

GARDEN = table(
    start={"a": 0.5, "b": 0.4, "end": 0.1},
    a={"a": 0.4, "b": 0.3, "end": 0.3},
    b={"c": 0.9, "end": 0.1},
    aa={"end": 1.0},
    ab={"end": 1.0},
    bc={"end": 0.95, "a": 0.05},
)
"""Greedy takes a, a (0.5 * 0.4 = 0.2); the best is b, c (0.4 * 0.9 * 0.95 = 0.342)."""


def test_greedy_walks_into_the_garden_path(scripted):
    [[best]], _ = run(scripted, GARDEN, [[A, EOS]], SearchOptions(beam=1, length_penalty=0.0))
    assert best.ids == [A, A]
    assert best.log_prob == pytest.approx(math.log(0.5 * 0.4), abs=1e-6)
    assert best.finished


def test_beam_two_finds_the_better_translation(scripted):
    options = SearchOptions(beam=2, n_best=2, length_penalty=0.0)
    [found], _ = run(scripted, GARDEN, [[A, EOS]], options)
    assert [h.ids for h in found] == [[B, C], [A, A]]
    assert [h.log_prob for h in found] == pytest.approx(
        [math.log(0.4 * 0.9 * 0.95), math.log(0.5 * 0.4)], abs=1e-6
    )


def test_score_divides_by_the_penalty_of_wu_et_al_counting_the_end_token(scripted):
    [[best]], _ = run(scripted, GARDEN, [[A, EOS]], SearchOptions(beam=2, length_penalty=0.6))
    assert best.ids == [B, C]
    assert best.score == pytest.approx(math.log(0.342) / (8 / 6) ** 0.6, abs=1e-6)
    assert length_penalty(1, 0.6) == 1.0


def test_length_penalty_changes_the_winner(scripted):
    script = table(
        start={"a": 0.5, "end": 0.45, "b": 0.05}, a={"b": 0.8, "end": 0.2}, ab={"end": 1.0}
    )
    short, _ = run(scripted, script, [[A, EOS]], SearchOptions(beam=4, length_penalty=0.0))
    long, _ = run(scripted, script, [[A, EOS]], SearchOptions(beam=4, length_penalty=1.0))
    assert short[0][0].ids == []  # 0.45 against 0.5 * 0.8 = 0.4
    assert long[0][0].ids == [A, B]  # ln 0.45 = -0.80 against ln 0.4 / (8 / 6) = -0.69


# ---- exhaustive ----------------------------------------------------------------------------------


def every_hypothesis(script, source, vocab, limit, exponent):
    """All sequences of up to ``limit`` tokens, scored one by one."""
    for n in range(limit + 1):
        for ids in itertools.product(range(EOS + 1, vocab), repeat=n):
            total = sum(script(source, ids[:t])[token] for t, token in enumerate((*ids, EOS)))
            yield list(ids), total / ((5 + n + 1) / 6) ** exponent, total


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    exponent=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    limit=st.integers(1, 3),
    n_best=st.integers(1, 6),
)
def test_a_beam_as_large_as_the_space_is_exact(scripted, seed, exponent, limit, n_best):
    script = scripted.random_script(7, seed)
    source = (A, B, EOS)
    options = SearchOptions(
        beam=60, n_best=n_best, length_penalty=exponent, max_length=limit, forbid_unk=True
    )
    [found], _ = run(scripted, script, [list(source)], options)
    oracle = sorted(every_hypothesis(script, source, 7, limit, exponent), key=lambda h: -h[1])
    expected = oracle[:n_best]
    assert [h.ids for h in found] == [ids for ids, _, _ in expected]
    assert [h.score for h in found] == pytest.approx([s for _, s, _ in expected])
    assert [h.log_prob for h in found] == pytest.approx([t for _, _, t in expected])


def reference_beam(script, source, vocab, options, limit):
    """One sentence in plain Python, without early stopping."""
    live = [((), 0.0)]
    ended = []
    for t in range(limit + 1):
        candidates = []
        for ids, total in live:
            gains = script(source, ids)
            tokens = [EOS] if t == limit else range(EOS, vocab)
            candidates += [(total + gains[w], ids, w) for w in tokens]
        candidates = sorted(candidates, reverse=True)[: options.beam - len(ended)]
        ended += [
            (total / ((5 + t + 1) / 6) ** options.length_penalty, ids)
            for total, ids, w in candidates
            if w == EOS
        ]
        live = [((*ids, w), total) for total, ids, w in candidates if w != EOS]
    return sorted(ended, reverse=True)[: options.n_best]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    beam=st.integers(1, 5),
    exponent=st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    data=st.data(),
)
def test_equals_a_plain_beam_search_that_never_stops_early(scripted, seed, beam, exponent, data):
    script = scripted.random_script(8, seed, sharpness=data.draw(st.sampled_from([2.0, 6.0])))
    n_best = data.draw(st.integers(1, beam))
    options = SearchOptions(
        beam=beam, n_best=n_best, length_penalty=exponent, max_length=6, forbid_unk=True
    )
    [found], _ = run(scripted, script, [[A, EOS]], options, vocab=8)
    expected = reference_beam(script, (A, EOS), 8, options, 6)
    assert [h.ids for h in found] == [list(ids) for _, ids in expected]
    assert [h.score for h in found] == pytest.approx([s for s, _ in expected])


def test_a_hypothesis_that_is_behind_may_still_win_by_its_length(scripted):
    """ln 0.6 / (7 / 6) = -0.44 is finished first; ln 0.4 / (10 / 6) = -0.55; squared -0.33."""
    script = table(
        start={"a": 0.6, "b": 0.4}, b={"c": 1.0}, bc={"c": 1.0}, bcc={"c": 1.0}, bccc={"end": 1.0}
    )
    for exponent, best, steps in ((1.0, [A], 5), (2.0, [B, C, C, C], 5), (0.0, [A], 2)):
        options = SearchOptions(beam=2, length_penalty=exponent)
        [[found]], model = run(scripted, script, [[A, EOS]], options)
        assert found.ids == best
        assert len(model.rows) == steps


def test_stops_as_soon_as_nothing_can_win(scripted):
    """After a sure end at step 2 every live hypothesis is hopeless: no further step is taken."""
    script = table(start={"a": 0.97, "b": 0.03}, a={"end": 0.98, "c": 0.02}, b={"c": 1.0})
    _, model = run(scripted, script, [[A, EOS]], SearchOptions(beam=3, length_penalty=0.0))
    assert len(model.rows) == 2


# ---- batches -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.lists(st.lists(st.integers(A, 8), min_size=0, max_size=5), min_size=1, max_size=6),
    beam=st.sampled_from([1, 2, 4]),
    sample=st.booleans(),
    data=st.data(),
)
def test_batch_mates_change_nothing(scripted, seed, rows, beam, sample, data):
    script = scripted.random_script(9, seed)
    options = SearchOptions(
        beam=beam, n_best=beam, sample=sample, max_length=8, max_length_ratio=1.0, seed=seed
    )
    rows = [[*row, EOS] for row in rows]
    prefix = [data.draw(st.lists(st.integers(A, 8), max_size=2)) for _ in rows]
    together, model = run(
        scripted, script, rows, options, 9, prefix=prefix, keys=list(range(len(rows)))
    )
    assert model.encoded == len(rows)  # once per sentence
    for i, row in enumerate(rows):
        [alone], _ = run(scripted, script, [row], options, 9, prefix=[prefix[i]], keys=[i])
        assert [(h.ids, h.finished) for h in alone] == [(h.ids, h.finished) for h in together[i]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[i]])
        assert all(h.ids[: len(prefix[i])] == prefix[i] for h in alone)


def test_greedy_takes_the_most_probable_token_of_each_step(scripted):
    script = scripted.random_script(9, seed=5)
    rows = [[A, EOS], [B, C, EOS], [C, C, C, EOS]]
    options = SearchOptions(beam=1, max_length=20, forbid_unk=True)
    found, _ = run(scripted, script, rows, options, 9)
    for row, [best] in zip(rows, found, strict=True):
        ids: list[int] = []
        for _ in range(20):
            gains = [-math.inf] * 3 + list(script(tuple(row), tuple(ids)))[3:]
            token = max(range(9), key=gains.__getitem__)
            if token == EOS:
                break
            ids.append(token)
        assert best.ids == ids


def test_finished_sentences_leave_the_batch(scripted):
    """Sentence n says n tokens: rows leave as they end, and there is one a sentence at first."""

    def script(source, prefix):
        p = [0.02] * 7
        p[EOS if len(prefix) >= len(source) - 1 else A] = 0.88
        return [math.log(x) for x in p]

    rows = [[A] * n + [EOS] for n in (1, 4, 2)]
    _, model = run(scripted, script, rows, SearchOptions(beam=1))
    assert model.rows == [3, 3, 2, 1, 1]
    _, model = run(scripted, script, rows, SearchOptions(beam=2, length_penalty=0.0))
    assert model.rows == [3, 6, 4, 2, 2]


# ---- constraints ---------------------------------------------------------------------------------


def loud(token, probability=0.9, vocab=7):
    """The same token is most probable for ever; the rest share what is left."""

    def script(source, prefix):
        p = [(1 - probability) / (vocab - 1)] * vocab
        p[token] = probability
        return [math.log(x) for x in p]

    return script


@pytest.mark.parametrize("token", [0, 2], ids=["pad", "bos"])
def test_padding_and_start_are_never_produced(scripted, token):
    [found], _ = run(
        scripted, loud(token), [[A, EOS]], SearchOptions(beam=4, n_best=4, max_length=5)
    )
    assert found
    assert all(token not in h.ids for h in found)


def test_unknown_is_forbidden_on_request(scripted):
    options = SearchOptions(beam=1, max_length=3)
    [[free]], _ = run(scripted, loud(1), [[A, EOS]], options)
    assert free.ids == [1, 1, 1]
    options = SearchOptions(beam=3, n_best=3, max_length=3, forbid_unk=True)
    [found], _ = run(scripted, loud(1), [[A, EOS]], options)
    assert found
    assert all(1 not in h.ids for h in found)


def test_minimum_length(scripted):
    [[best]], _ = run(scripted, loud(EOS), [[A, EOS]], SearchOptions(beam=2, min_length=4))
    assert len(best.ids) == 4
    assert best.finished


@pytest.mark.parametrize("beam", [1, 3])
def test_the_limit_forces_an_end_and_says_so(scripted, beam):
    [[best]], _ = run(scripted, loud(A), [[A, EOS]], SearchOptions(beam=beam, max_length=5))
    assert best.ids == [A] * 5
    assert not best.finished
    assert best.log_prob == pytest.approx(5 * math.log(0.9) + math.log(0.1 / 6), abs=1e-5)


def test_the_limit_follows_the_source(scripted):
    options = SearchOptions(beam=1, max_length=100, max_length_ratio=2.0)
    found, _ = run(scripted, loud(A), [[A, EOS], [A, A, A, EOS]], options)
    assert [len(h.ids) for [h] in found] == [2 * 2 + 10, 2 * 4 + 10]


def test_the_positions_the_model_knows_are_a_limit(scripted):
    model = scripted.Model(loud(A), 7, max_target_length=6)  # the start token takes one
    [[best]], _ = run(scripted, None, [[A, EOS]], SearchOptions(beam=2), model=model)
    assert len(best.ids) == 5
    with pytest.raises(UserError, match="6 tokens; the model knows 5"):
        run(scripted, None, [[A, EOS]], SearchOptions(), model=model, prefix=[[A] * 6])


def test_ending_exactly_at_the_limit_is_finished(scripted):
    def script(source, prefix):
        return loud(A if len(prefix) < 3 else EOS)(source, prefix)

    [[best]], _ = run(scripted, script, [[A, EOS]], SearchOptions(beam=1, max_length=3))
    assert (best.ids, best.finished) == ([A, A, A], True)


def test_a_forced_prefix_is_scored_and_overrides_what_is_forbidden(scripted):
    options = SearchOptions(beam=2, n_best=2, forbid_unk=True, max_length=4, no_repeat_ngram=1)
    prefix = [[B, 1, B], []]
    found, _ = run(scripted, loud(A), [[A, EOS], [B, EOS]], options, prefix=prefix)
    assert all(h.ids[:3] == [B, 1, B] for h in found[0])
    assert found[0][0].ids == [B, 1, B, A]
    few, much = math.log(0.1 / 6), math.log(0.9)
    assert found[0][0].log_prob == pytest.approx(4 * few + much, abs=1e-5)
    assert all(1 not in h.ids and h.ids.count(A) == 1 for h in found[1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), beam=st.integers(1, 3))
def test_no_ngram_comes_twice(scripted, seed, n, beam):
    script = scripted.random_script(7, seed, sharpness=3.0)
    options = SearchOptions(beam=beam, n_best=beam, no_repeat_ngram=n, min_length=2, max_length=12)
    [found], _ = run(scripted, script, [[A, EOS]], options)
    for h in found:
        grams = [tuple(h.ids[i : i + n]) for i in range(len(h.ids) - n + 1)]
        assert len(grams) == len(set(grams))


def test_blocking_takes_the_second_best_where_the_best_repeats(scripted):
    def script(source, prefix):
        p = [1e-6, 1e-6, 1e-6, 0.01, 0.6, 0.3, 0.08]
        return [math.log(x) for x in p]

    options = SearchOptions(beam=1, max_length=6, no_repeat_ngram=2)
    [[best]], _ = run(scripted, script, [[A, EOS]], options)
    # aa, then a again would repeat aa: b; ba, then aa and ab have been: c; ca, then only an end
    assert best.ids == [A, A, B, A, C, A]


def test_every_token_blocked_still_ends(scripted):
    options = SearchOptions(beam=1, min_length=9, max_length=9, no_repeat_ngram=1, forbid_unk=True)
    [[best]], _ = run(scripted, loud(A), [[A, EOS]], options)
    assert sorted(best.ids) == [A, B, C]


def test_a_model_of_nan_yields_an_empty_unfinished_hypothesis(scripted):
    [[best]], _ = run(scripted, lambda s, p: [math.nan] * 7, [[A, EOS]], SearchOptions(beam=3))
    assert best == Hypothesis([], -math.inf, -math.inf, finished=False)


# ---- sampling ------------------------------------------------------------------------------------


def test_sampling_from_the_top_one_is_greedy(scripted):
    script = scripted.random_script(9, seed=3)
    rows = [[A, EOS], [B, C, EOS]]
    greedy, _ = run(scripted, script, rows, SearchOptions(beam=1, max_length=9), 9)
    options = SearchOptions(sample=True, top_k=1, max_length=9)
    drawn, _ = run(scripted, script, rows, options, 9)
    assert [h.ids for [h] in drawn] == [h.ids for [h] in greedy]
    assert [h.log_prob for [h] in drawn] == pytest.approx([h.log_prob for [h] in greedy])


def draw(scripted, n=4000, **options):
    """First tokens of ``n`` samples from p = a 0.5, b 0.3, c 0.15, end 0.05."""

    def script(source, prefix):
        p = (
            [1e-30] * 3 + [0.05, 0.5, 0.3, 0.15]
            if not prefix
            else [1e-30] * 3 + [1.0] + [1e-30] * 3
        )
        return [math.log(x) for x in p]

    options = SearchOptions(sample=True, n_best=n, seed=1, **options)
    [found], _ = run(scripted, script, [[A, EOS]], options)
    assert len(found) == n
    counts = Counter(h.ids[0] if h.ids else EOS for h in found)
    return [counts[t] / n for t in (EOS, A, B, C)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.05, 0.5, 0.3, 0.15]),
        ({"top_k": 2}, [0, 0.625, 0.375, 0]),
        ({"top_p": 0.79}, [0, 0.625, 0.375, 0]),
        ({"top_p": 0.81}, [0, 0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95]),
        ({"temperature": 0.5}, [0.0025 / 0.365, 0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365]),
    ],
    ids=["plain", "top_k", "top_p", "top_p_more", "temperature"],
)
def test_frequencies_are_the_probabilities(scripted, options, expected):
    assert draw(scripted, **options) == pytest.approx(expected, abs=0.03)  # 3.8 sigma at 0.5


def test_samples_of_neighbouring_sentences_are_independent(scripted):
    """One draw for each of many sentences has the frequencies of many draws for one."""

    def script(source, prefix):
        p = [1e-30] * 3 + ([1.0, 1e-30, 1e-30, 1e-30] if prefix else [1e-30, 0.5, 0.3, 0.2])
        return [math.log(x) for x in p]

    found, _ = run(scripted, script, [[A, EOS]] * 3000, SearchOptions(sample=True, seed=7))
    counts = Counter(h.ids[0] for [h] in found)
    assert [counts[t] / 3000 for t in (A, B, C)] == pytest.approx([0.5, 0.3, 0.2], abs=0.035)


def test_the_score_of_a_sample_is_the_models_own(scripted):
    script = scripted.random_script(9, seed=3)
    options = SearchOptions(sample=True, n_best=5, temperature=2.0, top_k=3, max_length=6)
    [found], _ = run(scripted, script, [[A, EOS]], options, 9)
    for h in found:
        total = sum(
            script((A, EOS), tuple(h.ids[:t]))[token] for t, token in enumerate([*h.ids, EOS])
        )
        assert h.log_prob == pytest.approx(total)


# ---- parts ---------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(v=st.integers(1, 900), k=st.integers(1, 12), seed=st.integers(0, 1000))
def test_top_is_topk(v, k, seed):
    scores = torch.randn(3, v, generator=torch.Generator().manual_seed(seed))
    scores[:, ::3] = -torch.inf
    k = min(k, v)
    values, places = top(scores, k, block=16)
    expected = scores.topk(k)
    assert torch.equal(values, expected.values)
    assert torch.equal(scores.gather(1, places), expected.values)
    finite = values > -torch.inf
    assert torch.equal(places[finite], expected.indices[finite])


@pytest.mark.parametrize(
    "wrong",
    [
        {"beam": 0},
        {"n_best": 6},
        {"length_penalty": -1.0},
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_length": 9, "max_length": 8},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="search"):
        SearchOptions(**wrong)


def test_rows_that_a_sentence_may_take():
    assert SearchOptions(beam=3).hypotheses == 3
    assert SearchOptions(sample=True, n_best=7).hypotheses == 7


@given(seed=st.integers(0, 2**16), sentences=st.integers(1, 4), beam=st.integers(2, 6))
def test_a_child_takes_the_place_of_its_parent(seed: int, sentences: int, beam: int) -> None:
    """So that few rows of the cache move; nobody is lost or doubled."""
    generator = torch.Generator().manual_seed(seed)
    parent_BK = torch.randint(0, beam, (sentences, beam), generator=generator)
    order_BK = in_place(parent_BK)
    assert torch.equal(order_BK.sort(1).values, torch.arange(beam).expand(sentences, -1))
    for before, after in zip(
        parent_BK.tolist(), parent_BK.gather(1, order_BK).tolist(), strict=True
    ):
        assert all(after[place] == place for place in set(before))


@given(widths=st.lists(st.integers(0, 2), max_size=8))
def test_the_last_sentences_fill_the_places_of_those_that_are_over(widths: list[int]) -> None:
    places = going_on(widths)
    alive = [row for row, width in enumerate(widths) if width]
    assert sorted(places) == alive
    assert all(places[row] == row for row in alive if row < len(alive))
