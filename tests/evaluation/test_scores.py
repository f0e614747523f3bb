"""Scores are sacreBLEU's own, carry their signature, and refuse what would make them wrong."""

from __future__ import annotations

import json
import random
import sys

import pytest
import sacrebleu

from nmt.errors import UserError
from nmt.evaluation.scores import (
    LENGTH_NOTE,
    append_record,
    bleu_tokenizer,
    by_length,
    length_table,
    looks_tokenised,
    score,
    sentence_chrf,
    tok_bleu_lc,
)

TEXT = "The dog ran home quickly , while my old cat slept under that big green tree again"
WORDS = TEXT.split()


def corpus(lines=60, seed=0):
    rng = random.Random(seed)
    references = [" ".join(rng.sample(WORDS, rng.randint(4, 14))) + "." for _ in range(lines)]
    hypotheses = [
        " ".join(w for w in line.split() if rng.random() > 0.15) or "x" for line in references
    ]
    second = [line.replace("old", "aged") for line in references]
    return hypotheses, [references, second]


def silent(message):
    raise AssertionError(message)


def test_numbers_are_sacrebleus_own():
    hypotheses, references = corpus()
    found = score(hypotheses, references, target_language="fr", report=lambda message: None)
    assert found["bleu"].score == sacrebleu.corpus_bleu(hypotheses, references).score
    assert found["chrf"].score == sacrebleu.corpus_chrf(hypotheses, references).score
    assert found["ter"].score == sacrebleu.corpus_ter(hypotheses, references).score
    assert list(found) == ["bleu", "chrf", "ter"]


def test_bleu_by_hand():
    """13a: 5 tokens; precisions 4/5, 2/4, 1/3, then exponential smoothing 1/(2*2); no penalty."""
    found = score(["a b c x d"], [["a b c y d"]], target_language="en", metrics=["bleu"])
    assert found["bleu"].score == pytest.approx(
        100 * (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25, abs=1e-9
    )


def test_signatures_say_how():
    hypotheses, references = corpus()
    found = score(hypotheses, references, target_language="fr", report=lambda message: None)
    signature = found["bleu"].signature
    for part in ("nrefs:2", "bs:1000", "seed:12345", "case:mixed", "tok:13a", "smooth:exp"):
        assert part in signature
    assert f"version:{sacrebleu.__version__}" in signature
    assert str(found["bleu"]).startswith(f"bleu {found['bleu'].score:.2f} [")
    assert "nc:6|nw:0" in found["chrf"].signature
    assert json.loads(json.dumps(found["ter"].to_dict()))["name"] == "ter"


def test_intervals_hold_the_score_are_seeded_and_can_be_left_out():
    hypotheses, references = corpus(200)
    quiet = {"target_language": "en", "report": lambda message: None}
    first = score(hypotheses, references, **quiet)
    assert first == score(hypotheses, references, **quiet)
    for found in first.values():
        assert found.low < found.score < found.high
    plain = score(hypotheses, references, samples=0, **quiet)["bleu"]
    assert (plain.low, plain.high) == (None, None)
    assert plain.score == first["bleu"].score
    assert "bs:" not in plain.signature
    alone = score(["one sentence and no more"], [["one sentence and no more"]], **quiet)["bleu"]
    assert (alone.score, alone.low) == (pytest.approx(100), None)


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("en", "13a"), ("zh", "zh"), ("zh-CN", "zh"), ("ZH_Hant", "zh"), ("ja", "ja-mecab"),
     ("ko", "ko-mecab"), ("jpn", "ja-mecab"), ("pt-br", "13a")],
)  # fmt: skip
def test_the_tokenizer_follows_the_target_language(language, tokenizer):
    assert bleu_tokenizer(language) == tokenizer


def test_chinese_is_scored_by_characters():
    hypotheses, references = ["我喜欢红色的苹果。"] * 3, [["我喜欢绿色的苹果。"] * 3]
    wrong = sacrebleu.corpus_bleu(hypotheses, references).score
    found = score(hypotheses, references, target_language="zh")
    assert found["bleu"].score == sacrebleu.corpus_bleu(hypotheses, references, tokenize="zh").score
    assert found["bleu"].score > wrong + 20
    assert "tok:zh" in found["bleu"].signature
    assert "asian:yes" in found["ter"].signature
    assert 0 < found["ter"].score < 20


