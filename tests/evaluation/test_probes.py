"""Probes of length, pronouns, heads, masking and noise, on systems whose answers are known."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from nmt.config import AttentionConfig, ModelConfig, ModelKind, Score, Timing
from nmt.data.grammar import load_lexicon, words
from nmt.data.lexicon import Lexicon
from nmt.decoding.align import Explained
from nmt.decoding.translate import PairScore
from nmt.errors import UserError
from nmt.evaluation.probes import words as by_words
from nmt.evaluation.probes.heads import ablate, head_statistics
from nmt.evaluation.probes.length import length_effect
from nmt.evaluation.probes.masking import dependence, masking
from nmt.evaluation.probes.noise import HARMLESS, KINDS, Noisy, make_noisy, noise_effect
from nmt.evaluation.probes.pronouns import (
    AntecedentAttention,
    PronounPair,
    antecedent_attention,
    apart,
    pronoun_accuracy,
    pronoun_pairs,
    taught,
)
from nmt.evaluation.scores import sentence_chrf
from nmt.evaluation.statistics import kendall_tau, plain
from nmt.models.build import build_model
from nmt.models.heads import head_names

SENTENCES = [
    "The old king was really tired because he had crossed the wide river.",
    "Two dogs sleep.",
    "She says that the small red house near the church is not open today.",
    "Yes.",
]


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return load_lexicon(Path(__file__).parents[2] / "data" / "lexicon_en_fr.yaml")


@pytest.fixture(scope="module")
def pairs(lexicon: Lexicon) -> list[PronounPair]:
    return pronoun_pairs(lexicon, 20, 1)


def tokens(text: str) -> list[str]:
    """Every word two tokens, so that words and tokens are told apart."""
    found = []
    for word in words(text):
        cut = len(word) // 2
        found += ["▁" + word[:cut], word[cut:]] if cut else ["▁" + word]
    return [*found, "</s>"]


def explained(
    source: str, target: str, cross: torch.Tensor | None, encoder: torch.Tensor | None = None
) -> Explained:
    kinds = {"cross": cross, "encoder": encoder}
    norms = {
        k: torch.ones(w.shape[0], w.shape[1], w.shape[3]) for k, w in kinds.items() if w is not None
    }
    missing = {kind: f"no {kind} here" for kind, weights in kinds.items() if weights is None}
    return Explained(tokens(source), tokens(target), encoder, None, cross, missing, norms)


# ---- length --------------------------------------------------------------------------------------


def test_slope_on_length_is_that_of_a_loop() -> None:
    rng = random.Random(1)
    sources = [" ".join(["word"] * rng.randint(3, 15)) for _ in range(25)]
    references = ["abcd" * len(source.split()) for source in sources]
    second = [r[: len(r) - min(len(r) - 2, len(r) // 8)] for r in references]
    second = [r if rng.random() < 0.3 else s for r, s in zip(references, second, strict=True)]
    found = length_effect(sources, references, second, references, samples=50)
    ours = sentence_chrf(references, [references])
    theirs = sentence_chrf(second, [references])
    lengths = [len(source.split()) for source in sources]
    mean_length = sum(lengths) / 25
    mean = sum(a - b for a, b in zip(ours, theirs, strict=True)) / 25
    above = below = 0.0
    for length, a, b in zip(lengths, ours, theirs, strict=True):
        above += (length - mean_length) * (a - b - mean)
        below += (length - mean_length) ** 2
    assert found.slope.value == pytest.approx(above / below)
    assert found.mean.value == pytest.approx(mean)
    assert found.bootstrap.low < found.slope.value < found.bootstrap.high
    same = length_effect(sources, second, second, references, samples=50)
    assert (same.slope.value, same.mean.value) == (0.0, 0.0)
    assert json.loads(json.dumps(plain(found)))["lengths"] == lengths


# ---- pronouns ------------------------------------------------------------------------------------


def test_antecedents_switch_at_fixed_places(pairs: list[PronounPair]) -> None:
    for pair in pairs:
        one, two = words(pair.first.source), words(pair.second.source)
        assert one[pair.pronoun] == two[pair.pronoun] == "it"
        assert [i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b] == [
            len(one) - 2
        ]
        assert pair.first.antecedents[-1] == (pair.pronoun, pair.nouns[0])
        assert pair.second.antecedents[-1] == (pair.pronoun, pair.nouns[1])
    dev, test = apart([*pairs, pairs[0]], 8)
    assert (len(dev), len(test)) == (8, 12)


def test_what_a_corpus_teaches_of_pronouns(pairs: list[PronounPair], lexicon: Lexicon) -> None:
    """All sentences of pairs ask; one noun, one gender, a noun that comes later do not."""
    asked = [example for pair in pairs for example in (pair.first, pair.second)]
    found = taught([e.source for e in asked], [e.antecedents for e in asked], lexicon)
    assert (found.chosen, found.by_adjective) == (40, 40)
    others = {
        "The dog sleeps because it is tired.": (4, 1),
        "The dog sees the cat because it is tired.": (6, 1),
        "The dog is tired, but it saw the street.": (5, 1),
        "The dog crossed the street because he was tired.": (6, 1),
    }
    found = taught(list(others), [[places] for places in others.values()], lexicon)
    assert (found.chosen, found.by_adjective) == (0, 0)
    found = taught(["The dog crossed the street because it knew Paul."], [[(6, 1)]], lexicon)
    assert (found.chosen, found.by_adjective) == (1, 0)


def test_accuracy_of_systems_that_are_known(pairs: list[PronounPair]) -> None:
    right = {e.source: e.target for pair in pairs for e in (pair.first, pair.second)}
    perfect = pronoun_accuracy(pairs, lambda sources: [right[s] for s in sources])
    assert (perfect.accuracy.value, perfect.both.value, perfect.neither) == (1.0, 1.0, 0)
    always = pronoun_accuracy(pairs, lambda sources: ["Elle dort parce qu'il dort."] * len(sources))
    assert (always.accuracy.value, always.both.value) == (0.5, 0.0)
    silent = pronoun_accuracy(pairs, lambda sources: ["La ville dort."] * len(sources))
    assert (silent.right, silent.wrong, silent.neither) == (0, 0, 40)
    with pytest.raises(UserError, match="no pairs"):
        pronoun_accuracy([], lambda sources: [])


def test_attention_that_switches(pairs: list[PronounPair]) -> None:
    """Head 1 looks with 0.8 at the antecedent, 0.1 at the other noun; head 0 at both alike."""
    places = {
        example.source: (pair.pronoun, noun, other)
        for pair in pairs
        for example, noun, other in (
            (pair.first, *pair.nouns),
            (pair.second, *reversed(pair.nouns)),
        )
    }

    def explain(sources: Sequence[str], targets: Sequence[str]) -> list[Explained]:
        found = []
        for source, target in zip(sources, targets, strict=True):
            pieces = tokens(source)
            owner = [i for i, word in enumerate(words(source)) for _ in range(1 + (len(word) > 1))]
            encoder = torch.full((1, 2, len(pieces), len(pieces)), 0.01)
            pronoun, noun, other = places[source]
            for row in [p for p, o in enumerate(owner) if o == pronoun]:
                for word, weight in ((noun, 0.8), (other, 0.1)):
                    columns = [p for p, o in enumerate(owner) if o == word]
                    encoder[0, 1, row, columns] = weight / len(columns)
            found.append(explained(source, target, None, encoder))
        return found

    found = antecedent_attention(pairs, explain)
    assert found.best() == (0, 1)
    assert found.at(0, 1).value == pytest.approx(0.7, abs=1e-6)
    assert found.at(0, 0).value == pytest.approx(0.0, abs=1e-6)
    none = antecedent_attention(pairs, lambda s, t: [explained(a, b, None) for a, b in zip(s, t)])  # noqa: B905
    assert none == AntecedentAttention((), "no encoder here")
    with pytest.raises(UserError, match="no head looks at antecedents: no encoder here"):
        none.best()


# ---- heads ---------------------------------------------------------------------------------------


def test_head_that_looks_back_one_and_head_that_spreads() -> None:
    size = 5
    back = torch.zeros(size, size)
    back[range(1, size), range(size - 1)] = 1.0  # the first row looks at nothing
    even = torch.full((size, size), 1 / size)
    weights = torch.stack([back, even])[None]
    one = Explained(["a"] * size, ["b"] * size, weights, None, None, {})
    first, second = head_statistics([one, one])
    assert (first.name, second.name) == ("encoder.0.0", "encoder.0.1")
    assert (first.entropy, first.offset, first.distance) == (0.0, -1.0, 1.0)
    assert second.entropy == pytest.approx(math.log(size))
    assert second.offset == pytest.approx(0.0, abs=1e-6)
    loop = sum(abs(i - j) for i in range(size) for j in range(size)) / size**2
    assert second.distance == pytest.approx(loop)


def test_ablation_measures_each_head_alone() -> None:
    torch.manual_seed(1)
    model = build_model(
        ModelConfig(
            name="lstm",
            kind=ModelKind.lstm,
            width=8,
            embedding=6,
            encoder_layers=1,
            decoder_layers=1,
        ),
        AttentionConfig(score=Score.scaled_dot, timing=Timing.current, feeding=False, heads=2),
        9,
        9,
    )

    def quality() -> float:
        return float(len(model.decoder.attention.masked))

    found = ablate(model, quality)
    assert found.without == dict.fromkeys(head_names(model), 1.0)
    assert found.whole == 0.0
    assert list(ablate(model, quality, ["cross.0.1"]).without) == ["cross.0.1"]


# ---- masking -------------------------------------------------------------------------------------


def counting(sources: Sequence[str], targets: Sequence[str]) -> list[PairScore]:
    """A target is worth the letters of the words it shares with its source, 1 nat each."""
    shared = (
        {*s.lower().split()} & {*t.lower().split()} for s, t in zip(sources, targets, strict=True)
    )
    return [PairScore(float(sum(map(len, both))), 1) for both in shared]


def test_dependence_is_what_a_word_was_worth() -> None:
    """Of "big" and "elephant" the target has both; "ran" is not in it; "it" is the mask itself."""
    [found] = dependence(["big ran elephant it"], ["big elephant it"], counting, ["it"])
    assert found == [3.0, 0.0, 8.0, 0.0]
    [found] = dependence(["big it"], ["big it"], counting, ["it", "xy"])
    assert found == [3.0, 2.0]


def test_masks_keep_punctuation_and_capitals() -> None:
    seen: list[str] = []

    def score(sources: Sequence[str], targets: Sequence[str]) -> list[PairScore]:
        seen.extend(sources)
        return [PairScore(0.0, 1) for _ in sources]

    dependence(["(Dogs) sleep, - here."], ["x"], score, ["it"])
    assert seen[1:] == [
        *("(It) sleep, - here.", "(Dogs) it, - here."),
        *("(Dogs) sleep, - here.", "(Dogs) sleep, - it."),
    ]


def looking(importance: Callable[[list[str]], list[float]], norms: Sequence[float] = (1.0, 1.0)):
    """Head 0 spreads as told, head 1 the other way round; heads add as much as their norms."""

    def explain(sources: Sequence[str], targets: Sequence[str]) -> list[Explained]:
        found = []
        for source, target in zip(sources, targets, strict=True):
            wanted = torch.tensor(importance(source.split()))
            pieces = ["▁" + word for word in source.split()] + ["</s>"]
            row = torch.cat([wanted / wanted.sum(), torch.zeros(1)])
            back = torch.cat([row[:-1].flip(0), torch.zeros(1)])
            cross = torch.stack([row, back])[None, :, None, :].expand(1, 2, 3, -1)
            sizes = torch.tensor(norms)[None, :, None].expand(1, 2, len(pieces))
            found.append(Explained(pieces, [target], None, None, cross, {}, {"cross": sizes}))
        return found

    return explain


def test_attention_in_the_order_of_dependence() -> None:
    """Head 0 looks at long words, which is what the score depends on; it alone adds something."""
    sources = ["a dog elephants mouse", "three to one", "two of"]
    explain = looking(lambda line: [float(len(word)) for word in line], norms=(1.0, 0.0))
    found = masking(sources, sources, counting, explain, masks=["xyz"])
    assert found.weighted_taus == pytest.approx((1.0, 1.0))
    assert found.skipped == 1
    for source, tau in zip(sources, found.raw_taus, strict=False):
        sizes = [len(word) for word in source.split()]
        mixed = [a + b for a, b in zip(sizes, reversed(sizes), strict=True)]
        assert tau == pytest.approx(kendall_tau(mixed, sizes))
    assert found.difference is not None
    assert found.raw is not None
    assert found.difference.value == pytest.approx(
        sum(found.weighted_taus) / len(found.weighted_taus) - found.raw.value
    )


def test_masking_without_attention() -> None:
    explain = lambda s, t: [explained(a, b, None) for a, b in zip(s, t)]  # noqa: B905, E731
    found = masking(["a b c"], ["d"], counting, explain)
    assert (found.raw, found.missing) == (None, "no cross here")
    with pytest.raises(UserError, match="1 sources, but 0 translations"):
        masking(["a"], [], counting, explain)
    with pytest.raises(UserError, match="no cross attention to weigh: no cross here"):
        explained("a", "b", None).weighted("cross")


def test_shares_of_attention_by_word() -> None:
    """Three words of one to two tokens; norms double what goes to the last word."""
    source = "dogs can sleep"
    cross = torch.tensor([0.1, 0.2, 0.1, 0.1, 0.2, 0.2, 0.1]).expand(1, 1, 2, 7)
    one = explained(source, "x", cross)
    assert by_words.looked_at(one, source.split(), weighted=False) == pytest.approx([0.3, 0.2, 0.4])
    one.norms["cross"][..., 4:6] = 2.0
    shares = by_words.looked_at(one, source.split(), weighted=True)
    assert shares == pytest.approx([0.3 / 1.4, 0.2 / 1.4, 0.8 / 1.4])


# ---- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_noise_is_where_it_says(kind: str, share: float) -> None:
    lines = SENTENCES * 60
    made = make_noisy(lines, kind, share, vocabulary=["lemon"], seed=1)
    assert made == make_noisy(lines, kind, share, vocabulary=["lemon"], seed=1)
    assert made != make_noisy(lines, kind, share, vocabulary=["lemon"], seed=2)
    hits = 0
    for one in made:
        clean, noisy, control = (t.split() for t in (one.clean, one.noisy, one.control))
        assert len(one.noise_places) == len(one.control_places)
        assert len(control) == len(clean) + len(one.control_places)
        assert all(control[p].rstrip(".") in HARMLESS for p in one.control_places)
        hits += len(one.noise_places)
        if kind == "typos":
            changed = [i for i, (a, b) in enumerate(zip(clean, noisy, strict=True)) if a != b]
            assert tuple(changed) == one.noise_places
            continue
        bare = [w.rstrip(".") for w in clean]
        left = [w.rstrip(".") for i, w in enumerate(noisy) if i not in one.noise_places]
        assert left == bare
        for place in one.noise_places:
            if kind == "random":
                assert noisy[place] == "lemon"
            else:
                assert noisy[place].rstrip(".") == noisy[place - 1].rstrip(".")
        assert noisy[0].rstrip(".") == bare[0]
    all_words = sum(len(line.split()) for line in lines)
    assert hits / all_words == pytest.approx(share, rel=0.3)


def test_adverbs_stand_where_they_may() -> None:
    """After "was", before "because", and what is left at the end."""
    line = "The old king was tired because he slept."
    [one] = make_noisy([line], "repetitions", 0.5, harmless=["really"])
    assert one.control == "The old king was really tired really because he slept really really."
    assert one.control_places == (4, 6, 10, 11)


def test_noise_that_cannot_be() -> None:
    for kind, share, message in (
        ("smudge", 0.1, "unknown noise 'smudge': choose random, typos, repetitions"),
        ("random", 0.1, "needs a vocabulary"),
        ("typos", 0.0, "choose a share above 0"),
    ):
        with pytest.raises(UserError, match=message):
            make_noisy(["a b"], kind, share)
    with pytest.raises(UserError, match="no sentence has noise in it"):
        noise_effect([Noisy("a", "a", "a", (), ())], ["a"], list)


def test_random_words_bring_no_punctuation() -> None:
    """Harmless words bring none either: what is compared is words."""
    whole = make_noisy(
        SENTENCES * 5, "random", 0.2, vocabulary=["lemon.", "“lemon]", "?", "–"], seed=3
    )
    assert whole == make_noisy(SENTENCES * 5, "random", 0.2, vocabulary=["lemon"], seed=3)
    with pytest.raises(UserError, match="needs a vocabulary"):
        make_noisy(["a b"], "random", 0.1, vocabulary=["?", "…"])


def test_noise_beyond_the_control() -> None:
    """A system that copies, but leaves out harmless words: the control costs it nothing."""
    made = make_noisy(SENTENCES * 5, "random", 0.2, vocabulary=["lemon"], seed=3)
    references = [one.clean for one in made]

    def translate(sources: Sequence[str]) -> list[str]:
        return [re.sub(rf" (?:{'|'.join(HARMLESS)})\b", "", s) for s in sources]

    def explain(sources: Sequence[str], targets: Sequence[str]) -> list[Explained]:
        return looking(lambda line: [5.0 if w == "lemon" else 1.0 for w in line], (1.0, 0.0))(
            sources, targets
        )

    found = noise_effect(made, references, translate, explain)
    kept = [one for one in made if one.noise_places]
    wanted = [one.clean for one in kept]
    assert found.sentences == len(kept)
    loss = [
        a - b
        for a, b in zip(
            sentence_chrf(translate([one.control for one in kept]), [wanted]),
            sentence_chrf(translate([one.noisy for one in kept]), [wanted]),
            strict=True,
        )
    ]
    assert found.beyond.value == pytest.approx(sum(loss) / len(loss))
    assert found.beyond.low > 0
    masses = [
        5 * len(one.noise_places) / (len(one.noisy.split()) + 4 * len(one.noise_places))
        for one in kept
    ]
    assert found.noise_mass == pytest.approx(sum(masses) / len(masses), abs=1e-5)
    assert found.control_mass == pytest.approx(found.control_words, abs=1e-5)
    assert noise_effect(made, references, translate).noise_mass is None
