"""The measurement of claim 9: how many heads, and what each one does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nmt.commands.story.bench import Bench
from nmt.commands.story.measures import Numbers
from nmt.commands.story.panels import HELD, by_category, name_of, table
from nmt.commands.story.sweeps import asked
from nmt.evaluation.claims import heads
from nmt.evaluation.probes.heads import ablate, head_statistics
from nmt.evaluation.statistics import mean_interval, plain

DISSECTED = ("heads_each_large_4", "heads_each_small_4")
"""Whose heads are looked at one by one: the first that is there."""
READ = 150
"""Test sentences over which each head is looked at and silenced."""


def head_counts(bench: Bench) -> Numbers:
    """9: best dev loss by number of heads, corpus size and what is held fixed; the heads of one."""
    losses = {
        rung: [best_loss(bench.log(rung, seed)) for seed in bench.seeds(rung)]
        for rung in asked(bench, 9)
    }
    few, many = "heads_each_small_4", "heads_each_small_16"
    differences = [
        best_loss(bench.log(many, seed))["dev"] - best_loss(bench.log(few, seed))["dev"]
        for seed in bench.seeds(few, many)
    ]
    panels, about = _each_head(bench)
    return {
        "statistic": plain(mean_interval(differences)),
        "counts": {"seeds": len(differences)},
        "panels": [*_loss_panels(losses), *panels],
        "caption": "Loss at the step with the best dev loss, mean over seeds; the training loss "
        f"is that of the updates before it, with dropout. {about}",
        "table": table(
            ["model", "dev loss", "training loss", "best step"],
            [
                [
                    name_of(rung),
                    f"{np.mean([one['dev'] for one in found]):.3f}",
                    f"{np.mean([one['train'] for one in found]):.3f}",
                    ", ".join(f"{one['step']:,.0f}" for one in found),
                ]
                for rung, found in losses.items()
            ],
        ),
    }


def best_loss(log: list[dict[str, Any]]) -> dict[str, float]:
    """Dev loss, training loss and step of the validation with the lowest dev loss."""
    best = min((r for r in log if r["kind"] == "validation"), key=lambda r: r["loss"])
    return losses_at(log, best["step"])


def losses_at(log: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Dev and training loss, both without label smoothing, as logged last before or at a step."""
    dev = [r["loss"] for r in log if r["kind"] == "validation" and r["step"] <= step]
    train = [math.log(r["perplexity"]) for r in log if r["kind"] == "train" and r["step"] <= step]
    return {"dev": dev[-1], "train": train[-1], "step": step}


def _loss_panels(losses: Mapping[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Losses against the number of heads, a panel for each size of the corpus."""
    panels = []
    for size in ("small", "large"):
        series = [
            {
                "name": f"{kept}, {which}",
                "x": [int(rung.rpartition("_")[2]) for rung in rungs],
                "y": [float(np.mean([one[which] for one in losses[rung]])) for rung in rungs],
            }
            for kind, kept in HELD.items()
            for which in ("dev", "train")
            if (rungs := [rung for rung in heads(kind, size) if rung in losses])
        ]
        if series:
            panels.append(
                {
                    "kind": "lines",
                    "title": f"{size} corpus",
                    "x_label": "heads",
                    "y_label": "loss, nats per token",
                    "x_log": True,
                    "series": series,
                }
            )
    return panels


def _each_head(bench: Bench) -> tuple[list[dict[str, Any]], str]:
    """Panels of what each head of one model does, and the words that go with them."""
    rung = bench.have(DISSECTED)[0]
    seed = bench.seeds(rung)[0]
    translator, test = bench.translator(rung, seed), bench.test()
    pairs = test.sources[:READ], test.references[0][:READ]
    bench.say(f"{rung}-s{seed}: each head over {len(pairs[0])} sentences, and without it")
    found = head_statistics(translator.explain_pairs(*pairs))
    lost = ablate(translator.run.model, lambda: bench.loss(rung, seed, READ))
    name = name_of(rung)
    return [
        head_panel(
            "entropy, nats",
            {one.name: one.entropy for one in found},
            f"How spread each head looks ({name})",
        ),
        head_panel(
            "mean offset, tokens",
            {one.name: one.offset for one in found},
            "How far ahead of its own place it looks",
        ),
        head_panel(
            "loss added, nats per token",
            {head: without - lost.whole for head, without in lost.without.items()},
            "What is lost without it",
        ),
    ], (
        f"Then the heads of one model ({name}, seed {seed}) over {len(pairs[0])} test sentences, "
        f"whose loss is {lost.whole:.3f}: an entropy of 0 is one place, an offset of −1 the token "
        "before, and heads of the same number in two layers have nothing in common."
    )


def head_panel(label: str, values: Mapping[str, float], title: str) -> dict[str, Any]:
    """A value of each head over kind and layer; lines end where a kind does.

    Args:
        values: by name of the head, ``cross.0.3``.
    """
    places: list[str] = []
    for kind in ("encoder", "decoder", "cross"):
        layers = dict.fromkeys(n.rpartition(".")[0] for n in values if n.startswith(f"{kind}."))
        places += [*([""] if places and layers else []), *layers]
    numbers = sorted({int(name.rpartition(".")[2]) for name in values})
    return by_category(
        "layer of the encoder (e), the decoder (d) and cross-attention (c)",
        label,
        [place[:1] + place.rpartition(".")[2] for place in places],
        [
            {"name": f"head {number}", "y": [values.get(f"{place}.{number}") for place in places]}
            for number in numbers
        ],
        title=title,
        marks=[0.0],
    )
