"""The measurements of claims 3, 4, 6, 7, 11, 15 and 16, which compare many runs.

Like `nmt.commands.story.measures`: each function gives the numbers of one claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nmt.commands.story.alignment import with_alignment
from nmt.commands.story.bench import Bench, over_seeds
from nmt.commands.story.ladder import last_record
from nmt.commands.story.measures import EDGES, Numbers, length_buckets, quality_cells
from nmt.commands.story.panels import bars, by_category, name_of, points, shown, whiskers
from nmt.evaluation.claims import BY_NUMBER, TRANSFER
from nmt.evaluation.probes.noise import KINDS, SHARES, make_noisy, noise_effect
from nmt.evaluation.scores import by_length
from nmt.evaluation.significance import bleu_difference
from nmt.evaluation.speed import training_speed
from nmt.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    mean_interval,
    plain,
    slope_interval,
)

NOISY = 300
"""Test sentences to which noise is added."""


def asked(bench: Bench, number: int) -> list[str]:
    """The rungs of a claim that have a finished run."""
    claim = BY_NUMBER[number]
    return bench.have((*claim.needs, *claim.also))


def gain(bench: Bench, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """chrF of the first minus the second of each pair of rungs, sentence by sentence, mean."""
    found = []
    for seed in bench.seeds(*{rung for pair in pairs for rung in pair}):
        chrf = {rung: np.array(bench.chrf(rung, seed)) for pair in pairs for rung in pair}
        differences = np.mean([chrf[first] - chrf[second] for first, second in pairs], 0)
        found.append(bootstrap_mean(differences.tolist()))
    return over_seeds(found)


def _bleu(bench: Bench, rung: str) -> Interval:
    values = [bench.quality(rung, seed)["bleu"] for seed in bench.seeds(rung)]
    if len(values) == 1:
        one = values[0]
        return Interval(one["score"], one["low"], one["high"], 1)
    return mean_interval([one["score"] for one in values])


def _qualities(bench: Bench, rungs: Sequence[str], caption: str) -> Numbers:
    """Figure and table of the quality of several runs."""
    bleu = [plain(_bleu(bench, rung)) for rung in rungs]
    return {
        "panels": [points("test BLEU", [name_of(rung) for rung in rungs], {"BLEU": bleu})],
        "caption": caption,
        "table": {
            "columns": ["model", "BLEU", "chrF", "updates", "training, minutes"],
            "rows": [
                [name_of(rung), *quality_cells(bench, rung), *_training_cells(bench, rung)]
                for rung in rungs
            ],
        },
    }


def _training_cells(bench: Bench, rung: str) -> list[str]:
    runs = [bench.training(rung, seed) for seed in bench.seeds(rung)]
    seconds = [float(last_record(run.path / "log.jsonl").get("seconds", 0)) for run in runs]
    return [f"{runs[0].steps:,}", f"{np.mean(seconds) / 60:.1f}"]


INTERVALS = "Points are means over seeds with t intervals, or one seed with a bootstrap interval."


def similarities(bench: Bench) -> Numbers:
    """3: BLEU of each score; cosine minus dot."""
    language = bench.prepared().target_language
    differences = [
        bleu_difference(
            bench.outputs("cosine", seed),
            bench.outputs("dot", seed),
            bench.test().references,
            target_language=language,
        )
        for seed in bench.seeds("cosine", "dot")
    ]
    rungs = asked(bench, 3)
    return {
        "statistic": over_seeds(differences),
        "counts": {"seeds": len(differences)},
        "differences": [plain(one) for one in differences],
        **with_alignment(bench, rungs, _qualities(bench, rungs, INTERVALS)),
    }


def timings(bench: Bench) -> Numbers:
    """4: the current state asking minus the previous one, fed and not; windows by length."""
    pairs = [("luong_general", "previous_fed"), ("general", "previous")]
    rungs = asked(bench, 4)
    numbers = with_alignment(bench, rungs, _qualities(bench, rungs, INTERVALS))
    local = bench.have(("luong_general", "local_2", "local_4", "local_p"))
    test, language = bench.test(), bench.prepared().target_language
    labels, _ = length_buckets([len(source.split()) for source in test.sources])
    series = []
    for rung in local:
        outputs = bench.outputs(rung, bench.seeds(rung)[0])
        buckets = by_length(
            test.sources, outputs, test.references, target_language=language, edges=EDGES
        )
        series.append({"name": name_of(rung), "y": [bucket.bleu for bucket in buckets]})
    numbers["panels"].append(
        by_category("source words", "BLEU", labels, series, title="Windows by length (first seed)")
    )
    apart = {f"{a} - {b}": gain(bench, [(a, b)]) for a, b in pairs}
    return {"statistic": gain(bench, pairs), "counts": {}, "timings": apart, **numbers}


def starts(bench: Bench) -> Numbers:
    """6: a learnt start minus zeros, mean of the models with and without attention."""
    pairs = [("none", "none_zeros"), ("bahdanau", "bahdanau_zeros")]
    apart = {f"{a} - {b}": gain(bench, [(a, b)]) for a, b in pairs}
    numbers = _qualities(bench, asked(bench, 6), INTERVALS)
    return {"statistic": gain(bench, pairs), "counts": {}, "by_model": apart, **numbers}


# ---- 7: speed ------------------------------------------------------------------------------------


def parallel(bench: Bench) -> Numbers:
    """7: training tokens/s of both models against sentence length, and quality against time."""
    seed = bench.seeds("transformer", "bahdanau")[0]
    rungs = ("transformer", "bahdanau")
    speeds = {rung: training_speed(bench.translator(rung, seed).run.model) for rung in rungs}
    lengths = [one.length for one in speeds["transformer"]]
    ratios = [
        a.tokens_per_second / b.tokens_per_second
        for a, b in zip(speeds["transformer"], speeds["bahdanau"], strict=True)
    ]
    slope = slope_interval(np.log(lengths).tolist(), np.log(ratios).tolist())
    return {
        "statistic": plain(slope),
        "counts": {"lengths timed": len(lengths)},
        "panels": [
            {
                "kind": "lines",
                "x_label": "source and target length, tokens",
                "y_label": "training tokens a second",
                "x_log": True,
                "y_log": True,
                "series": [
                    {
                        "name": name_of(rung),
                        "x": lengths,
                        "y": [one.tokens_per_second for one in speeds[rung]],
                    }
                    for rung in rungs
                ],
            },
            {
                "kind": "lines",
                "title": "Quality on dev against time",
                "x_label": "minutes of training",
                "y_label": "BLEU, greedy",
                "series": [_learning(bench, rung, seed) for rung in rungs],
            },
        ],
        "caption": "Above: forward and backward over batches of equal size. Below: validations "
        "of the two runs.",
        "table": {
            "columns": ["length", *(f"{name_of(r)}, tokens/s" for r in rungs), "ratio"],
            "rows": [
                [length, *(f"{speeds[r][i].tokens_per_second:,.0f}" for r in rungs), f"{ratio:.2f}"]
                for i, (length, ratio) in enumerate(zip(lengths, ratios, strict=True))
            ],
        },
    }


def _learning(bench: Bench, rung: str, seed: int) -> dict[str, Any]:
    """Dev BLEU over the minutes of training."""
    minutes, values, last = [], [], 0.0
    for record in bench.log(rung, seed):
        last = record.get("seconds", last)
        if record["kind"] == "validation" and "bleu" in record:
            minutes.append(last / 60)
            values.append(record["bleu"])
    return {"name": name_of(rung), "x": minutes, "y": values}


# ---- 11: noise -----------------------------------------------------------------------------------


def noise(bench: Bench) -> Numbers:
    """11: chrF lost to noise beyond as many harmless words, by kind and share."""
    test = bench.test()
    sources = test.sources[:NOISY]
    references = test.references[0][:NOISY]
    vocabulary = sorted({w for source in bench.prepared().sources("valid") for w in source.split()})
    found: dict[tuple[str, float], list[Any]] = {}
    for seed in bench.seeds("bahdanau"):
        translator = bench.translator("bahdanau", seed)
        for kind in KINDS:
            for share in SHARES:
                noisy = make_noisy(sources, kind, share, vocabulary=vocabulary)
                bench.say(f"bahdanau-s{seed}: {kind} in {share:.0%} of the words")
                effect = noise_effect(
                    noisy,
                    references,
                    bench.translate("bahdanau", seed),
                    translator.explain_pairs,
                )
                found.setdefault((kind, share), []).append(effect)
    beyond = {key: over_seeds([one.beyond for one in ones]) for key, ones in found.items()}
    return {
        "statistic": beyond["random", max(SHARES)],
        "counts": {"test sentences": len(sources)},
        "panels": [
            by_category(
                "words with noise, %",
                "chrF lost beyond harmless words",
                [f"{100 * share:g}" for share in SHARES],
                [whiskers(kind, [beyond[kind, share] for share in SHARES]) for kind in KINDS],
                marks=[0.0],
            )
        ],
        "caption": "Bahdanau's attention. Zero is what as many harmless words cost; 95 % "
        "intervals over sentences. The rule reads random words at the highest share.",
        "table": {
            "columns": [
                *("noise", "words, %", "chrF clean", "noisy", "harmless words"),
                *("beyond", "attention on noise, %", "on harmless words, %"),
            ],
            "rows": [
                [
                    kind,
                    f"{100 * share:g}",
                    f"{ones[0].clean:.1f}",
                    f"{ones[0].noisy:.1f}",
                    f"{ones[0].control:.1f}",
                    shown(beyond[kind, share]),
                    _percent(ones[0].noise_mass),
                    _percent(ones[0].control_mass),
                ]
                for (kind, share), ones in found.items()
            ],
        },
    }


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


# ---- 15: transfer --------------------------------------------------------------------------------


def transfers(bench: Bench) -> Numbers:
    """15: chrF on the new task against the number of its pairs, tuned and from scratch."""
    sizes = [n for n in TRANSFER if bench.seeds(f"tuned_{n}", f"scratch_{n}")]
    curves, seeds = {}, bench.seeds(f"tuned_{TRANSFER[2]}", f"scratch_{TRANSFER[2]}")
    task = bench.only([f"{kind}_{n}" for kind in ("tuned", "scratch") for n in sizes])
    for kind in ("tuned", "scratch"):
        curves[kind] = [
            float(np.mean([task.chrf(f"{kind}_{n}", s) for s in task.seeds(f"{kind}_{n}")]))
            for n in sizes
        ]
    middle = (f"tuned_{TRANSFER[2]}", f"scratch_{TRANSFER[2]}")
    return {
        "statistic": gain(task, [middle]),
        "counts": {"seeds": len(seeds)},
        "panels": [
            {
                "kind": "lines",
                "x_label": "pairs of the new task",
                "y_label": "chrF, mean over sentences",
                "x_log": True,
                "series": [
                    {"name": "from the old model", "x": sizes, "y": curves["tuned"]},
                    {"name": "from nothing", "x": sizes, "y": curves["scratch"]},
                ],
            }
        ],
        "caption": "The new task is the other direction of translation, with the same tokenizer.",
        "table": {
            "columns": ["pairs", "from the old model, chrF", "from nothing, chrF"],
            "rows": [
                [f"{n:,}", f"{a:.1f}", f"{b:.1f}"]
                for n, a, b in zip(sizes, curves["tuned"], curves["scratch"], strict=True)
            ],
        },
    }


# ---- 16: the pipeline ----------------------------------------------------------------------------


def pipeline(bench: Bench) -> Numbers:
    """16: the steps of the work, with what did each and how long it took here."""
    prepared = bench.prepared()
    rungs = asked(bench, 16)
    minutes = {
        rung: sum(
            float(last_record(bench.training(rung, s).path / "log.jsonl").get("seconds", 0))
            for s in bench.seeds(rung)
        )
        / 60
        for rung in rungs
    }
    languages = f"{prepared.source_language} to {prepared.target_language}"
    seed = bench.seeds("bahdanau")[0]
    model = bench.config("bahdanau", seed).model
    rows = [
        ["1. goal", f"translate {languages}", "–"],
        ["2. tools", "nmt train, evaluate, translate", "–"],
        ["3. kind of attention", ", ".join(name_of(rung) for rung in rungs), "–"],
        ["4. data", f"{len(prepared.train):,} pairs, nmt prepare", "–"],
        ["5. architecture", f"{model.name}, width {model.width}", "–"],
        ["6. training", "nmt train", f"{sum(minutes.values()):.1f}"],
        ["7. evaluation", f"BLEU {quality_cells(bench, 'bahdanau')[0]}", "–"],
        ["8. deployment", "nmt translate run=…", "–"],
    ]
    return {
        "panels": [
            bars("minutes of training", [name_of(rung) for rung in rungs], list(minutes.values()))
        ],
        "caption": "What each step was in this story, and the time of its trainings.",
        "table": {"columns": ["step", "here", "minutes"], "rows": rows},
    }
