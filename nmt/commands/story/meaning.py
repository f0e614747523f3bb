"""The measurements of claims 5, 8 and 12: negation, pronouns, and what attention explains."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmt.commands.story.alignment import with_alignment
from nmt.commands.story.bench import Bench, over_seeds
from nmt.commands.story.measures import Numbers, intervals, learnt
from nmt.commands.story.panels import by_category, name_of, points, shown, table, times
from nmt.config import Source, resource
from nmt.data.grammar import load_lexicon
from nmt.evaluation.claims import BY_NUMBER, NEGATED
from nmt.evaluation.probes.contrastive import (
    Contrastive,
    ContrastiveItem,
    compare,
    contrastive,
    grammar_items,
    half_affirmative,
    read_negation,
    shuffled_sources,
)
from nmt.evaluation.probes.cues import find_cues, has_rules
from nmt.evaluation.probes.masking import Masking, masking
from nmt.evaluation.probes.negation import negation_kept
from nmt.evaluation.probes.pronouns import (
    PronounPair,
    antecedent_attention,
    apart,
    pronoun_accuracy,
    pronoun_pairs,
    taught,
)
from nmt.evaluation.statistics import Interval, plain

LEXICON = "lexicon_en_fr.yaml"
PAIRS = 400
"""Minimal pairs of a probe."""
TAUGHT = 400
"""Training pairs with *it* as *il* or *elle* from which on a corpus teaches them."""
SATURATED = 0.95
"""Contrastive accuracy without attention that leaves no room for attention's."""
GUESSED = 0.25
"""Pairs with both pronouns right if each is guessed."""
MASKED = 150
"""Test sentences whose words are masked one after the other."""
ALL = ("none", "none_long", "bahdanau", "luong_general", "luong_dot", "transformer")
NE_PAS = re.compile(
    r"\b(?:(?P<elided>je|ce|que|lorsque|puisque|quoique) )?n(?:e |(?P<mark>['’]))"
    r"(?P<verb>\w+(?:-\w+)?) pas\b",
    re.IGNORECASE,
)
NOT_ALONE = re.compile(
    r"n['’]est-ce pas"
    r"|[.!?…] n(?:e |['’])"
    r"|\bpas (?:\w+(?:er|ir|re) )?(?:de\b|d['’])"
    r"|\bpas (?:encore|du tout|non plus|seulement|plus)\b",
    re.IGNORECASE,
)
"""Where more than *ne … pas* would have to change: *pas de pain* is *du pain*."""


# ---- 5: negation ---------------------------------------------------------------------------------


def negation(bench: Bench) -> Numbers:
    """Contrastive accuracy above a shuffled source, and negations kept in translations."""
    rungs = bench.have(ALL)
    prepared = bench.prepared()
    if not (has_rules(prepared.source_language) and has_rules(prepared.target_language)):
        return {"missing": "no rule here finds negations in these languages"}
    items, strangers, origin = negation_items(bench)
    counts = {
        "minimal pairs": len({item.group for item in items}),
        NEGATED: sum(
            bool(find_cues(source, prepared.source_language))
            for source in prepared.train.source_texts()
        ),
        **learnt(bench, BY_NUMBER[5].needs),
    }
    kept = {rung: _kept(bench, rung) for rung in rungs}
    if not strangers:
        shares = [[name_of(r), one["negations"], _percent(one["share"])] for r, one in kept.items()]
        return {"counts": counts, "table": table(["model", "negations", "kept, %"], shares)}
    found = {}
    for rung in rungs:
        bench.say(f"{rung}: {len(items):,} choices between two translations")
        seeds = bench.seeds(rung)
        found[rung] = {
            s: contrastive(items, bench.translator(rung, s).score, strangers) for s in seeds
        }
    pairs = [
        (found["bahdanau"][seed], found["none"][seed]) for seed in bench.seeds("none", "bahdanau")
    ]
    by_sum = times(over_seeds([compare(one.by_sum, other.by_sum) for one, other in pairs]), 100.0)
    by_mean = times(over_seeds([compare(one.by_mean, other.by_mean) for one, other in pairs]), 100)
    return {
        "statistic": by_sum,
        "by_mean": by_mean,
        "counts": counts,
        "caption": f"{origin}. The control is the same choice after the source of another "
        "sentence, which is negated half of the time; the line at 50 % is guessing. The rule "
        "reads the sum of log-probabilities, which favours the shorter translation; by their mean "
        f"over tokens attention gains {shown(by_mean)} points over none. Intervals are 95 %. "
        "Negations kept are those of the first seed.",
        "kept": kept,
        **saturated(over_seeds([x.by_sum.accuracy for x in found["none"].values()]), kept),
        **_negation_shown({rung: list(ones.values()) for rung, ones in found.items()}, kept),
    }


