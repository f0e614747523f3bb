"""The measurements of claims 3, 4, 6 and 11, which compare many runs.

Like `nmt.commands.story.measures`: each function gives the numbers of one claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nmt.commands.story.alignment import with_alignment
from nmt.commands.story.bench import Bench, over_seeds
from nmt.commands.story.ladder import last_record
from nmt.commands.story.measures import (
    EDGES,
    Numbers,
    bleu_of,
    intervals,
    learnt,
    length_buckets,
    quality_cells,
)
from nmt.commands.story.panels import by_category, name_of, points, shown, table, whiskers
from nmt.evaluation.claims import BY_NUMBER, ENOUGH_LONG, ENOUGH_NOISY, LONG
from nmt.evaluation.probes.noise import KINDS, SHARES, make_noisy, noise_effect
from nmt.evaluation.scores import by_length
from nmt.evaluation.significance import bleu_difference
from nmt.evaluation.speed import decoding_speed, training_speed
from nmt.evaluation.statistics import bootstrap_mean, plain
from nmt.models.build import count_parameters

NOISY = 300
"""Test sentences to which noise is added."""
TIMED = 200
"""Test sentences by which the speed of translation is told."""
LENGTH = 32
"""Tokens of a sentence by which the speed of training is told."""
STARTS = ("none_zeros", "none_last", "none", "bahdanau_zeros", "bahdanau_last", "bahdanau")
"""The runs of claim 6, one model after the other; the plain names start from a learnt function."""


def asked(bench: Bench, number: int) -> list[str]:
    """The rungs of a claim that have a finished run."""
    claim = BY_NUMBER[number]
    return bench.have((*claim.needs, *claim.also))


def gain(
    bench: Bench, pairs: Sequence[tuple[str, str]], seeds: Sequence[int] | None = None
) -> dict[str, Any]:
    """chrF of the first minus the second of each pair of rungs, sentence by sentence, mean.

    Over the ``seeds``, or else over those that all of the rungs have.
    """
    found = []
    for seed in seeds or bench.seeds(*{rung for pair in pairs for rung in pair}):
        chrf = {rung: np.array(bench.chrf(rung, seed)) for pair in pairs for rung in pair}
        differences = np.mean([chrf[first] - chrf[second] for first, second in pairs], 0)
        found.append(bootstrap_mean(differences.tolist()))
    return over_seeds(found)


def _apart(bench: Bench, pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """The gain of each pair by itself, over the seeds that the gain of all is over."""
    seeds = bench.seeds(*{rung for pair in pairs for rung in pair})
    return {f"{a} - {b}": gain(bench, [(a, b)], seeds) for a, b in pairs}


Cells = Mapping[str, Callable[[Bench, str], str]]
"""Further columns of a table of runs: what each says of a rung."""


def _qualities(bench: Bench, rungs: Sequence[str], caption: str, cells: Cells) -> Numbers:
    """Figure and table of the quality of several runs."""
    bleu = [plain(bleu_of(bench, rung)) for rung in rungs]
    return {
        "panels": [points("test BLEU", [name_of(rung) for rung in rungs], {"BLEU": bleu})],
        "caption": caption,
        "table": table(
            ["model", "BLEU", "chrF", *cells],
            [
                [
                    *(name_of(rung), *quality_cells(bench, rung)),
                    *(cell(bench, rung) for cell in cells.values()),
                ]
                for rung in rungs
            ],
        ),
    }


def _updates(bench: Bench, rung: str) -> str:
    return f"{bench.training(rung, bench.seeds(rung)[0]).steps:,}"


def _minutes(bench: Bench, rung: str) -> str:
    runs = [bench.training(rung, seed) for seed in bench.seeds(rung)]
    seconds = [float(last_record(run.path / "log.jsonl").get("seconds", 0)) for run in runs]
    return f"{np.mean(seconds) / 60:.1f}"


def _parameters(bench: Bench, rung: str) -> str:
    model = bench.translator(rung, bench.seeds(rung)[0]).run.model
    return f"{count_parameters(model).body:,}"


def _training_speed(bench: Bench, rung: str) -> str:
    model = bench.translator(rung, bench.seeds(rung)[0]).run.model
    return f"{training_speed(model, [LENGTH])[0].tokens_per_second:,.0f}"


def _decoding_speed(bench: Bench, rung: str) -> str:
    translator = bench.translator(rung, bench.seeds(rung)[0])
    return f"{decoding_speed(translator.translate, bench.test().sources[:TIMED]):,.0f}"


EFFORT: Cells = {"updates": _updates, "training, minutes": _minutes}
COST: Cells = {
    "parameters without embeddings": _parameters,
    "training, tokens/s": _training_speed,
    "translating, tokens/s": _decoding_speed,
}


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
    caption = (
        f"{INTERVALS} The location-aware score stands apart: it also reads where it looked before. "
        f"Speeds with all cores, in fp32: forward and backward over sentences of "
        f"{LENGTH} tokens, and {min(TIMED, len(bench.test().sources))} test sentences as "
        "nmt translate does them; first seed."
    )
    return {
        "statistic": over_seeds(differences),
        "counts": learnt(bench, ("dot", "cosine")),
        "differences": [plain(one) for one in differences],
        **with_alignment(bench, rungs, _qualities(bench, rungs, caption, COST)),
    }


def timings(bench: Bench) -> Numbers:
    """4: the current state asking minus the previous one, fed and not; windows by length."""
    pairs = [("luong_general", "previous_fed"), ("general", "previous")]
    rungs = asked(bench, 4)
    apart = _apart(bench, pairs)
    fed, bare = (shown(one, 2) for one in apart.values())
    caption = (
        f"{INTERVALS} The current state minus the previous one: {fed} chrF where the context is "
        f"fed back, {bare} where it is not."
    )
    numbers = with_alignment(bench, rungs, _qualities(bench, rungs, caption, EFFORT))
    local = bench.have(("luong_general", "local_2", "local_4", "local_p"))
    test, language = bench.test(), bench.prepared().target_language
    lengths = [len(source.split()) for source in test.sources]
    labels, _ = length_buckets(lengths)
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
    counts = learnt(bench, BY_NUMBER[4].needs)
    return {
        "statistic": gain(bench, pairs),
        "counts": counts,
        "timings": apart,
        **_few_long(lengths),
        **numbers,
    }


def _few_long(lengths: Sequence[int]) -> Numbers:
    """A note where too few sentences are long enough to tell a window from the whole."""
    long = sum(length > LONG for length in lengths)
    if long >= ENOUGH_LONG:
        return {}
    return {
        "note": f"{long:,} test sentences have more than {LONG} words, at least {ENOUGH_LONG:,} "
        "are needed: what windows do to long sentences cannot be told here."
    }


def starts(bench: Bench) -> Numbers:
    """6: a learnt start minus zeros, mean of the models with and without attention."""
    pairs = [("none", "none_zeros"), ("bahdanau", "bahdanau_zeros")]
    apart = _apart(bench, pairs)
    none, attention = (shown(one, 2) for one in apart.values())
    caption = (
        f"{INTERVALS} A learnt start minus zeros: {none} chrF without attention, {attention} with "
        "Bahdanau's."
    )
    numbers = _qualities(bench, bench.have(STARTS), caption, EFFORT)
    counts = learnt(bench, BY_NUMBER[6].needs)
    return {"statistic": gain(bench, pairs), "counts": counts, "by_model": apart, **numbers}


# ---- 11: noise -----------------------------------------------------------------------------------


def noise(bench: Bench) -> Numbers:
    """11: chrF lost to noise beyond as many harmless words, by kind and share."""
    if bench.prepared().source_language != "en":
        return {"missing": "the harmless words are English"}
    test = bench.test()
    sources = test.sources[:NOISY]
    counts = {"test sentences": len(sources), **learnt(bench, ("bahdanau",))}
    if len(sources) < ENOUGH_NOISY:  # there may be none that is hit
        return {"counts": counts}
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
        "counts": counts,
        "panels": [
            by_category(
                "words with noise, %",
                "chrF lost beyond harmless words",
                [f"{100 * share:g}" for share in SHARES],
                [whiskers(kind, [beyond[kind, share] for share in SHARES]) for kind in KINDS],
                marks=[0.0],
            )
        ],
        "caption": "Bahdanau's attention. Zero is what as many harmless words cost; "
        f"{intervals(bench, 'bahdanau')}. The rule reads random words at the highest share.",
        "table": {
            "columns": [
                *("noise", "words, %", "chrF clean", "noisy", "harmless words"),
                *("beyond", "attention on noise, %", "on harmless words, %"),
            ],
            "rows": [
                [
                    kind,
                    f"{100 * share:g}",
                    f"{np.mean([one.clean for one in ones]):.1f}",
                    f"{np.mean([one.noisy for one in ones]):.1f}",
                    f"{np.mean([one.control for one in ones]):.1f}",
                    shown(beyond[kind, share]),
                    _percent([one.noise_mass for one in ones]),
                    _percent([one.control_mass for one in ones]),
                ]
                for (kind, share), ones in found.items()
            ],
        },
    }


def _percent(shares: Sequence[float | None]) -> str:
    """The mean over seeds; a dash where there is no attention."""
    known = [share for share in shares if share is not None]
    return f"{100 * np.mean(known):.1f}" if known else "–"
