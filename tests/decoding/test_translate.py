"""Text in, text out: nothing lost, nothing moved, nothing made up."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer, Tokenizers
from nmt.decoding.lines import read_lines
from nmt.decoding.parts import split_long
from nmt.decoding.search import SearchOptions
from nmt.decoding.translate import (
    PairScore,
    score_ids,
    score_pairs,
    translate,
    translate_stream,
    validation_loss,
)
from nmt.errors import UserError

TEXT = [
    "A dog runs in the park.",
    "Two men are talking; one of them laughs, the other does not.",
    "Is this the house? No, that is the house!",
    "Un chien court dans le parc, et l'été vient.",
    "犬が走る。猫は寝る。",
]
SHORT = SearchOptions(beam=1, max_length=400)


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    joint = Tokenizer.train(TEXT * 20, model_type="bpe", vocab_size=360, byte_fallback=True)
    return Tokenizers(joint, joint)


def copying(vocab):
    """Says the source again, token by token, then ends."""

    def script(source, prefix):
        logits = [0.0] * vocab
        logits[source[len(prefix)] if len(prefix) < len(source) else EOS] = 20.0
        normaliser = math.log(vocab - 1 + math.exp(20.0))
        return [x - normaliser for x in logits]

    return script


@pytest.fixture(scope="module")
def copier(scripted, tokenizers):
    return scripted.Model(copying(tokenizers.target.size), tokenizers.target.size)


# ---- order and number of lines -------------------------------------------------------------------

EXOTIC = [
    "",
    " ",
    "\t \u00a0",
    "a\u2028b",
    "\x00",
    "été",
    "日本",
    "\ud800",
    "\u200b",
    "<unk>",
    "</s>",
    "▁",
]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lines=st.lists(st.one_of(st.text(max_size=30), st.sampled_from(EXOTIC + TEXT)), max_size=12),
    batch_tokens=st.sampled_from([1, 40, 8000]),
    beam=st.sampled_from([1, 2]),
)
def test_as_many_lines_out_as_in_and_in_order(copier, tokenizers, lines, batch_tokens, beam):
    options = SearchOptions(beam=beam, max_length=400)
    found = translate(copier, tokenizers, lines, options, batch_tokens=batch_tokens)
    assert [t.source for t in found] == lines
    for line, translation in zip(lines, found, strict=True):
        assert "\n" not in translation.text
        assert "\r" not in translation.text
        if not line.strip():
            assert translation.text == ""
            assert translation.n_best[0].finished
    text = "".join(t.text + "\n" for t in found).encode()
    assert len(read_lines(io.BytesIO(text))) == len(lines)


def test_copies_come_back_word_for_word_whatever_the_batches(copier, tokenizers):
    for batch_tokens in (1, 30, 10_000):
        found = translate(copier, tokenizers, TEXT, SHORT, batch_tokens=batch_tokens)
        assert [t.text for t in found] == TEXT
        assert all(t.pieces == t.source_pieces and t.parts == 1 for t in found)
        assert all(t.tokens == len(t.ids) + 1 for t in found)


def test_no_batch_is_above_the_budget(scripted, tokenizers):
    model = scripted.Model(copying(tokenizers.target.size), tokenizers.target.size)
    widths = []
    encode = model.encode

    def spy(source):
        widths.append(tuple(source.ids_BS.shape))
        return encode(source)

    model.encode = spy
    translate(model, tokenizers, TEXT * 3, SearchOptions(beam=2, max_length=9), batch_tokens=120)
    assert sum(rows for rows, _ in widths) == len(TEXT) * 3  # each sentence encoded once
    assert all(rows == 1 or rows * width * 2 <= 120 for rows, width in widths)
    assert [width for _, width in widths] == sorted((w for _, w in widths), reverse=True)


def test_empty_lines_never_reach_the_model(scripted, tokenizers):
    model = scripted.Model(copying(tokenizers.target.size), tokenizers.target.size)
    found = translate(model, tokenizers, ["", "  ", "\u2003"], SearchOptions())
    assert [t.text for t in found] == ["", "", ""]
    assert model.encoded == 0
    assert translate(model, tokenizers, [], SearchOptions()) == []


def test_a_line_break_that_the_model_spells_is_a_space(scripted, tokenizers):
    newline = tokenizers.target.encode(["a\nb"])[0]
    assert tokenizers.target.decode(newline) == "a\nb"

    def script(source, prefix):
        logits = [-50.0] * tokenizers.target.size
        logits[newline[len(prefix)] if len(prefix) < len(newline) else EOS] = 0.0
        return logits

    model = scripted.Model(script, tokenizers.target.size)
    [translation] = translate(model, tokenizers, ["x"], SHORT)
    assert translation.text == "a b"


def test_n_best_and_prefix(copier, tokenizers):
    options = SearchOptions(beam=4, n_best=3, max_length=60)
    [found] = translate(copier, tokenizers, ["A dog runs."], options, prefixes=["Two"])
    assert len(found.n_best) == 3
    assert all(c.text.startswith("Two") for c in found.n_best)
    assert [c.score for c in found.n_best] == sorted((c.score for c in found.n_best), reverse=True)
    assert (found.text, found.score) == (found.n_best[0].text, found.n_best[0].score)
    with pytest.raises(UserError, match="2 lines, but 1 prefixes"):
        translate(copier, tokenizers, ["a", "b"], options, prefixes=["x"])


def test_samples_depend_on_the_line_number_only(scripted, tokenizers):
    script = scripted.random_script(tokenizers.target.size, seed=1, sharpness=1.0)
    model = scripted.Model(script, tokenizers.target.size)
    options = SearchOptions(sample=True, seed=3, max_length=5)
    whole = translate(model, tokenizers, TEXT, options)
    again = translate(model, tokenizers, TEXT, options, batch_tokens=1)
    tail = translate(model, tokenizers, TEXT[2:], options, first_line=3)
    assert [t.text for t in whole] == [t.text for t in again]
    assert [t.text for t in whole[2:]] == [t.text for t in tail]
    other = translate(model, tokenizers, TEXT, SearchOptions(sample=True, seed=4, max_length=5))
    assert [t.text for t in whole] != [t.text for t in other]


def test_translations_cut_off_by_the_limit_are_reported_once(copier, tokenizers):
    said: list[str] = []
    options = SearchOptions(beam=1, max_length=3)
    found = translate(copier, tokenizers, [*TEXT, ""], options, first_line=11, report=said.append)
    assert [t.truncated for t in found] == [True] * 5 + [False]
    assert len(said) == 1
    assert "5 of 6" in said[0]
    assert "line 11, 12" in said[0]


# ---- long input ----------------------------------------------------------------------------------


def test_a_long_line_is_split_at_sentence_ends_and_joined(copier, tokenizers):
    said: list[str] = []
    line = " ".join(TEXT[:3])
    [whole] = translate(copier, tokenizers, [line], SHORT, report=said.append)
    assert not said
    [parts] = translate(copier, tokenizers, [line], SHORT, max_input=40, report=said.append)
    assert whole.text == parts.text == line
    assert parts.parts == 4  # "Is this the house?" is a sentence
    assert len(said) == 1
    assert "line 1 has" in said[0]
    assert parts.tokens == len(parts.ids) + 4
    assert parts.score == pytest.approx(parts.log_prob / ((5 + parts.tokens) / 6))


def test_what_the_model_knows_is_a_limit_too(scripted, tokenizers):
    model = scripted.Model(copying(tokenizers.target.size), tokenizers.target.size)
    model.max_source_length = 8
    model.max_target_length = 20
    [found] = translate(model, tokenizers, [TEXT[1]], SHORT, report=lambda message: None)
    assert found.parts > 1
    assert found.text.replace(" ", "") == TEXT[1].replace(" ", "")


def test_parts_of_a_long_line_add_their_coverage(scripted, tokenizers):
    """Every token of the source has half of all attention: each costs b log 0.5."""

    def looks(source, prefix):
        return np.full((1, 1, len(source)), 0.5 / (len(source)))

    size = tokenizers.target.size
    model = scripted.Model(copying(size), size, looks=looks)
    options = replace(SHORT, coverage_penalty=0.1)
    [found] = translate(model, tokenizers, [" ".join(TEXT[:3])], options, max_input=40)
    assert found.parts > 1
    plain = found.log_prob / ((5 + found.tokens) / 6)
    cost = 0.1 * math.log(0.5) * (found.tokens - found.parts)
    assert found.score == pytest.approx(plain + cost, abs=1e-6)


def test_parts_of_a_language_without_spaces(copier, tokenizers):
    [found] = translate(
        copier, tokenizers, [TEXT[4]], SHORT, max_input=7, joiner="", report=lambda message: None
    )
    assert found.text == TEXT[4]
    assert found.parts > 1


@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="ab.,! ;。été\u00a0", max_size=200), limit=st.sampled_from([1, 4, 16]))
def test_splitting_loses_nothing_and_fits(tokenizers, text, limit):
    parts = split_long(text, tokenizers.source, limit)
    assert all(0 < len(part) <= limit for part in parts)
    said = "".join(tokenizers.source.decode([i for part in parts for i in part]).split())
    assert said == "".join(tokenizers.source.decode(tokenizers.source.encode([text])[0]).split())


def test_a_word_of_a_hundred_thousand_letters(tokenizers):
    parts = split_long("ab" * 50_000, tokenizers.source, 399)
    assert max(map(len, parts)) <= 399
    assert "".join(tokenizers.source.decode(part) for part in parts) == "ab" * 50_000


# ---- streams -----------------------------------------------------------------------------------


def test_a_stream_is_answered_as_it_comes(copier, tokenizers):
    taken = []

    def chunks():
        for number, chunk in enumerate([["A dog", ""], ["in the park"]]):
            taken.append(number)
            yield chunk

    answers = translate_stream(copier, tokenizers, chunks(), SHORT)
    assert next(answers).text == "A dog"
    assert taken == [0]
    assert [t.text for t in answers] == ["", "in the park"]


def test_warnings_of_a_stream_count_lines_from_its_start(copier, tokenizers):
    said: list[str] = []
    chunks = [["a"], ["a"], [TEXT[1]]]
    options = SearchOptions(beam=1, max_length=4)
    list(translate_stream(copier, tokenizers, chunks, options, report=said.append))
    assert len(said) == 1
    assert "line 3)" in said[0]


# ---- modes and scores ----------------------------------------------------------------------------


def test_the_model_is_in_evaluation_mode_and_then_as_before(copier, tokenizers):
    seen = []
    copier.train()
    encode = copier.encode
    copier.encode = lambda source: (seen.append(copier.training), encode(source))[1]
    try:
        translate(copier, tokenizers, ["a"], SHORT)
    finally:
        copier.encode = encode
    assert seen == [False]
    assert copier.training
    copier.eval()


class Bigram(torch.nn.Module):
    """log P(next | last) from a table: a model whose scores can be added up by hand."""

    max_source_length = None
    max_target_length = None

    def __init__(self, vocab):
        super().__init__()
        self.table = torch.nn.Parameter(
            torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, source, tgt_BT):
        return self.table[tgt_BT]

    def project(self, hidden):
        return hidden


def test_scores_are_sums_over_the_tokens_and_the_end():
    model = Bigram(9)
    log_probs = model.table.detach().log_softmax(-1)
    rows = [[4, 5], [], [8, 8, 8, 7]]
    expected = []
    for row in rows:
        path = [BOS, *row, EOS]
        expected.append(sum(float(log_probs[a, b]) for a, b in itertools.pairwise(path)))
    for batch_tokens in (1, 1000):
        found = score_ids(model, [[4], [5, 6, 7], [4]], rows, batch_tokens=batch_tokens)
        assert [s.log_prob for s in found] == pytest.approx(expected, abs=1e-5)
        assert [s.tokens for s in found] == [3, 1, 5]
    assert found[0].mean == pytest.approx(expected[0] / 3)
    total, tokens = validation_loss(model, [[4], [5, 6, 7], [4]], rows)
    assert (total, tokens) == (pytest.approx(-sum(expected), abs=1e-5), 9)
    assert score_ids(model, [], []) == []


def test_scoring_refuses_what_does_not_pair_up_or_fit(tokenizers):
    model = Bigram(tokenizers.target.size)
    with pytest.raises(UserError, match="2 sources, but 1 targets"):
        score_pairs(model, tokenizers, ["a", "b"], ["c"])
    model.max_target_length = 3
    with pytest.raises(UserError, match=r"pair 2: the target has .* knows 2"):
        score_pairs(model, tokenizers, ["a", "b"], ["a", "A dog runs in the park."])


def test_special_ids_are_those_of_the_tokenizer(scripted):
    assert scripted.special == {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS}
    assert PairScore(-6.0, 3).mean == -2.0