def saturated(right: Mapping[str, Any], kept: Mapping[str, Any]) -> Numbers:
    """A note where the model without attention is ``right`` too often to be beaten by much."""
    if right["value"] < SATURATED:
        return {}
    shares = {rung: _percent(kept[rung]["share"]) for rung in ("none", "bahdanau")}
    return {
        "note": f"Without attention {_percent(right)} % of the choices are right already, which "
        "leaves nothing to gain: forced scoring hands a model all of the translation but the "
        "negation. In what they write themselves, the same two models keep "
        f"{shares['none']} % and {shares['bahdanau']} % of the negations."
    }


def _negation_shown(
    found: Mapping[str, Sequence[Contrastive]], kept: Mapping[str, Any]
) -> dict[str, Any]:
    """Figure and table: accuracy with both sources, and the share of negations kept."""

    def percent(pick: Callable[[Contrastive], Interval]) -> list[dict[str, Any]]:
        return [times(over_seeds([pick(one) for one in ones]), 100) for ones in found.values()]

    accuracy, control = percent(lambda x: x.by_sum.accuracy), percent(lambda x: x.by_sum.control)
    beyond, mean = percent(lambda x: x.by_sum.gain), percent(lambda x: x.by_mean.accuracy)
    mean_beyond = percent(lambda x: x.by_mean.gain)
    shares = [times(kept[rung]["share"], 100.0) for rung in found]
    names = [name_of(rung) for rung in found]
    return {
        "panels": [
            points(
                "accuracy, % of choices",
                names,
                {"its own source": accuracy, "a shuffled source": control},
                title="Right polarity found more probable",
                marks=[50.0],
            ),
            points(
                "negations kept, %",
                names,
                {"kept": shares},
                title="Negations kept in translations of the test set",
            ),
        ],
        "table": table(
            [
                *("model", "accuracy by sum, %", "shuffled source, %", "above it, points"),
                *("accuracy by mean, %", "above its control, points", "negations kept, %"),
            ],
            [
                [name, *map(shown, cells)]
                for name, *cells in zip(
                    names, accuracy, control, beyond, mean, mean_beyond, shares, strict=True
                )
            ],
        ),
    }


def negation_items(bench: Bench) -> tuple[list[ContrastiveItem], list[str], str]:
    """Minimal pairs that the corpus can be asked about, shuffled sources, and where they come from.

    Where there are too few pairs for a control, there are no shuffled sources.
    """
    prepared, config = bench.prepared(), bench.data()
    if config.source == Source.grammar and not config.reverse:
        items = grammar_items(load_lexicon(resource(LEXICON)), "negation", PAIRS, 1)
        origin = f"{PAIRS} pairs of sentences of the embedded grammar that differ in “not”"
        return items, shuffled_sources(items), origin
    languages = (prepared.source_language, prepared.target_language)
    folder = Path(config.root) / "contrastive" / f"negation.{'-'.join(languages)}"
    test = bench.test()
    if folder.is_dir():
        items = read_negation(folder)
        origin = f"Sentences of {folder.name} and the same without negation"
    elif languages == ("en", "fr"):
        items = without_negation(test.sources, test.references[0])
        origin = "Negated test sentences, against the reference without its ne … pas"
    else:
        return [], [], ""
    affirmative = [source for source in test.sources if not find_cues(source, languages[0])]
    if len({item.group for item in items}) < 2 or not affirmative:
        return items, [], origin
    return items, half_affirmative(items, affirmative), origin


def without_negation(sources: Sequence[str], references: Sequence[str]) -> list[ContrastiveItem]:
    """French references of negated English sentences, with and without their one *ne … pas*.

    What *n'* kept apart is elided (*je n'ai pas*, *j'ai*); a reference is left out where something
    else would have to change, as far as a rule can see it.
    """
    items = []
    for number, (source, right) in enumerate(zip(sources, references, strict=True)):
        wrong, changes = NE_PAS.subn(_affirmed, right)
        alone = changes == 1 and not NOT_ALONE.search(right)
        if alone and len(find_cues(source, "en")) == 1:
            wrong = wrong[0].upper() + wrong[1:] if right[0].isupper() else wrong
            items.append(
                ContrastiveItem(
                    source=source, right=right, wrong=wrong, group=number, kind="deleted"
                )
            )
    return items


def _affirmed(found: re.Match[str]) -> str:
    word, mark, verb = found["elided"], found["mark"], found["verb"]
    if not word:
        return verb
    return f"{word[:-1]}{mark}{verb}" if mark else f"{word} {verb}"


