"""The measurements of claims 1, 2, 5, 8, 10 and 12: runs in, plain numbers out.

Each function gives the numbers of one claim: ``statistic`` and ``counts`` for its rule, ``panels``
for its figure (`nmt.evaluation.figures`), ``table`` and ``caption`` for people. Everything is plain
JSON.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmt.commands.bench import Bench, as_points, over_seeds, shown
from nmt.config import Source, resource
from nmt.data.grammar import load_lexicon
from nmt.evaluation.anatomy import dissect
from nmt.evaluation.claims import LONG
from nmt.evaluation.probes.contrastive import (
    Contrastive,
    ContrastiveItem,
    compare,
    contrastive,
    grammar_items,
    read_negation,
)
from nmt.evaluation.probes.cost import KINDS, LENGTHS, attention_cost
from nmt.evaluation.probes.cues import find_cues
from nmt.evaluation.probes.length import LengthEffect, length_effect
from nmt.evaluation.probes.masking import masking
from nmt.evaluation.probes.negation import negation_kept
from nmt.evaluation.probes.pronouns import (
    antecedent_attention,
    apart,
    pronoun_accuracy,
    pronoun_pairs,
)
from nmt.evaluation.scores import by_length
from nmt.evaluation.statistics import Interval, bootstrap_mean, plain

Numbers = dict[str, Any]

NAMES = {
    "none": "no attention",
    "none_long": "no attention, 2× updates",
    "bahdanau": "Bahdanau",
    "luong_general": "Luong, general",
    "luong_dot": "Luong, dot",
    "transformer": "Transformer",
}
EDGES = (5, 10, 15, 20, 30, 40)
PAIRS = 400
"""Minimal pairs of a probe."""
MASKED = 150
"""Test sentences whose words are masked one after the other."""
SENTENCE = "The animal didn't cross the street because it was too tired."


def name_of(rung: str) -> str:
    return NAMES.get(rung, rung.replace("_", " "))


# ---- 1: length -----------------------------------------------------------------------------------


def length(bench: Bench) -> Numbers:
    """The gain of attention over none, sentence by sentence, against source length."""
    test = bench.test()
    lengths = [len(source.split()) for source in test.sources]
    rungs = bench.have(("bahdanau", "luong_general", "luong_dot", "transformer", "none_long"))
    effects = {rung: _effects(bench, rung) for rung in rungs}
    slopes = {rung: over_seeds([e.slope for e in found]) for rung, found in effects.items()}
    gain = [np.array(e.differences) for e in effects["bahdanau"]]
    labels, places = length_buckets(lengths)
    means = [bootstrap_mean(np.mean(gain, 0)[chosen].tolist()) for chosen in places]
    return {
        "statistic": slopes["bahdanau"],
        "counts": {f"test sentences of more than {LONG} words": sum(n > LONG for n in lengths)},
        "panels": [
            {
                "kind": "lines",
                "title": "BLEU by length (compare lines, not points of a line)",
                "x_label": "source words",
                "y_label": "BLEU",
                "categories": labels,
                "series": [_by_length(bench, rung) for rung in ("none", *rungs)],
            },
            {
                "kind": "lines",
                "title": "What Bahdanau's attention adds, sentence by sentence",
                "x_label": "source words",
                "y_label": "gain in chrF points",
                "categories": labels,
                "marks": [0.0],
                "series": [
                    {
                        "name": "Bahdanau minus no attention",
                        "y": [one.value for one in means],
                        "low": [plain(one)["low"] for one in means],
                        "high": [plain(one)["high"] for one in means],
                    }
                ],
            },
        ],
        "caption": "Above: BLEU of the test sentences of each length. Below: the mean gain of "
        "Bahdanau's attention over the same sentences, with 95 % intervals.",
        "table": {
            "columns": ["model", "BLEU", "chrF", "slope of the gain over none, chrF per word"],
            "rows": [
                [name_of(rung), *quality_cells(bench, rung), shown(slopes[rung], 3)]
                if rung in slopes
                else [name_of(rung), *quality_cells(bench, rung), "–"]
                for rung in ("none", *rungs)
            ],
        },
        "slopes": slopes,
        "bootstrap": over_seeds([e.bootstrap for e in effects["bahdanau"]]),
        "sentences_by_length": dict(zip(labels, map(len, places), strict=True)),
    }


def _effects(bench: Bench, rung: str) -> list[LengthEffect]:
    test = bench.test()
    return [
        length_effect(
            test.sources,
            bench.outputs(rung, seed),
            bench.outputs("none", seed),
            test.references[0],
        )
        for seed in bench.seeds("none", rung)
    ]


def length_buckets(lengths: Sequence[int]) -> tuple[list[str], list[list[int]]]:
    """Names and members of the length buckets that are not empty."""
    labels, places = [], []
    for low, high in zip((1, *(edge + 1 for edge in EDGES)), (*EDGES, None), strict=True):
        found = [i for i, n in enumerate(lengths) if n >= low and (high is None or n <= high)]
        if found:
            labels.append(f"{low}+" if high is None else f"{low}–{high}")
            places.append(found)
    return labels, places


def _by_length(bench: Bench, rung: str) -> dict[str, Any]:
    test, language = bench.test(), bench.prepared().target_language
    rows = [
        [
            bucket.bleu
            for bucket in by_length(
                test.sources,
                bench.outputs(rung, seed),
                test.references,
                target_language=language,
                edges=EDGES,
            )
        ]
        for seed in bench.seeds(rung)
    ]
    return {"name": name_of(rung), "y": np.mean(rows, 0).tolist()}


def quality_cells(bench: Bench, rung: str) -> list[str]:
    """BLEU and chrF as cells: with intervals for one seed, as means of several."""
    found = [bench.quality(rung, seed) for seed in bench.seeds(rung)]
    cells = []
    for metric in ("bleu", "chrf"):
        values = [one[metric] for one in found]
        if len(values) == 1 and values[0]["low"] is not None:
            one = values[0]
            cells.append(f"{one['score']:.1f} [{one['low']:.1f}, {one['high']:.1f}]")
        else:
            cells.append(f"{np.mean([v['score'] for v in values]):.1f}")
    return cells


# ---- 2: one sentence -----------------------------------------------------------------------------


def anatomy(bench: Bench) -> Numbers:
    """A sentence in the model with the dot product, taken apart."""
    seed = bench.seeds("luong_dot")[0]
    translator = bench.translator("luong_dot", seed)
    own = bench.config("luong_dot", seed).data.source == Source.grammar
    text = SENTENCE if own else min(bench.test().sources, key=lambda s: abs(len(s.split()) - 9))
    found = translator.translate([text])[0]
    parts = dissect(
        translator.run.model, translator.run.tokenizers, found.source_ids, found.n_best[0].ids
    )
    shares = [[100 * weight for weight in row] for row in parts.weights]
    step = _telling_step(parts.weights)
    words = [f"{piece} " for piece in parts.target]
    order = sorted(range(len(parts.source)), key=lambda place: -parts.scores[step][place])
    return {
        "panels": [
            {
                "kind": "heat",
                "title": "",
                "x_label": "source pieces",
                "y_label": "target pieces",
                "matrix": shares,
                "rows": words,
                "columns": parts.source,
            },
            {
                "kind": "bars",
                "title": f"Similarity with each source piece before “{parts.target[step]}”",
                "x_label": "dot product of the decoder's state with the encoder's",
                "rows": parts.source,
                "values": parts.scores[step],
            },
            {
                "kind": "bars",
                "title": "… as percentages: softmax",
                "x_label": "share, %",
                "rows": parts.source,
                "values": shares[step],
            },
            {
                "kind": "bars",
                "title": "… and what comes next, given the weighted sum",
                "x_label": "probability, %",
                "rows": [piece for piece, _ in parts.next_words[step]],
                "values": [100 * chance for _, chance in parts.next_words[step]],
            },
        ],
        "caption": f"“{text}” becomes “{found.text}”. Above: percentages over the source (columns) "
        "for each target piece (rows); numbers below 0.5 are left out. Below: one row of it, from "
        "similarity to percentages to the next word.",
        "table": {
            "columns": ["source piece", "similarity", "share, %", "norm of its state"],
            "rows": [
                [
                    parts.source[place],
                    f"{parts.scores[step][place]:.2f}",
                    f"{shares[step][place]:.1f}",
                    f"{parts.state_norms[place]:.2f}",
                ]
                for place in order
            ]
            + [["weighted sum (context)", "", "100", f"{parts.context_norms[step]:.2f}"]],
        },
        "anatomy": dataclasses.asdict(parts),
        "step": step,
    }


def _telling_step(weights: Sequence[Sequence[float]]) -> int:
    """The step whose attention is most divided between its two largest shares.

    Of the later half, where a decoder is in the middle of a sentence.
    """
    rows = np.sort(np.asarray(weights), axis=1)[:, ::-1]
    divided = np.minimum(rows[:, 1], 1 - rows[:, 0])
    start = len(rows) // 2
    return start + int(divided[start:-1].argmax()) if len(rows) - start > 1 else len(rows) - 1


# ---- 5: negation ---------------------------------------------------------------------------------


def negation(bench: Bench) -> Numbers:
    """Contrastive accuracy above a shuffled source, and negations kept in translations."""
    rungs = bench.have(
        ("none", "none_long", "bahdanau", "luong_general", "luong_dot", "transformer")
    )
    items, origin = _negation_items(bench)
    counts = {"minimal pairs": len({item.group for item in items})}
    kept = {rung: _kept(bench, rung) for rung in rungs}
    if not items:
        return {"counts": counts, "table": _kept_table(kept)}
    found = {
        rung: [contrastive(items, bench.translator(rung, seed).score) for seed in bench.seeds(rung)]
        for rung in rungs
    }
    gains = [
        compare(found["bahdanau"][i].by_sum, found["none"][i].by_sum)
        for i in range(len(bench.seeds("none", "bahdanau")))
    ]
    accuracy = [over_seeds([one.by_sum.accuracy for one in found[rung]]) for rung in rungs]
    control = [over_seeds([one.by_sum.control for one in found[rung]]) for rung in rungs]
    shares = [kept[rung]["share"] for rung in rungs]
    names = [name_of(rung) for rung in rungs]
    return {
        "statistic": _times(over_seeds(gains), 100.0),
        "counts": counts,
        "panels": [
            {
                "kind": "points",
                "title": "Right polarity found more probable",
                "x_label": "accuracy, % of choices",
                "rows": names,
                "marks": [50.0],
                "series": [
                    as_points("its own source", accuracy, 100.0),
                    as_points("a shuffled source", control, 100.0),
                ],
            },
            {
                "kind": "points",
                "title": "Negations kept in translations of the test set",
                "x_label": "negations kept, %",
                "rows": names,
                "series": [as_points("kept", shares, 100.0)],
            },
        ],
        "caption": f"{origin}. The line at 50 % is guessing. Intervals are 95 %.",
        "table": {
            "columns": [
                *("model", "accuracy by sum, %", "shuffled source, %", "accuracy by mean, %"),
                "negations kept, %",
            ],
            "rows": [
                [
                    name_of(rung),
                    shown(_times(accuracy[i], 100.0)),
                    shown(_times(control[i], 100.0)),
                    shown(_times(_by_mean(found[rung]), 100.0)),
                    shown(_times(shares[i], 100.0)),
                ]
                for i, rung in enumerate(rungs)
            ],
        },
        "by_mean": {
            rung: [plain(one.by_mean.gain) for one in ones] for rung, ones in found.items()
        },
        "kept": kept,
    }


def _by_mean(found: Sequence[Contrastive]) -> Mapping[str, Any]:
    return over_seeds([one.by_mean.accuracy for one in found])


def _times(interval: Mapping[str, Any], factor: float) -> dict[str, Any]:
    ends = {key: interval[key] for key in ("value", "low", "high")}
    return dict(interval) | {k: None if v is None else factor * v for k, v in ends.items()}


def _negation_items(bench: Bench) -> tuple[list[ContrastiveItem], str]:
    """Minimal pairs that the corpus can be asked about, and where they come from."""
    prepared = bench.prepared()
    config = bench.config(*_any(bench)).data
    if config.source == Source.grammar and not config.reverse:
        items = grammar_items(load_lexicon(resource("lexicon_en_fr.yaml")), "negation", PAIRS, 1)
        return items, f"{PAIRS} pairs of sentences of the embedded grammar that differ in “not”"
    languages = (prepared.source_language, prepared.target_language)
    folder = Path(config.root) / "contrastive" / f"negation.{'-'.join(languages)}"
    if folder.is_dir():
        return read_negation(folder), f"Sentences of {folder.name} and the same without negation"
    if languages != ("en", "fr"):
        return [], ""
    test = bench.test()
    items = _without_negation(test.sources, test.references[0])
    return items, "Negated test sentences, against the reference without its ne … pas"


NE_PAS = re.compile(r"\b(?:ne |n')(\w+(?:-\w+)?) pas\b", re.IGNORECASE)


def _without_negation(sources: Sequence[str], references: Sequence[str]) -> list[ContrastiveItem]:
    """French references of negated sentences, with and without *ne … pas*."""
    items = []
    for number, (source, right) in enumerate(zip(sources, references, strict=True)):
        wrong, changes = NE_PAS.subn(r"\1", right)
        if changes == 1 and len(find_cues(source, "en")) == 1:
            items.append(
                ContrastiveItem(
                    source=source, right=right, wrong=wrong, group=number, kind="deleted"
                )
            )
    return items


def _any(bench: Bench) -> tuple[str, int]:
    first = next(iter(bench.trainings.values()))
    return first.rung, first.seed


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


def _kept_table(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "columns": ["model", "negations", "kept, %"],
        "rows": [
            [name_of(rung), one["negations"], shown(_times(one["share"], 100.0))]
            for rung, one in kept.items()
        ],
    }


# ---- 8: pronouns ---------------------------------------------------------------------------------


def pronouns(bench: Bench) -> Numbers:
    """Attention on the antecedent in the chosen head, and the accuracy of il and elle."""
    config = bench.config(*_any(bench)).data
    prepared = bench.prepared()
    if (prepared.source_language, prepared.target_language) != ("en", "fr"):
        return {"counts": {"minimal pairs": 0}}
    known = _pronoun_words(bench) if config.source != Source.grammar else PAIRS
    if known < PAIRS:
        return {
            "counts": {"minimal pairs": 0, "training pairs with it as il or elle": known},
            "note": f"Only {known:,} training pairs have it as il or elle: the pairs of the "
            "embedded grammar would ask for what the corpus does not teach.",
        }
    lexicon = load_lexicon(resource("lexicon_en_fr.yaml"))
    dev, test = apart(pronoun_pairs(lexicon, PAIRS // 2 + PAIRS, 1), PAIRS // 2)
    seeds = bench.seeds("transformer")
    shifts, heads, grid = [], [], []
    for seed in seeds:
        explain = bench.translator("transformer", seed).explain_pairs
        head = antecedent_attention(dev, explain).best()
        found = antecedent_attention(test, explain)
        shifts.append(found.at(*head))
        heads.append(head)
        grid.append(np.mean(found.shifts, -1))
    rungs = bench.have(("none", "bahdanau", "luong_general", "luong_dot", "transformer"))
    right = {rung: _pronoun_accuracy(bench, rung, test) for rung in rungs}
    mean_grid = np.mean(grid, 0) * 100
    return {
        "statistic": _times(over_seeds(shifts), 100.0),
        "counts": {"minimal pairs": len(test)},
        "panels": [
            {
                "kind": "points",
                "title": "Pronoun translated as its antecedent asks",
                "x_label": "% (chance: 50 of sentences, 25 of pairs)",
                "rows": [name_of(rung) for rung in rungs],
                "series": [
                    as_points("sentences", [right[r]["accuracy"] for r in rungs], 100.0),
                    as_points("both of a pair", [right[r]["both"] for r in rungs], 100.0),
                ],
            },
            {
                "kind": "lines",
                "title": "Encoder heads of the Transformer: on the noun, switched minus not",
                "x_label": "layer",
                "y_label": "attention, percentage points",
                "categories": [str(layer) for layer in range(len(mean_grid))],
                "marks": [0.0],
                "series": [
                    {"name": f"head {head}", "y": mean_grid[:, head].tolist()}
                    for head in range(mean_grid.shape[1])
                ],
            },
        ],
        "caption": "Above: il or elle, with 95 % intervals. Below: how much more attention the "
        "pronoun gives to a noun when it is the antecedent, mean over test pairs; chosen on dev "
        f"pairs: layer and head {', '.join(f'{layer}.{head}' for layer, head in heads)}.",
        "table": {
            "columns": ["model", "right sentences, %", "both of a pair, %"],
            "rows": [
                [
                    name_of(rung),
                    shown(_times(right[rung]["accuracy"], 100.0)),
                    shown(_times(right[rung]["both"], 100.0)),
                ]
                for rung in rungs
            ],
        },
        "heads": [list(head) for head in heads],
        "pronouns": right,
    }


def _pronoun_accuracy(bench: Bench, rung: str, pairs: Sequence[Any]) -> dict[str, Any]:
    translator = bench.translator(rung, bench.seeds(rung)[0])
    found = pronoun_accuracy(pairs, lambda x: [t.text for t in translator.translate(x)])
    return {k: v for k, v in plain(found).items() if k != "outputs"}


def _pronoun_words(bench: Bench) -> int:
    """Training pairs in which *it* stands beside *il* or *elle*."""
    train = bench.prepared().train
    it, il = re.compile(r"\bit\b", re.IGNORECASE), re.compile(r"\b(?:il|elle)\b", re.IGNORECASE)
    sources, targets = train.source_texts(), train.target_texts()
    return sum(bool(it.search(s) and il.search(t)) for s, t in zip(sources, targets, strict=True))


# ---- 10: cost ------------------------------------------------------------------------------------

COST_NAMES = {
    "explicit": "explicit (all scores kept)",
    "fused": "fused (exact, never kept)",
    "window": "sliding window",
    "linear": "linear",
    "linear_causal": "linear, causal",
}


def cost(bench: Bench) -> Numbers:
    """Time and memory of attention alone against length."""
    limit = _memory_limit()
    found = attention_cost(
        KINDS,
        LENGTHS,
        memory_limit=limit,
        on_row=lambda row: bench.say(f"{row.kind} attention over {row.length:,} positions"),
    )
    rows = {kind: [row for row in found.rows if row.kind == kind] for kind in KINDS}
    stops = [
        f"{COST_NAMES[one.kind]} is not run at length {one.length:,}: "
        + ("memory" if one.reason == "memory" else "time")
        for one in found.stopped
    ]
    times = {kind: plain(one) for kind, one in found.time_exponents.items()}
    memory = {kind: plain(one) for kind, one in found.memory_exponents.items()}

    def panel(key: str, scale: float, label: str) -> dict[str, Any]:
        return {
            "kind": "lines",
            "x_label": "length, positions",
            "y_label": label,
            "x_log": True,
            "y_log": True,
            "series": [
                {
                    "name": COST_NAMES[kind],
                    "x": [row.length for row in ones],
                    "y": [scale * float(dataclasses.asdict(row)[key]) or None for row in ones],
                }
                for kind, ones in rows.items()
            ],
        }

    return {
        "statistic": times["explicit"],
        "counts": {"lengths measured": len(rows["explicit"])},
        "panels": [
            panel("seconds", 1e3, "time, milliseconds"),
            panel("peak_bytes", 2**-20, "peak memory, MiB"),
        ],
        "caption": f"Logarithmic axes: a square is twice as steep as a line. {found.method}. "
        f"Fused and explicit attention differ by {found.fused_error:.1e} of the largest value. "
        + ("; ".join(stops) + f" (limit {limit / 2**30:.1f} GiB)." if stops else ""),
        "table": {
            "columns": [
                *("attention", "exponent of time", "exponent of memory"),
                *("longest", "time there, ms", "memory there, MiB"),
            ],
            "rows": [
                [
                    COST_NAMES[kind],
                    shown(times[kind], 2) if kind in times else "–",
                    shown(memory[kind], 2) if kind in memory else "–",
                    f"{ones[-1].length:,}",
                    f"{1e3 * ones[-1].seconds:,.1f}",
                    f"{ones[-1].peak_bytes / 2**20:,.1f}",
                ]
                for kind, ones in rows.items()
                if ones
            ],
        },
        "stopped": [dataclasses.asdict(one) for one in found.stopped],
        "fused_error": found.fused_error,
        "limit_bytes": limit,
    }


def _memory_limit() -> int:
    """A quarter of the memory that is free, at most 2 GiB: nothing else shall suffer."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) for line in text.split("\n") if "MemAvailable" in line)
    except (OSError, StopIteration):
        free = 2**21
    return min(2**31, free * 1024 // 4)


# ---- 12: masking ---------------------------------------------------------------------------------


def causes(bench: Bench) -> Numbers:
    """Attention to each source word against what masking the word costs."""
    sources = bench.test().sources[:MASKED]
    rungs = bench.have(("bahdanau", "luong_general", "luong_dot", "transformer"))
    found = {}
    for rung in rungs:
        found[rung] = []
        for seed in bench.seeds(rung):
            translator = bench.translator(rung, seed)
            outputs = bench.outputs(rung, seed)[:MASKED]
            bench.say(f"{rung}: masking the words of {len(sources)} sentences")
            found[rung].append(
                masking(sources, outputs, translator.score, translator.explain_pairs)
            )
    raw = {rung: over_seeds([_known(one.raw) for one in ones]) for rung, ones in found.items()}
    weighted = {
        rung: over_seeds([_known(one.weighted) for one in ones]) for rung, ones in found.items()
    }
    edges = np.linspace(-1, 1, 17)
    first = found["bahdanau"][0]
    return {
        "statistic": raw["bahdanau"],
        "counts": {"sentences": len(first.raw_taus)},
        "panels": [
            {
                "kind": "points",
                "title": "Agreement of attention and the effect of masking",
                "x_label": "Kendall's tau, mean over sentences",
                "rows": [name_of(rung) for rung in rungs],
                "marks": [0.0, 1.0],
                "series": [
                    as_points("weights", [raw[r] for r in rungs]),
                    as_points("weights × norm of what is weighed", [weighted[r] for r in rungs]),
                ],
            },
            {
                "kind": "histogram",
                "title": "Bahdanau, sentence by sentence",
                "x_label": "Kendall's tau of a sentence",
                "y_label": "sentences",
                "edges": edges.tolist(),
                "marks": [0.0],
                "series": [
                    {"name": name, "counts": np.histogram(taus, edges)[0].tolist()}
                    for name, taus in (
                        ("weights", first.raw_taus),
                        ("weights × norm", first.weighted_taus),
                    )
                ],
            },
        ],
        "caption": "1 would be the same order of source words by attention and by effect, 0 no "
        "relation. 95 % intervals over sentences.",
        "table": {
            "columns": ["model", "tau of weights", "tau of weights × norm", "sentences"],
            "rows": [
                [
                    name_of(rung),
                    shown(raw[rung], 2),
                    shown(weighted[rung], 2),
                    len(found[rung][0].raw_taus),
                ]
                for rung in rungs
            ],
        },
    }


def _known(interval: Interval | None) -> Interval:
    """Models without attention are not asked."""
    assert interval is not None
    return interval