def test_japanese_is_scored_with_mecab():
    pytest.importorskip("MeCab")
    found = score(["犬が走る。"], [["犬が走る。"]], target_language="ja", metrics=["bleu"])
    assert "tok:ja-mecab" in found["bleu"].signature


def test_without_mecab_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", None)
    with pytest.raises(UserError, match=r"nmt\[cjk\]"):
        score(["犬"], [["犬"]], target_language="ja", metrics=["bleu"])


def test_lower_cased_bleu_of_tokenised_text_has_another_name():
    hypotheses, references = (
        ["The Dog runs , fast .", "a b c d"],
        [["the dog runs , fast .", "a b c d"]],
    )
    found = tok_bleu_lc(hypotheses, references, samples=0)
    assert (found.name, found.score) == ("tok_bleu_lc", pytest.approx(100))
    assert "case:lc" in found.signature
    assert "tok:none" in found.signature


@pytest.mark.parametrize(
    "lines",
    [
        ["A dog runs .", "Yes , he does ."],
        ["the ta@@ ble is gre@@ en"],
        ["l &apos; homme"],
        ["▁the ▁dog"],
        ["A dog runs .", "no stop here"],
    ],
)
def test_tokenised_text_is_noticed(lines):
    assert looks_tokenised(lines)
    said = []
    score(lines, [["A dog runs."] * len(lines)], target_language="en", report=said.append)
    assert len(said) == 1
    assert "hypotheses look tokenised" in said[0]
    said = []
    score(["A dog runs."] * len(lines), [lines], target_language="en", report=said.append)
    assert "references look tokenised" in said[0]


def test_ordinary_text_is_not_taken_for_tokenised():
    lines = ["A dog runs.", "Vraiment ? Oui !", "It costs 3.50, or so…", "He said: yes.", "a"]
    assert looks_tokenised(lines) is None
    score(lines, [lines], target_language="en", report=silent)


def test_counts_must_agree():
    with pytest.raises(UserError, match="2 hypotheses, but reference 2 has 1 lines"):
        score(["a", "b"], [["a", "b"], ["a"]], target_language="en")
    with pytest.raises(UserError, match="nothing to score"):
        score([], [[]], target_language="en")
    with pytest.raises(UserError, match="nothing to score"):
        tok_bleu_lc(["a"], [])
    with pytest.raises(UserError, match="unknown metric 'meteor'; known are bleu"):
        score(["a"], [["a"]], target_language="en", metrics=["meteor"])


def test_sentence_chrf():
    hypotheses, references = corpus(5)
    expected = [
        sacrebleu.sentence_chrf(h, list(r)).score
        for h, *r in zip(hypotheses, *references, strict=True)
    ]
    assert sentence_chrf(hypotheses, references) == expected


def test_table_by_length():
    hypotheses, references = corpus(80)
    sources = references[0]
    buckets = by_length(sources, hypotheses, references, target_language="en", edges=(5, 9))
    assert sum(b.sentences for b in buckets) == 80
    assert [(b.low, b.high) for b in buckets] == [(0, 5), (6, 9), (10, None)]
    middle = [i for i, s in enumerate(sources) if 6 <= len(s.split()) <= 9]
    expected = sacrebleu.corpus_bleu(
        [hypotheses[i] for i in middle], [[r[i] for i in middle] for r in references]
    )
    assert buckets[1].bleu == expected.score
    assert buckets[1].sentences == len(middle)
    text = length_table(buckets)
    assert LENGTH_NOTE in text
    assert "10+" in text
    assert [b.low for b in by_length(sources, hypotheses, references, target_language="en")] != []
    with pytest.raises(UserError):
        by_length(sources[:-1], hypotheses, references, target_language="en")


def test_records_are_kept_one_for_each_identity(tmp_path):
    path = tmp_path / "scores.json"
    keys = ["split", "checkpoint"]
    append_record(path, {"split": "test", "checkpoint": "best", "bleu": 1.0}, keys)
    append_record(path, {"split": "test", "checkpoint": "last", "bleu": 2.0}, keys)
    append_record(path, {"split": "test", "checkpoint": "best", "bleu": 3.0, "text": "é"}, keys)
    records = json.loads(path.read_text(encoding="utf-8"))
    assert [(r["checkpoint"], r["bleu"]) for r in records] == [("last", 2.0), ("best", 3.0)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.json"]
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        append_record(path, {}, keys)
