"""The measurement of claim 15: what a model carries over to a new task, and what it forgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nmt.commands.story.bench import Bench, over_seeds
from nmt.commands.story.measures import Numbers
from nmt.commands.story.panels import table
from nmt.evaluation.claims import QUALITY, TRANSFER, transfer
from nmt.evaluation.statistics import bootstrap_mean

MIDDLE = TRANSFER[2]
"""The number of pairs that the rule reads."""


def transfers(bench: Bench) -> Numbers:
    """15: chrF on the new task against the number of its pairs, tuned and from scratch.

    Every seed has drawn pairs and a test set of its own.
    """
    seeds = bench.seeds("transformer", f"tuned_{MIDDLE}", f"scratch_{MIDDLE}")
    sizes = [n for n in TRANSFER if {*seeds} & {*bench.seeds(*both(n))}]
    rungs = (*transfer("tuned"), *transfer("scratch"))
    draws = {seed: bench.only(rungs, seed) for seed in seeds}
    learnt = max(
        np.mean([draw.quality(rung, seed)["bleu"]["score"] for seed, draw in draws.items()])
        for rung in both(MIDDLE)
    )
    differences = [
        np.array(draw.chrf(f"tuned_{MIDDLE}", seed)) - draw.chrf(f"scratch_{MIDDLE}", seed)
        for seed, draw in draws.items()
    ]
    # A size is read with the seeds that have both of its models, so that like is beside like.
    tuned, scratch = (
        [_mean(draws, f"{kind}_{n}", bench.seeds(*both(n))) for n in sizes]
        for kind in ("tuned", "scratch")
    )
    old = dict.fromkeys(seeds, bench.at("transformer"))
    before = _mean(old, "transformer", seeds)
    after = [_mean(old, f"tuned_{n}", bench.seeds(*both(n))) for n in sizes]
    return {
        "statistic": over_seeds([bootstrap_mean(one.tolist()) for one in differences]),
        "counts": {"draws of the pairs (seeds)": len(seeds), QUALITY: int(learnt)},
        "panels": [
            _curves(
                "The new task",
                sizes,
                {"from the old model": tuned, "from nothing": scratch},
            ),
            _curves(
                "The old task",
                sizes,
                {"after the new one": after, "before": [before] * len(sizes)},
            ),
        ],
        "caption": "The new task is the other direction of translation, with the same tokenizer "
        "and pairs that are drawn anew (some 1.4 % of the test sentences were in the old model's "
        f"corpus, the other way round). The old model has {before:.1f} chrF on its own task.",
        "old_task": {"before": before, "after": dict(zip(map(str, sizes), after, strict=True))},
        "table": table(
            [
                *("pairs", "from the old model, chrF", "from nothing, chrF"),
                "old task after it, chrF",
            ],
            [
                [f"{n:,}", *(f"{value:.1f}" for value in row)]
                for n, *row in zip(sizes, tuned, scratch, after, strict=True)
            ],
        ),
    }


def both(size: int) -> tuple[str, str]:
    """The two models that have seen so many pairs."""
    return f"tuned_{size}", f"scratch_{size}"


def _mean(benches: dict[int, Bench], rung: str, seeds: Sequence[int]) -> float:
    """chrF of a rung, mean over sentences and over those of the seeds that have a bench."""
    return float(np.mean([np.mean(benches[s].chrf(rung, s)) for s in seeds if s in benches]))


def _curves(title: str, sizes: Sequence[int], curves: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "kind": "lines",
        "title": title,
        "x_label": "pairs of the new task",
        "y_label": "chrF, mean over sentences",
        "x_log": True,
        "series": [{"name": name, "x": list(sizes), "y": y} for name, y in curves.items()],
    }
