"""The tests are sacreBLEU's; where its p-values mislead, the true ones."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from nmt.errors import UserError
from nmt.evaluation.significance import bleu_difference, largest_losses, paired_tests
from nmt.evaluation.statistics import bootstrap

WORDS = [
    "a",
    "the",
    "dog",
    "cat",
    "house",
    "sees",
    "runs",
    "near",
    "old",
    "big",
    "tree",
    "under",
    "and",
]
RANDOM = random.Random(1)
REFERENCES = [" ".join(RANDOM.choices(WORDS, k=9)) + "." for _ in range(40)]


def spoilt(share: float, seed: int) -> list[str]:
    """The references with so many of their words replaced."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < share else word for word in line.split())
        for line in REFERENCES
    ]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_they_are_those_of_sacrebleu(name: str) -> None:
    baseline, systems = spoilt(0.4, 1), [spoilt(0.4, 2), spoilt(0.1, 3)]
    found = paired_tests(
        baseline,
        systems,
        [REFERENCES],
        target_language="fr",
        metrics=[name],
        samples=200,
        trials=300,
    )
    metric = {"bleu": BLEU(), "chrf": CHRF()}[name]
    named = [("baseline", baseline), ("one", systems[0]), ("other", systems[1])]
    p = {}
    for kind, count in (("bs", 200), ("ar", 300)):
        _, results = PairedTest(named, {"x": metric}, [REFERENCES], kind, count)()
        p[kind] = [r.p_value for key, rows in results.items() if key != "System" for r in rows[1:]]
    assert [one[name].bootstrap for one in found] == p["bs"]
    assert [one[name].randomisation for one in found] == pytest.approx(p["ar"], abs=1e-9)
    exact = [metric.corpus_score(lines, [REFERENCES]).score for lines in (baseline, *systems)]
    assert [one[name].score for one in found] == exact[1:]
    assert [one[name].difference for one in found] == [e - exact[0] for e in exact[1:]]
    assert found[0][name].randomisation > 0.01 > found[1][name].randomisation


def test_the_interval_of_a_difference_draws_the_same_sentences_for_both() -> None:
    """Corpus scores of drawn sentences by sacreBLEU itself; two references."""
    baseline, system, other = spoilt(0.4, 1), spoilt(0.3, 2), spoilt(0.1, 4)
    references = [REFERENCES, other]

    def apart(rows: np.ndarray) -> float:
        drawn = [[lines[i] for i in rows] for lines in (system, baseline, *references)]
        ours, theirs = (BLEU().corpus_score(lines, drawn[2:]).score for lines in drawn[:2])
        return float(ours - theirs)

    found = bleu_difference(system, baseline, references, target_language="fr", samples=60)
    expected = bootstrap(apart, len(system), samples=60)
    assert found.value == pytest.approx(apart(np.arange(len(system))), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.low < found.value < found.high
    same = bleu_difference(system, system, references, target_language="fr", samples=9)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_identical_systems_do_not_differ() -> None:
    """sacreBLEU gives them p = 1 / (trials + 1)."""
    lines = spoilt(0.3, 1)
    options = {"target_language": "fr", "metrics": ["bleu"], "samples": 50, "trials": 50}
    one = paired_tests(lines, [list(lines)], [REFERENCES], **options)[0]["bleu"]
    assert (one.difference, one.bootstrap, one.randomisation) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("differing", [1, 3])
def test_few_differing_sentences_against_all_shuffles_there_are(differing: int) -> None:
    baseline = spoilt(0.3, 1)
    system = [*spoilt(0.25, 5)[:differing], *baseline[differing:]]
    assert all(a != b for a, b in zip(baseline[:differing], system[:differing], strict=True))
    metric = CHRF()

    def gap(swapped: tuple[bool, ...]) -> float:
        pairs = list(zip(baseline[:differing], system[:differing], strict=True))
        one = [b if swap else a for (a, b), swap in zip(pairs, swapped, strict=True)]
        other = [a if swap else b for (a, b), swap in zip(pairs, swapped, strict=True)]
        rest = baseline[differing:]
        scores = [metric.corpus_score(s + rest, [REFERENCES]).score for s in (one, other)]
        return abs(scores[0] - scores[1])

    gaps = [gap(swapped) for swapped in itertools.product((False, True), repeat=differing)]
    exact = sum(value >= gaps[0] - 1e-9 for value in gaps) / len(gaps)
    found = paired_tests(
        baseline,
        [system],
        [REFERENCES],
        target_language="fr",
        metrics=["chrf"],
        samples=20,
        trials=800,
    )
    assert found[0]["chrf"].randomisation == pytest.approx(exact, abs=0.05)


def test_the_tokenizer_is_that_of_the_language() -> None:
    """Chinese without its tokenizer is one word a sentence, and no two systems share any."""
    references = ["我喜欢猫。", "你好吗?"]
    found = paired_tests(
        ["我喜欢狗。", "你好。"],
        [["我喜欢猫。", "你好。"]],
        [references],
        target_language="zh",
        metrics=["bleu"],
        samples=20,
        trials=20,
    )
    assert (
        found[0]["bleu"].score
        == BLEU(tokenize="zh").corpus_score(["我喜欢猫。", "你好。"], [references]).score
    )


def test_lines_must_pair() -> None:
    with pytest.raises(UserError, match="39 hypotheses, but reference 1 has 40"):
        paired_tests(
            REFERENCES, [REFERENCES[:-1]], [REFERENCES], target_language="fr", metrics=["bleu"]
        )


@pytest.mark.parametrize("metric", ["chrf", "bleu", "ter"])
def test_largest_losses_come_first(metric: str) -> None:
    references = ["the old dog sees a cat", "a big house", "the tree", "one two three four"]
    baseline = ["the old dog sees a cat", "a big house", "a tree", "one two three four"]
    system = ["the old dog sees a rat", "nothing at all", "the tree", "one two three four"]
    found = largest_losses(
        baseline, system, [references], target_language="en", metric=metric, count=2
    )
    assert [one.number for one in found] == [1, 0]
    alone = {"chrf": CHRF(), "bleu": BLEU(effective_order=True)}.get(metric)
    if alone is not None:
        score = alone.sentence_score(system[1], [references[1]]).score
        assert (found[0].baseline, found[0].score) == (pytest.approx(100.0), score)
        assert found[0].difference == pytest.approx(score - 100.0)
    everything = largest_losses(
        baseline, system, [references], target_language="en", metric=metric, count=9
    )
    assert [one.number for one in everything] == [1, 0, 2], "equal translations are left out"
