"""The measurements of claims 1, 2 and 10: runs in, plain numbers out.

Each function here, in `meaning.py` and in `sweeps.py` gives the numbers of one claim: ``statistic``
and ``counts`` for its rule, ``panels`` for its figure (`nmt.evaluation.figures`), ``table`` and
``caption`` for people. Everything is plain JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmt.commands.story.bench import Bench, over_seeds
from nmt.commands.story.panels import bars, by_category, name_of, shown, table, whiskers
from nmt.config import Source
from nmt.evaluation.anatomy import Anatomy, dissect
from nmt.evaluation.claims import BY_NUMBER, LONG, QUALITY
from nmt.evaluation.probes.cost import KINDS, LENGTHS, CostReport, cost_with_memory_kept
from nmt.evaluation.probes.length import LengthEffect, length_effect
from nmt.evaluation.scores import by_length
from nmt.evaluation.statistics import Interval, bootstrap_mean, mean_interval, plain

Numbers = dict[str, Any]

EDGES = (5, 10, 15, 20, 30, 40)
SENTENCE = "The animal didn't cross the street because it was too tired."


# ---- 1: length -----------------------------------------------------------------------------------


def length(bench: Bench) -> Numbers:
    """The gain of attention over none, sentence by sentence, against source length."""
    lengths = [len(source.split()) for source in bench.test().sources]
    if len(set(lengths)) < 2:
        return {"missing": "all test sentences have one length"}
    asked = ("bahdanau", "luong_general", "luong_dot", "transformer", "none_long")
    rungs = [rung for rung in bench.have(asked) if bench.seeds("none", rung)]
    effects = {rung: _effects(bench, rung) for rung in rungs}
    slopes = {rung: over_seeds([e.slope for e in found]) for rung, found in effects.items()}
    gains = [np.asarray(effect.differences) for effect in effects["bahdanau"]]
    labels, places = length_buckets(lengths)
    means = [
        over_seeds([bootstrap_mean(gain[chosen].tolist()) for gain in gains]) for chosen in places
    ]
    everything = ("none", *rungs)
    return {
        "statistic": slopes["bahdanau"],
        "counts": {
            f"test sentences of more than {LONG} words": sum(n > LONG for n in lengths),
            **learnt(bench, BY_NUMBER[1].needs),
        },
        "panels": [
            by_category(
                "source words",
                "BLEU",
                labels,
                [_by_length(bench, rung) for rung in everything],
                title="BLEU by length (compare lines, not points of a line)",
            ),
            by_category(
                "source words",
                "gain in chrF points",
                labels,
                [whiskers("Bahdanau minus no attention", means)],
                title="What Bahdanau's attention adds, sentence by sentence",
                marks=[0.0],
            ),
        ],
        "caption": "Above: BLEU of the test sentences of each length. Below: the mean gain of "
        "Bahdanau's attention over the same sentences, with "
        f"{intervals(bench, 'none', 'bahdanau')}.",
        "table": table(
            ["model", "BLEU", "chrF", "slope of the gain over none, chrF per word"],
            [
                [
                    name_of(rung),
                    *quality_cells(bench, rung),
                    shown(slopes[rung], 3) if rung in slopes else "–",
                ]
                for rung in everything
            ],
        ),
        "slopes": slopes,
        "bootstrap": over_seeds([e.bootstrap for e in effects["bahdanau"]]),
        "sentences_by_length": dict(zip(labels, map(len, places), strict=True)),
    }


def _effects(bench: Bench, rung: str) -> list[LengthEffect]:
    """What a rung gains over no attention, for each seed that both have."""
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


def bleu_of(bench: Bench, rung: str) -> Interval:
    """Test BLEU: of one seed with its bootstrap interval, of several the mean with a t interval."""
    values = [bench.quality(rung, seed)["bleu"] for seed in bench.seeds(rung)]
    if len(values) == 1:
        one = values[0]
        return Interval(one["score"], one["low"], one["high"], 1)
    return mean_interval([one["score"] for one in values])


def learnt(bench: Bench, rungs: Sequence[str]) -> dict[str, int]:
    """What there is to compare: whole points of test BLEU of the best of the rungs."""
    return {QUALITY: int(max(bleu_of(bench, rung).value for rung in rungs))}


def intervals(bench: Bench, *rungs: str) -> str:
    """What the intervals of numbers over these rungs are, for a caption."""
    return f"95 % intervals over {'sentences' if len(bench.seeds(*rungs)) == 1 else 'seeds'}"


def quality_cells(bench: Bench, rung: str) -> list[str]:
    """BLEU and chrF as cells: with intervals for one seed, as means of several."""
    found = [bench.quality(rung, seed) for seed in bench.seeds(rung)]
    cells = []
    for metric in ("bleu", "chrf"):
        values = [one[metric] for one in found]
        if len(values) == 1:
            one = values[0]
            cells.append(shown({"value": one["score"], "low": one["low"], "high": one["high"]}))
        else:
            cells.append(f"{np.mean([value['score'] for value in values]):.1f}")
    return cells


# ---- 2: one sentence -----------------------------------------------------------------------------


def anatomy(bench: Bench) -> Numbers:
    """A sentence in the model with the dot product, taken apart."""
    seed = bench.seeds("luong_dot")[0]
    translator = bench.translator("luong_dot", seed)
    data = bench.config("luong_dot", seed).data
    own = data.source == Source.grammar and not data.reverse
    text = SENTENCE if own else min(bench.test().sources, key=lambda s: abs(len(s.split()) - 9))
    found = translator.translate([text])[0]
    parts = dissect(
        translator.run.model, translator.run.tokenizers, found.source_ids, found.n_best[0].ids
    )
    step = _telling_step(parts)
    return {
        "panels": _anatomy_panels(parts, step),
        "caption": f"“{text}” becomes “{found.text}”. Above: percentages over the source (columns) "
        "for each target piece (rows); numbers below 0.5 are left out. Below: one row of it, from "
        "similarity to percentages to the next word, with which the table ends.",
        "table": table(
            ["piece", "similarity", "share or probability, %", "norm"],
            [
                [
                    parts.source[place],
                    f"{parts.scores[step][place]:.2f}".replace("-", "\u2212"),
                    f"{100 * parts.weights[step][place]:.1f}",
                    f"{parts.state_norms[place]:.2f}",
                ]
                for place in sorted(range(len(parts.source)), key=lambda i: -parts.scores[step][i])
            ]
            + [["weighted sum (context)", "", "100", f"{parts.context_norms[step]:.2f}"]]
            + [
                [f"next piece: {piece}", "", f"{100 * chance:.1f}", ""]
                for piece, chance in parts.next_words[step]
            ],
        ),
        "anatomy": dataclasses.asdict(parts),
        "step": step,
    }


def _anatomy_panels(parts: Anatomy, step: int) -> list[dict[str, Any]]:
    shares = [[100 * weight for weight in row] for row in parts.weights]
    return [
        {
            "kind": "heat",
            "x_label": "source pieces",
            "y_label": "target pieces",
            "matrix": shares,
            "rows": parts.target,
            "columns": parts.source,
        },
        bars(
            "dot product of the decoder's state with the encoder's",
            parts.source,
            parts.scores[step],
            title=f"Similarity with each source piece before “{parts.target[step]}”",
        ),
        bars("share, %", parts.source, shares[step], title="… as percentages: softmax"),
        bars(
            "probability, %",
            [piece for piece, _ in parts.next_words[step]],
            [100 * chance for _, chance in parts.next_words[step]],
            title="… and what comes next, given the weighted sum",
        ),
    ]


def _telling_step(parts: Anatomy) -> int:
    """Of the words in the second half, the one whose attention is most divided between two."""
    rows = np.sort(np.asarray(parts.weights), axis=1)[:, ::-1]
    steps = range(len(rows) // 2, len(rows) - 1)
    words = [step for step in steps if parts.target[step].startswith("▁")] or [len(rows) - 1]
    return words[int(rows[words, min(1, rows.shape[1] - 1)].argmax())]


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
    bench.say(f"attention alone, up to {LENGTHS[-1]:,} positions")
    found = cost_with_memory_kept(memory_limit=limit)
    exponents = {kind: plain(one) for kind, one in found.time_exponents.items()}
    stops = [
        f"{COST_NAMES[one.kind]} is not run at length {one.length:,}: {one.reason}"
        for one in found.stopped
    ]
    return {
        "statistic": exponents.get("explicit"),
        "counts": {"lengths measured": sum(row.kind == "explicit" for row in found.rows)},
        "panels": [
            _cost_panel(found, "seconds", 1e3, "time, milliseconds"),
            _cost_panel(found, "peak_bytes", 2**-20, "peak memory, MiB"),
        ],
        "caption": "Logarithmic axes: a square is twice as steep as a line. Memory: "
        f"{found.method}. Fused and explicit attention differ by {found.fused_error:.0e} of the "
        "largest value. "
        + (f"{'; '.join(stops)} (limit {limit / 2**30:.1f} GiB)." if stops else ""),
        "table": _cost_table(found),
        "stopped": [dataclasses.asdict(one) for one in found.stopped],
        "fused_error": found.fused_error,
        "limit_bytes": limit,
    }


def _cost_panel(found: CostReport, key: str, scale: float, label: str) -> dict[str, Any]:
    rows = [dataclasses.asdict(row) for row in found.rows]
    return {
        "kind": "lines",
        "x_label": "length, positions",
        "y_label": label,
        "x_log": True,
        "y_log": True,
        "series": [
            {
                "name": COST_NAMES[kind],
                "x": [row["length"] for row in rows if row["kind"] == kind],
                "y": [scale * row[key] or None for row in rows if row["kind"] == kind],
            }
            for kind in KINDS
        ],
    }


def _cost_table(found: CostReport) -> dict[str, Any]:
    rows = []
    for kind in KINDS:
        last = [row for row in found.rows if row.kind == kind][-1]
        powers = [
            shown(plain(known[kind]), 2) if kind in known else "–"
            for known in (found.time_exponents, found.memory_exponents)
        ]
        rows.append(
            [
                *(COST_NAMES[kind], *powers, f"{last.length:,}", f"{1e3 * last.seconds:,.1f}"),
                f"{last.peak_bytes / 2**20:,.1f}",
            ]
        )
    return table(
        [
            *("attention", "exponent of time", "exponent of memory"),
            *("longest", "time there, ms", "memory there, MiB"),
        ],
        rows,
    )


def _memory_limit() -> int:
    """A quarter of the memory that is free, at most 2 GiB: nothing else shall suffer."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) for line in text.split("\n") if "MemAvailable" in line)
    except (OSError, StopIteration):
        free = 2**21
    return min(2**31, free * 1024 // 4)