def _kept(bench: Bench, rung: str) -> dict[str, Any]:
    """Negations of the test set that a run's translations keep; the first seed."""
    prepared, test = bench.prepared(), bench.test()
    found = plain(
        negation_kept(
            test.sources,
            bench.outputs(rung, bench.seeds(rung)[0]),
            test.references[0],
            source_language=prepared.source_language,
            target_language=prepared.target_language,
        )
    )
    return {k: v for k, v in found.items() if not k.endswith("_by_sentence")}


def _percent(interval: Mapping[str, Any]) -> str:
    return shown(times(interval, 100.0))


# ---- 8: pronouns ---------------------------------------------------------------------------------


def pronouns(bench: Bench) -> Numbers:
    """Attention on the antecedent in the chosen head, and the accuracy of il and elle."""
    if (problem := _untaught(bench)) is not None:
        return problem
    pairs = pronoun_pairs(load_lexicon(resource(LEXICON)), PAIRS + PAIRS // 2, 1)
    dev, test = apart(pairs, PAIRS // 2)
    shifts, heads, grids = [], [], []
    for seed in bench.seeds("transformer"):
        explain = bench.translator("transformer", seed).explain_pairs
        head = antecedent_attention(dev, explain).best()
        found = antecedent_attention(test, explain)
        shifts.append(found.at(*head))
        heads.append(head)
        grids.append(np.mean(found.shifts, -1))
    rungs = [rung for rung in bench.have(ALL) if rung != "none_long"]
    right = {rung: _pronoun_accuracy(bench, rung, test) for rung in rungs}
    sentences = [times(right[rung]["accuracy"], 100.0) for rung in rungs]
    both = [times(right[rung]["both"], 100.0) for rung in rungs]
    return {
        "statistic": times(over_seeds(shifts), 100.0),
        "counts": {"minimal pairs": len(test)},
        "panels": [
            points(
                "% (guessing: 50 of sentences, 25 of pairs)",
                [name_of(rung) for rung in rungs],
                {"sentences": sentences, "both of a pair": both},
                title="Pronoun translated as its antecedent asks",
            ),
            _head_panel(grids[0] * 100),
        ],
        "caption": "Above: il or elle, with 95 % intervals. Below: how much more attention the "
        "pronoun gives to a noun when it is the antecedent, mean over test pairs. Both are of the "
        "first seed, since heads of two seeds have nothing in common. Chosen on dev pairs, seed by "
        f"seed: layer and head {', '.join(f'{layer}.{head}' for layer, head in heads)}.",
        "table": table(
            ["model", "right sentences, %", "both of a pair, %", "neither il nor elle"],
            [
                [name_of(rung), shown(sentences[i]), shown(both[i]), right[rung]["neither"]]
                for i, rung in enumerate(rungs)
            ],
        ),
        "heads": [list(head) for head in heads],
        **undecided(right["transformer"], _taught(bench)),
    }


def undecided(right: Mapping[str, Any], corpus: str) -> Numbers:
    """A note where the Transformer does not tell the sentences of a pair apart.

    ``corpus`` says how often its training data ask what the pairs do.
    """
    both, one = right["both"]["value"], 2 * (right["accuracy"]["value"] - right["both"]["value"])
    if both >= GUESSED:
        return {}
    note = (
        f"The Transformer is right in both sentences of a pair in {100 * both:.0f} % of the pairs "
        f"and in one of the two in {100 * one:.0f} %: the adjective does not decide what it says. "
        "Whatever its attention tells apart does not reach its translations; more training or "
        "other data would have to come first."
    )
    return {"note": f"{note} {corpus}".rstrip()}


def _taught(bench: Bench) -> str:
    """How often the training pairs of the embedded corpus ask for the antecedent of *it*."""
    prepared = bench.prepared()
    gold = prepared.gold("train")
    if gold is None:
        return ""
    antecedents = [facts["antecedents"] for facts in gold]
    lexicon = load_lexicon(resource(LEXICON))
    found = taught(prepared.train.source_texts(), antecedents, lexicon)
    return (
        f"Of {len(gold):,} training pairs {found.chosen:,} have an it that nouns of both genders "
        f"come before, and in {found.by_adjective:,} of these an adjective follows."
    )


def _head_panel(shift_LH: np.ndarray) -> dict[str, Any]:
    return by_category(
        "layer",
        "attention, percentage points",
        [str(layer) for layer in range(len(shift_LH))],
        [
            {"name": f"head {head}", "y": shift_LH[:, head].tolist()}
            for head in range(shift_LH.shape[1])
        ],
        title="Encoder heads: attention on the noun, antecedent minus not",
        marks=[0.0],
    )


def _untaught(bench: Bench) -> Numbers | None:
    """Numbers that say so where the corpus does not teach what the pairs ask."""
    prepared = bench.prepared()
    if (prepared.source_language, prepared.target_language) != ("en", "fr"):
        return {"missing": "the pairs are English and French"}
    if bench.data().source == Source.grammar:
        return None
    it, il = re.compile(r"\bit\b", re.IGNORECASE), re.compile(r"\b(?:il|elle)\b", re.IGNORECASE)
    pairs = zip(prepared.train.source_texts(), prepared.train.target_texts(), strict=True)
    known = sum(bool(it.search(source) and il.search(target)) for source, target in pairs)
    if known >= TAUGHT:
        return None
    return {
        "counts": {"minimal pairs": 0, "training pairs with it and il or elle": known},
        "note": f"Only {known:,} training pairs have it with il or elle, {TAUGHT:,} are needed: "
        "the pairs would ask for what the corpus does not teach.",
    }


def _pronoun_accuracy(bench: Bench, rung: str, pairs: Sequence[PronounPair]) -> dict[str, Any]:
    bench.say(f"{rung}: {2 * len(pairs):,} sentences with a pronoun")
    found = pronoun_accuracy(pairs, bench.translate(rung, bench.seeds(rung)[0]))
    return {k: v for k, v in plain(found).items() if k != "outputs"}


# ---- 12: masking ---------------------------------------------------------------------------------


def causes(bench: Bench) -> Numbers:
    """Attention to each source word against what masking the word costs."""
    if bench.prepared().source_language != "en":
        return {"missing": "the words put over others are English"}
    asked = [rung for rung in bench.have(ALL) if not rung.startswith("none")]
    tried = {rung: [_masked(bench, rung, s) for s in bench.seeds(rung)] for rung in asked}
    # A model whose attention is flat ranks nothing, and neither does a sentence of two words.
    found = {rung: ones for rung, ones in tried.items() if all(one.raw_taus for one in ones)}
    if "bahdanau" not in found:
        return {"missing": "no sentence is long enough, or no attention uneven enough, to rank"}
    rungs = list(found)
    raw = [over_seeds([_known(one.raw) for one in ones]) for ones in found.values()]
    weighted = [over_seeds([_known(one.weighted) for one in ones]) for ones in found.values()]
    first = found["bahdanau"][0]
    numbers = {
        "statistic": raw[rungs.index("bahdanau")],
        "counts": {"sentences": len(first.raw_taus), **learnt(bench, ("bahdanau",))},
        "panels": [
            points(
                "Kendall's tau, mean over sentences",
                [name_of(rung) for rung in rungs],
                {"weights": raw, "weights × norm of what is weighed": weighted},
                title="Agreement of attention and the effect of masking",
                marks=[0.0, 1.0],
            ),
            _tau_panel({"weights": first.raw_taus, "weights × norm": first.weighted_taus}),
        ],
        "caption": "1 would be the same order of source words by attention and by effect, 0 no "
        f"relation. {intervals(bench, 'bahdanau').capitalize()}; below, and the counts, the first "
        "seed.",
        "table": table(
            ["model", "tau of weights", "tau of weights × norm", "sentences"],
            [
                [
                    *(name_of(rung), shown(raw[i], 2), shown(weighted[i], 2)),
                    len(found[rung][0].raw_taus),
                ]
                for i, rung in enumerate(rungs)
            ],
        ),
    }
    return with_alignment(bench, rungs, numbers)


def _masked(bench: Bench, rung: str, seed: int) -> Masking:
    sources = bench.test().sources[:MASKED]
    bench.say(f"{rung}: masking the words of {len(sources)} sentences")
    translator, outputs = bench.translator(rung, seed), bench.outputs(rung, seed)[:MASKED]
    return masking(sources, outputs, translator.score, translator.explain_pairs)


def _tau_panel(taus: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    edges = np.linspace(-1, 1, 17)
    return {
        "kind": "histogram",
        "title": "Bahdanau, sentence by sentence",
        "x_label": "Kendall's tau of a sentence",
        "y_label": "sentences",
        "edges": edges.tolist(),
        "marks": [0.0],
        "series": [
            {"name": name, "counts": np.histogram(values, edges)[0].tolist()}
            for name, values in taus.items()
        ],
    }


def _known(interval: Interval | None) -> Interval:
    """The models that are asked have attention, and there are sentences."""
    assert interval is not None
    return interval
