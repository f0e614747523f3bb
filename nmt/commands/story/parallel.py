"""The measurement of claim 7: how fast and how well both models learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmt.commands.story.bench import Bench
from nmt.commands.story.measures import Numbers
from nmt.commands.story.panels import name_of, table
from nmt.evaluation.claims import RATES, rates
from nmt.evaluation.speed import Speed, training_speed
from nmt.evaluation.statistics import plain, slope_interval
from nmt.models.build import count_parameters

MODELS = ("transformer", "bahdanau")


@dataclass(frozen=True, slots=True)
class Learning:
    """Greedy BLEU on dev over the minutes of one training."""

    rung: str
    rate: float
    minutes: list[float]
    bleu: list[float]

    @property
    def best(self) -> float:
        return max(self.bleu, default=0.0)

    def at(self, minute: float) -> float | None:
        """What the last validation before it found; None before the first."""
        before = [
            value for when, value in zip(self.minutes, self.bleu, strict=True) if when <= minute
        ]
        return before[-1] if before else None


def parallel(bench: Bench) -> Numbers:
    """7: training tokens/s of both models against sentence length, and quality against time."""
    seed = bench.seeds(*MODELS)[0]
    tried = {model: _tried(bench, model, seed) for model in MODELS}
    chosen = {model: max(found, key=lambda one: one.best) for model, found in tried.items()}
    models = {name: bench.translator(one.rung, seed).run.model for name, one in chosen.items()}
    speeds = {name: training_speed(model) for name, model in models.items()}
    lengths = [one.length for one in speeds["transformer"]]
    ratios = [
        a.tokens_per_second / b.tokens_per_second
        for a, b in zip(speeds["transformer"], speeds["bahdanau"], strict=True)
    ]
    sizes = {name: count_parameters(model).body for name, model in models.items()}
    return {
        "statistic": plain(slope_interval(np.log(lengths).tolist(), np.log(ratios).tolist())),
        "counts": {"lengths timed": len(lengths)},
        "panels": [_speeds(speeds), _qualities(chosen)],
        "caption": "Above: forward and backward over batches of equal size, in fp32. Below: "
        "validations of the two runs with the better learning rates, in the precision of their "
        "recipes; minutes are those of trainings that ran beside others. First seed.",
        "note": _note(tried, chosen, sizes),
        "rates": {
            name: {_rate(one.rate): one.best for one in found} for name, found in tried.items()
        },
        "parameters": sizes,
        "table": table(
            ["length", *(f"{name_of(name)}, tokens/s" for name in MODELS), "ratio"],
            [
                [
                    length,
                    *(f"{speeds[name][i].tokens_per_second:,.0f}" for name in MODELS),
                    f"{ratio:.2f}",
                ]
                for i, (length, ratio) in enumerate(zip(lengths, ratios, strict=True))
            ],
        ),
    }


def _speeds(speeds: Mapping[str, list[Speed]]) -> dict[str, Any]:
    return {
        "kind": "lines",
        "x_label": "source and target length, tokens",
        "y_label": "training tokens a second",
        "x_log": True,
        "y_log": True,
        "series": [
            {
                "name": name_of(name),
                "x": [one.length for one in found],
                "y": [one.tokens_per_second for one in found],
            }
            for name, found in speeds.items()
        ],
    }


def _qualities(chosen: Mapping[str, Learning]) -> dict[str, Any]:
    return {
        "kind": "lines",
        "title": "Quality on dev against time",
        "x_label": "minutes of training",
        "y_label": "BLEU, greedy",
        "series": [
            {"name": f"{name_of(name)}, {_rate(one.rate)}", "x": one.minutes, "y": one.bleu}
            for name, one in chosen.items()
        ],
    }


def _tried(bench: Bench, model: str, seed: int) -> list[Learning]:
    """The trainings of a model at the rates of the grid; where there are none, the rung itself."""
    rungs = [rung for rung in bench.have((model, *rates(model))) if seed in bench.seeds(rung)]
    found = [_learning(bench, rung, seed) for rung in rungs]
    return [one for one in found if one.rate in RATES] or found


def _learning(bench: Bench, rung: str, seed: int) -> Learning:
    found = Learning(rung, bench.config(rung, seed).optim.learning_rate, [], [])
    seconds = 0.0
    for record in bench.log(rung, seed):
        seconds = record.get("seconds", seconds)
        if record["kind"] == "validation" and "bleu" in record:
            found.minutes.append(seconds / 60)
            found.bleu.append(record["bleu"])
    return found


def _note(
    tried: Mapping[str, list[Learning]], chosen: Mapping[str, Learning], sizes: Mapping[str, int]
) -> str:
    """Which learning rates were tried, how large the models are, and who was ahead when."""
    by_rate = "; ".join(
        f"{name_of(name)} "
        + ", ".join(
            f"{one.best:.1f} with {_rate(one.rate)}"
            for one in sorted(found, key=lambda one: one.rate)
        )
        for name, found in tried.items()
    )
    whole = all({one.rate for one in found} == set(RATES) for found in tried.values())
    grid = ", ".join(map(_rate, RATES))
    end = min((one.minutes[-1] for one in chosen.values() if one.minutes), default=0.0)
    reached = {name_of(name): one.at(end) for name, one in chosen.items()}
    ahead = " and ".join(
        f"{name} {'not validated yet' if bleu is None else f'{bleu:.1f}'}"
        for name, bleu in reached.items()
    )
    size = " and ".join(f"{name_of(name)} {sizes[name]:,}" for name in chosen)
    return (
        f"Best BLEU on dev by learning rate: {by_rate}"
        + ("" if whole else f" (not all of {grid} have a finished run of both)")
        + f". Parameters without embeddings: {size}. After {end:.1f} minutes, when the first of "
        f"the two had ended: {ahead} BLEU on dev."
    )


def _rate(rate: float) -> str:
    return f"{1000 * rate:g}e-3"
