"""The measurement of claim 13: what a model is worth away from what it was trained on."""

from __future__ import annotations

from typing import Any

from nmt.commands.story.bench import Bench
from nmt.commands.story.heads import losses_at
from nmt.commands.story.measures import Numbers, quality_cells
from nmt.commands.story.panels import name_of, table
from nmt.commands.story.sweeps import asked, gain

READ = 300
"""Sentences of the other domain over which the loss of the travelling model is taken."""


def travel(bench: Bench) -> Numbers:
    """13: on the other domain, chrF of the model of that domain minus the travelling one."""
    abroad = bench.at("domain")
    rungs = asked(bench, 13)
    here, there = bench.data().name, abroad.data().name
    losses = _losses(bench, abroad)
    return {
        "statistic": gain(abroad, [("domain", "transformer")]),
        "counts": {"sentences of another domain": len(abroad.test().sources)},
        "panels": [_curves(bench, losses, here, there)],
        "caption": f"The Transformer of {here}, first seed, its best checkpoint: a loss of "
        f"{losses['train']:.2f} in training, {losses['dev']:.2f} on dev and {losses['abroad']:.2f} "
        f"on {there}. The training loss has label smoothing and dropout in it, which make it "
        f"larger. {len(bench.prepared().train):,} pairs of {here} and "
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


def _losses(bench: Bench, abroad: Bench) -> dict[str, float]:
    """Nats per token of the Transformer's best checkpoint: training, dev, the other domain."""
    seed = bench.seeds("transformer", "domain")[0]
    step = bench.translator("transformer", seed).run.step
    return losses_at(bench.log("transformer", seed), step) | {
        "abroad": abroad.loss("transformer", seed, READ)
    }


def _curves(bench: Bench, losses: dict[str, float], here: str, there: str) -> dict[str, Any]:
    """Training and dev loss at each validation, and what the best checkpoint has abroad."""
    log = bench.log("transformer", bench.seeds("transformer", "domain")[0])
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
            {"name": there, "x": [losses["step"]], "y": [losses["abroad"]]},
        ],
    }
