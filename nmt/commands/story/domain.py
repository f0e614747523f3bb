"""The measurement of claim 13: what a model is worth away from what it was trained on."""

from __future__ import annotations

from typing import Any

from nmt.commands.story.bench import Bench
from nmt.commands.story.heads import losses_at
from nmt.commands.story.measures import Numbers, quality_cells
from nmt.commands.story.panels import name_of, table
from nmt.commands.story.sweeps import asked, gain

READ = 300
"""Sentences of the other domain over which a loss of the travelling model is taken."""


def travel(bench: Bench) -> Numbers:
    """13: on the other domain, chrF of the model of that domain minus the travelling one."""
    abroad = bench.at("domain")
    rungs = asked(bench, 13)
    here, there = bench.data().name, abroad.data().name
    seed = bench.seeds("transformer", "domain")[0]
    log, by_step = bench.log("transformer", seed), abroad.losses("transformer", seed, READ)
    best = bench.translator("transformer", seed).run.step
    losses = losses_at(log, best) | {"abroad": by_step[best]}
    return {
        "statistic": gain(abroad, [("domain", "transformer")]),
        "counts": {"sentences of another domain": len(abroad.test().sources)},
        "panels": [_curves(log, by_step, here, there)],
        "caption": f"The Transformer of {here}, first seed, its best checkpoint: a loss of "
        f"{losses['train']:.2f} in training, {losses['dev']:.2f} on dev and {losses['abroad']:.2f} "
        f"on {there}. The training loss is that of the updates before it, with dropout, which "
        f"makes it larger. {len(bench.prepared().train):,} pairs of {here} and "
        f"{len(abroad.prepared().train):,} of {there}.",
        "table": table(
            [
                *("model", "trained on"),
                *(f"{metric} on {name}" for name in (here, there) for metric in ("BLEU", "chrF")),
            ],
            [
                [
                    *(name_of(rung), bench.at(rung).data().name),
                    *(*quality_cells(bench, rung), *quality_cells(abroad, rung)),
                ]
                for rung in rungs
            ],
        ),
        "losses": losses,
        "gain_at_home": gain(bench, [("transformer", "domain")]),
    }


def _curves(
    log: list[dict[str, Any]], abroad: dict[int, float], here: str, there: str
) -> dict[str, Any]:
    """Training and dev loss at each validation; abroad, at those whose checkpoint was kept."""
    found = [losses_at(log, record["step"]) for record in log if record["kind"] == "validation"]
    steps = [one["step"] for one in found]
    return {
        "kind": "lines",
        "title": f"Loss of the Transformer of {here}",
        "x_label": "updates",
        "y_label": "loss, nats per token",
        "series": [
            {"name": "training", "x": steps, "y": [one["train"] for one in found]},
            {"name": "dev", "x": steps, "y": [one["dev"] for one in found]},
            {"name": there, "x": list(abroad), "y": list(abroad.values())},
        ],
    }
